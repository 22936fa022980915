//! Bytes as a sound file, and its features.
#![no_main]

use gemmaflow::audio::{Audio, AudioFeatureExtractor, AudioLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = AudioLimits { max_seconds: 5, allow_damaged: bytes.len() % 2 == 0, ..AudioLimits::default() };
    let Ok(clip) = Audio::from_bytes(bytes, &limits) else { return };
    for extractor in [AudioFeatureExtractor::gemma4(), AudioFeatureExtractor::gemma3n()] {
        extractor.extract(clip.samples()).ok();
    }
});
