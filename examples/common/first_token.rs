//! From nothing to the first tokens, part by part.

use std::time::Instant;

use anyhow::{Result, bail};
use gemmaflow::{
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, Opened},
    weights::WeightLoader,
};

/// Tokens of the prompt.
pub const PROMPT: usize = 16;

/// The parts that lead to the first token.
pub const FIRST: usize = 3;

/// One part.
pub struct Part {
    pub what: &'static str,
    pub ms: f64,
    /// Pipelines that were made meanwhile.
    pub pipelines: u64,
}

/// Opens the device, loads the model and takes five tokens, two of them the first of a prompt. The generator has run.
pub fn measure(
    config: GemmaConfig,
    weights: &mut dyn WeightLoader,
    device: &Device,
    gpu: &GpuOptions,
    options: GeneratorOptions,
) -> Result<(Vec<Part>, GemmaGenerator)> {
    let vocab = config.vocab_size;
    let mut parts: Vec<Part> = Vec::new();
    let mut last = Instant::now();
    let Opened::Gpu(context) = device.open(gpu)? else { bail!("the time to the first token needs a GPU adapter") };
    let mut done = |what, parts: &mut Vec<Part>| {
        let made = context.counters().snapshot().pipelines_created - parts.iter().map(|part| part.pipelines).sum::<u64>();
        parts.push(Part { what, ms: last.elapsed().as_secs_f64() * 1e3, pipelines: made });
        last = Instant::now();
    };
    done("open the device", &mut parts);
    let context_size = Some(1024.min(config.max_position_embeddings));
    let options = GeneratorOptions { context: context_size, ..options };
    let mut generator = GemmaGenerator::with_options(config, weights, Device::Context(context.clone()), options)?;
    context.wait_idle("the upload of the weights")?;
    done("load until the weights are resident", &mut parts);
    for what in ["first token of the first prompt", "first token of a second prompt"] {
        generator.prefill(tokens(PROMPT, parts.len(), vocab))?;
        generator.step_cached(&SampleOpts::greedy())?;
        done(what, &mut parts);
    }
    for what in ["second token: the first decode step", "third token"] {
        generator.step_cached(&SampleOpts::greedy())?;
        done(what, &mut parts);
    }
    Ok((parts, generator))
}

/// Tokens that mean nothing; two of different `seed` begin differently, so that neither finds rows of the other.
pub fn tokens(count: usize, seed: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 2_654_435_761 + seed * 40_503 + 17) % vocab) as u32).collect()
}
