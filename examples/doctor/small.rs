//! Small models of several families on the device against the reference: kernels that several ops share and caches that
//! a step reads, which single ops do not show.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use gemmaflow::{
    gemma::{GemmaConfig, random_weights},
    generate::{CancelToken, GemmaGenerator, GeneratorOptions},
    ir::{DType, Packed},
    profile::CompileProfile,
    runtime::{Device, GpuContext},
    weights::WeightLoader,
};

use crate::{
    parts::Scope,
    report::{SmallModel, without_folders},
    start::tokens,
    stored::Stored,
};

/// Tokens of the prompt, which go through matrices where there are any, and steps after it.
const PROMPT: usize = 40;
const STEPS: usize = 3;
const CONTEXT: usize = 64;

/// Trials of a tier, without those in the numbers that matrices take.
pub const COUNT: usize = MODELS.len();

/// Shapes, with as many layers as show every kind, and how weights are stored.
const MODELS: [(&str, usize, &str); 6] = [
    ("gemma-3-1b", 6, "bf16"),
    ("gemma-4-e2b", 10, "bf16"),
    ("gemma-2-2b", 2, "bf16"),
    ("gemma-3-1b", 6, "Q4_0"),
    ("gemma-3-1b", 6, "Q8_0"),
    ("gemma-2-2b", 2, "Q4_0"),
];

/// The largest difference of a logit in f32 that is allowed, over the root mean square of all. On lavapipe 2·10⁻⁵ is
/// the most.
const EXACT: f64 = 1e-3;
/// The root mean square of the differences where products round to f16, over that of the logits.
const ROUNDED: f64 = 3e-2;

/// A released model's shape with narrower layers, few of them, and few tokens.
fn narrow(shape: &str, layers: usize) -> Result<GemmaConfig> {
    let mut config = GemmaConfig::preset(shape).ok_or_else(|| anyhow!("there is no shape {shape}"))?;
    config.effective_num_layers = Some(layers);
    config.hidden_size = 256;
    config.intermediate_size = 512;
    config.vocab_size = 1024;
    if let Some(input) = &mut config.per_layer_input {
        input.vocab_size = input.vocab_size.map(|rows| rows.min(1024));
    }
    config.sliding_window = config.sliding_window.map(|_| 24);
    // Of those that share keys as many are left as come before.
    config.num_kv_shared_layers = if config.num_kv_shared_layers > 0 { config.num_hidden_layers - layers / 2 } else { 0 };
    // Unscaled scores of random queries and keys choose one key each: then rounding decides which.
    config.query_pre_attn_scalar = Some(256.0);
    Ok(config)
}

fn logits(model: (&str, usize, &str), device: Device, compute: &str, cancel: &CancelToken) -> Result<Vec<f32>> {
    let (shape, layers, stored) = model;
    let config = narrow(shape, layers)?;
    let vocab = config.vocab_size;
    let profile = |decode| CompileProfile::from_toml(&format!("[precision]\ncompute = '{compute}'"), decode);
    let options = GeneratorOptions {
        context: Some(CONTEXT),
        prefill_profile: profile(false)?,
        decode_profile: profile(true)?,
        cancel: Some(cancel.clone()),
        ..GeneratorOptions::default()
    };
    let mut weights = random_weights(&config, DType::BF16, 1)?;
    let mut packed;
    let loader: &mut dyn WeightLoader = match Packed::by_name(stored) {
        Some(format) => {
            packed = Stored::new(&mut weights, format);
            &mut packed
        }
        None => &mut weights,
    };
    let mut generator = GemmaGenerator::with_options(config, loader, device, options)?;
    generator.set_cancel(cancel.clone());
    let tokens = tokens(PROMPT + STEPS, 1, vocab);
    let mut logits = generator.all_logits(&tokens[..PROMPT])?;
    for token in &tokens[PROMPT..] {
        logits.extend(generator.decode_get_logits(*token)?);
    }
    Ok(logits)
}

/// The largest difference and the root mean square of all, over that of what is expected; infinite where there are no
/// numbers.
fn apart(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let mean = |values: &mut dyn Iterator<Item = f64>| (values.map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    let size = mean(&mut expected.iter().map(|&x| x.into())).max(f64::MIN_POSITIVE);
    let differences: Vec<f64> = found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect();
    if found.len() != expected.len() || differences.iter().any(|d| !d.is_finite()) {
        return (f64::INFINITY, f64::INFINITY);
    }
    let largest = differences.iter().fold(0.0, |most: f64, d| most.max(d.abs()));
    (largest / size, mean(&mut differences.into_iter()) / size)
}

/// Tries them in one tier, as far as there is time. `expected` holds what the reference said before.
///
/// # Errors
/// What the reference or the time says.
pub fn examine(tier: &'static str, scope: &Scope, context: &Arc<GpuContext>, expected: &mut Vec<Vec<f32>>) -> Result<()> {
    let matrices = context.capabilities().target().cooperative.is_some();
    if matrices {
        scope.change(|report| report.models_not_reached += COUNT);
    }
    for (index, model) in MODELS.into_iter().enumerate() {
        for compute in if matrices { &["f32", "auto"][..] } else { &["f32"] } {
            if scope.over() {
                return Ok(());
            }
            let (shape, layers, stored) = model;
            scope.at(&format!("tier {tier}, a narrow {shape} of {layers} layers in {stored}, products in {compute}"));
            if expected.len() == index {
                expected.push(logits(model, Device::Cpu, "f32", &scope.cancel)?);
            }
            let name = format!("narrow {shape}, {layers} layers, {stored}");
            let found = logits(model, Device::Context(context.clone()), compute, &scope.cancel);
            if found.is_err() && scope.over() {
                return Ok(());
            }
            let mut verdict = SmallModel { model: name, tier, numbers: compute, ..SmallModel::default() };
            verdict.allowed = if *compute == "f32" { EXACT } else { ROUNDED };
            match found {
                Ok(found) => {
                    (verdict.largest, verdict.rms) = apart(&found, &expected[index]);
                    let error = if *compute == "f32" { verdict.largest } else { verdict.rms };
                    verdict.right = error <= verdict.allowed;
                }
                Err(error) => verdict.problem = Some(without_folders(&error.to_string())),
            }
            scope.update(|report| {
                report.models.push(verdict);
                report.models_not_reached -= 1;
            });
        }
    }
    Ok(())
}
