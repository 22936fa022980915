#![no_main]
//! A GGUF file: header, configuration, weights, graph.

#[path = "common.rs"]
mod common;

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow},
    weights::GgufLoader,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::with_file("model.gguf", bytes, |path| {
        let config = GemmaConfig::from_gguf(path);
        if let (Ok(config), Ok(mut loader)) = (config, GgufLoader::from_file(path)) {
            GemmaFlow::new(&config).lm_head().build(&mut loader).ok();
        }
        if let Ok(loader) = GgufLoader::from_file(path) {
            common::use_up(&mut loader.include_mtp(true));
        }
    });
});
