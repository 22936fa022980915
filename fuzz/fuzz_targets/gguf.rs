#![no_main]
//! A GGUF file: header, configuration, weights, graph.

#[path = "common.rs"]
mod common;

use gemmaflow::{
    gemma::{GemmaConfig, GemmaFlow},
    text::Tokenizer,
    checkpoint::GgufLoader,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::with_file("model.gguf", bytes, |path| {
        let config = GemmaConfig::from_gguf(path);
        if let (Ok(config), Ok(mut loader)) = (config, GgufLoader::from_file(path)) {
            GemmaFlow::new(&config).lm_head().build(&mut loader).ok();
        }
        if let Ok(tokenizer) = Tokenizer::from_gguf(path) {
            tokenizer.encode("a b\u{2581} <bos>\n", true).ok();
        }
        if let Ok(loader) = GgufLoader::from_file(path) {
            common::use_up(&mut loader.include_mtp(true));
        }
    });
});
