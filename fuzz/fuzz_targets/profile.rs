#![no_main]
//! A compile profile.

#[path = "common.rs"]
mod common;

use gemmaflow::profile::CompileProfile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::with_file("gemma.rlx.toml", bytes, |path| {
        for decode in [false, true] {
            CompileProfile::from_file(path, decode).ok();
        }
    });
});
