//! usage: bindgen MODULE FOLDER
//!
//! Writes `gemmaflow_web.js`, its types and the module that it loads into the folder. The program `wasm-bindgen` does the
//! same, but brings a test runner with it, which takes minutes to compile.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let module = arguments.next().context("the module's path is missing")?;
    let folder = arguments.next().context("the folder's path is missing")?;
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen
        .input_path(module)
        .out_name("gemmaflow_web")
        .web(true)?
        .omit_default_module_path(false)
        .typescript(true)
        .remove_name_section(true)
        .generate(folder)
}
