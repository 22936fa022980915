//! `--first-token`: from nothing to the first token of a 16-token prompt, part by part.

use anyhow::{Result, anyhow};
use gemmaflow::{gemma::GemmaConfig, generate::GeneratorOptions, runtime::GpuOptions, weights::WeightLoader};
use serde_json::{Value, json};

use crate::{
    Arguments, common,
    parts::{self, FIRST, PROMPT, Part},
};

pub fn run(name: &str, config: GemmaConfig, weights: &mut dyn WeightLoader, arguments: &Arguments) -> Result<()> {
    let kept = arguments.pipelines.as_ref().and_then(|file| std::fs::read(file).ok());
    let gpu = GpuOptions { pipeline_cache: kept, ..GpuOptions::default() };
    let (parts, generator) = parts::measure(config, weights, &arguments.device, &gpu, GeneratorOptions::default())?;
    let blob = format!("{:?}", generator.pipeline_blob());
    if let (Some(file), Some(bytes)) = (&arguments.pipelines, generator.pipeline_cache_bytes()) {
        std::fs::write(file, bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    }
    let part = |part: &Part| json!({ "what": part.what, "ms": part.ms, "pipelines": part.pipelines });
    let report = json!({
        "model": name,
        "adapter": generator.stats().device,
        "kept_pipelines": blob,
        "prompt": PROMPT,
        "first_token_ms": parts[FIRST - 1].ms,
        "from_nothing_ms": parts[..FIRST].iter().map(|part| part.ms).sum::<f64>(),
        "parts": parts.iter().map(part).collect::<Vec<Value>>(),
    });
    if arguments.json {
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let mut text = format!("{name} on {}; kept pipelines: {blob}\n", generator.stats().device);
    for Part { what, ms, pipelines } in &parts {
        text.push_str(&format!("{what:38} {ms:9.1} ms, {pipelines} pipelines made\n"));
    }
    Ok(common::print(&text)?)
}
