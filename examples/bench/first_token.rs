//! `--first-token`: from nothing to the first token of a 16-token prompt, part by part.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use gemmaflow::{
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, Opened},
    weights::WeightLoader,
};
use serde_json::{Value, json};

use crate::{Arguments, common, tokens};

const PROMPT: usize = 16;

/// What was done, how long it took in milliseconds, and the pipelines made meanwhile.
type Part = (&'static str, f64, u64);

pub fn run(name: &str, config: GemmaConfig, weights: &mut dyn WeightLoader, arguments: &Arguments) -> Result<()> {
    let kept = arguments.pipelines.as_ref().and_then(|file| std::fs::read(file).ok());
    let vocab = config.vocab_size;
    let mut parts: Vec<Part> = Vec::new();
    let start = Instant::now();
    let opened = arguments.device.open(&GpuOptions { pipeline_cache: kept, ..GpuOptions::default() })?;
    let Opened::Gpu(context) = opened else { bail!("--first-token needs a GPU adapter") };
    let mut last = start;
    let mut done = |what, parts: &mut Vec<Part>| {
        let made = context.counters().snapshot().pipelines_created - parts.iter().map(|part| part.2).sum::<u64>();
        parts.push((what, last.elapsed().as_secs_f64() * 1e3, made));
        last = Instant::now();
    };
    done("open the device", &mut parts);
    let options = GeneratorOptions { context: Some(1024.min(config.max_position_embeddings)), ..GeneratorOptions::default() };
    let mut generator = GemmaGenerator::with_options(config, weights, Device::Context(context.clone()), options)?;
    context.wait_idle("the upload of the weights")?;
    done("load until the weights are resident", &mut parts);
    for what in ["first token of the first prompt", "first token of a second prompt"] {
        generator.prefill(&tokens(PROMPT, parts.len(), vocab))?;
        generator.step_cached(&SampleOpts::greedy())?;
        done(what, &mut parts);
    }
    for what in ["second token: the first decode step", "third token"] {
        generator.step_cached(&SampleOpts::greedy())?;
        done(what, &mut parts);
    }
    let blob = format!("{:?}", generator.pipeline_blob());
    if let (Some(file), Some(bytes)) = (&arguments.pipelines, generator.pipeline_cache_bytes()) {
        std::fs::write(file, bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    }
    let part = |(what, ms, pipelines): &Part| json!({ "what": what, "ms": ms, "pipelines": pipelines });
    let report = json!({
        "model": name,
        "adapter": generator.stats().device,
        "kept_pipelines": blob,
        "prompt": PROMPT,
        "first_token_ms": parts[2].1,
        "from_nothing_ms": parts[..3].iter().map(|part| part.1).sum::<f64>(),
        "parts": parts.iter().map(part).collect::<Vec<Value>>(),
    });
    if arguments.json {
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let mut text = format!("{name} on {}; kept pipelines: {blob}\n", generator.stats().device);
    for (what, ms, pipelines) in &parts {
        text.push_str(&format!("{what:38} {ms:9.1} ms, {pipelines} pipelines made\n"));
    }
    Ok(common::print(&text)?)
}
