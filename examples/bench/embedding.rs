//! How fast texts become vectors.

use std::time::Instant;

use anyhow::Result;
use gemmaflow::{
    embed::{EmbedderOptions, GemmaEmbedder},
    gemma::GemmaConfig,
    weights::WeightLoader,
};
use serde_json::json;

use crate::{Arguments, common, tokens};

/// Texts that are given at once.
const TEXTS: usize = 8;

pub fn run(name: &str, config: GemmaConfig, weights: &mut dyn WeightLoader, arguments: &Arguments) -> Result<()> {
    let (vocab, length) = (config.vocab_size, arguments.prompt[0]);
    let options = EmbedderOptions { quantise: arguments.quantize.map(Into::into), ..EmbedderOptions::default() };
    let embedder = GemmaEmbedder::with_options(config, weights, arguments.device.clone(), options)?;
    let texts: Vec<Vec<u32>> = (0..TEXTS).map(|text| tokens(length, text, vocab)).collect();
    let mut rates = Vec::new();
    for rep in 0..=arguments.reps {
        let start = Instant::now();
        embedder.embed(&texts)?;
        rates.extend(common::rate(TEXTS * length, start.elapsed()).filter(|_| rep > 0));
    }
    let (rate, adapter) = (common::median(rates), embedder.adapter().unwrap_or("CPU reference"));
    let report = if arguments.json {
        json!({ "model": name, "adapter": adapter, "texts": TEXTS, "tokens": length, "tokens_per_s": rate }).to_string()
    } else {
        format!("{name} on {adapter}: {rate:.1} tokens/s, {TEXTS} texts of {length} tokens at once")
    };
    Ok(common::print(&format!("{report}\n"))?)
}
