#![no_main]
//! A `config.json`.

use gemmaflow::gemma::GemmaConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = GemmaConfig::from_json(text) {
        config.validate().expect("what was read is valid");
    }
});
