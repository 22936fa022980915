#![no_main]
//! A safetensors file.

#[path = "common.rs"]
mod common;

use gemmaflow::checkpoint::SafetensorsLoader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::with_file("model.safetensors", bytes, |path| {
        if let Ok(mut loader) = SafetensorsLoader::open(path) {
            common::use_up(&mut loader);
        }
    });
});
