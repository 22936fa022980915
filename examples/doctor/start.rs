//! The first token of a process, with and without pipelines that were kept.

use anyhow::{Result, anyhow};
use gemmaflow::{
    gemma::{GemmaConfig, random_weights},
    generate::GeneratorOptions,
    ir::DType,
    runtime::{Device, GpuOptions},
};

pub use crate::first_token::tokens;
use crate::{
    first_token::{self, Part},
    parts::Scope,
    report::{FirstStart, Step},
};

const SHAPE: &str = "gemma-3-270m";

/// The section of the report. Cold is without pipelines that we kept: the driver may keep its own, which cannot be
/// turned off here.
///
/// # Errors
/// What the device says.
pub fn measure(scope: &Scope, device: &Device) -> Result<()> {
    let mut section = FirstStart { model: format!("{SHAPE}, random bf16 weights"), ..FirstStart::default() };
    let steps = |parts: Vec<Part>| parts.into_iter().map(|Part { what, ms, pipelines }| Step { what, ms, pipelines }).collect();
    let start = |kept: Option<Vec<u8>>| {
        let config = GemmaConfig::preset(SHAPE).ok_or_else(|| anyhow!("there is no shape {SHAPE}"))?;
        let mut weights = random_weights(&config, DType::BF16, 1)?;
        let gpu = GpuOptions { pipeline_cache: kept, ..GpuOptions::default() };
        let options = GeneratorOptions { cancel: Some(scope.cancel.clone()), ..GeneratorOptions::default() };
        first_token::measure(config, &mut weights, device, &gpu, options)
    };
    scope.at("without kept pipelines");
    let (parts, generator) = start(None)?;
    let kept = generator.pipeline_cache_bytes();
    drop(generator);
    section.cold = steps(parts);
    section.kept_bytes = kept.as_ref().map_or(0, Vec::len);
    scope.update(|report| report.first_start = Some(section.clone()));
    scope.at("with kept pipelines");
    let (parts, generator) = start(kept)?;
    section.kept = format!("{:?}", generator.pipeline_blob());
    section.warm = steps(parts);
    scope.update(|report| report.first_start = Some(section));
    Ok(())
}
