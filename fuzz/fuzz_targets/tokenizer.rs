#![no_main]
//! A `tokenizer.json`, and text through it.

#[path = "common.rs"]
mod common;

use gemmaflow::text::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::with_file("tokenizer.json", bytes, |path| {
        if let Ok(tokenizer) = Tokenizer::from_file(path)
            && let Ok(ids) = tokenizer.encode("a b\u{2581} <bos>\n", true)
        {
            tokenizer.decode(&ids).ok();
        }
    });
});
