//! What a browser's GPU is, and whether it computes right.

use gemmaflow::{
    GemmaConfig, GemmaGenerator, GeneratorOptions, SampleOpts,
    gemma::random_weights,
    ir::DType,
    runtime::{Device, GpuOptions, Opened, adapters_async},
};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{Fault, options, to_js};

/// A small model of the family with the most sorts of kernels, for random weights.
const SMALL: &str = r#"{"model_type": "gemma3_text", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 8,
    "sliding_window_pattern": 3}"#;

/// Tokens that are compared.
const TOKENS: usize = 8;

/// The adapters that the browser hands out, in a line each.
#[wasm_bindgen]
pub async fn adapters() -> Vec<String> {
    adapters_async().await.iter().map(ToString::to_string).collect()
}

/// The adapter with its limits, and the tokens of a small random model there and on the processor.
#[wasm_bindgen]
pub async fn doctor() -> Result<JsValue, Fault> {
    let Opened::Gpu(gpu) = Device::Gpu.open_async(&GpuOptions::default()).await? else {
        return to_js(&json!({ "adapter": null }));
    };
    let begun = web_time::Instant::now();
    let computed = tokens(Device::Context(gpu.clone())).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let expected = tokens(Device::Cpu).await?;
    to_js(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "adapter": options::adapter(Some(&gpu)),
        "check": { "agrees": computed == expected, "tokens": computed, "expected": expected, "seconds": seconds },
    }))
}

async fn tokens(device: Device) -> Result<Vec<u32>, Fault> {
    let config = GemmaConfig::from_json(SMALL)?;
    let mut weights = random_weights(&config, DType::F32, 1)?;
    let mut generator = GemmaGenerator::with_options_async(config, &mut weights, device, GeneratorOptions::default()).await?;
    generator.prefill(&[2, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43][..])?;
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(generator.step_async(&SampleOpts::greedy()).await?);
    }
    Ok(tokens)
}
