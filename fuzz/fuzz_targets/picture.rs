//! Bytes as a picture file, and as a patch of pixels that a tower is shown.
#![no_main]

use gemmaflow::{
    gemma::{SiglipConfig, VisionConfig},
    image::{Image, ImageLimits, ImageProcessor},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = ImageLimits { max_pixels: 1 << 20, ..ImageLimits::default() };
    let Ok(image) = Image::from_bytes(bytes, &limits) else { return };
    let config = SiglipConfig {
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        image_size: 56,
        patch_size: 14,
        layer_norm_eps: 1e-6,
        mm_tokens_per_image: 16,
    };
    if let Some(processor) = ImageProcessor::new(&VisionConfig::Siglip(config), 16) {
        processor.patches(&image).ok();
    }
});
