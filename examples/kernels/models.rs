//! The kernels that released models need, by lowering their graphs. No weight is read or packed.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    internals::{
        ir::{
            LowerOptions,
            kernel::{Kernel, Target},
        },
        lower::{Together, lower},
        plan::{Plan, sampling},
    },
    ir::{Compute, DType, DimBinding, Packed, sym},
};

use crate::{common, stored::Stored};

/// One of each architecture, and the sizes between which kernels differ.
pub const MODELS: [&str; 6] = ["gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-2-2b", "gemma-4-e2b", "gemma-4-26b-a4b"];

/// How weights are stored, and the models that are looked at in it; none stands for all.
const STORED: [(&str, &[&str]); 5] = [
    ("bf16", &[]),
    ("Q4_0", &[]),
    ("Q4_K", &[]),
    ("Q8_0", &["gemma-3-1b", "gemma-3-4b"]),
    ("Q6_K", &["gemma-3-1b", "gemma-3-4b"]),
];

/// New tokens, rows of the growing caches, and the numbers of products.
const RUNS: [(usize, usize, Compute); 7] = [
    (1, 256, Compute::F32),
    (1, 8192, Compute::F32),
    (4, 256, Compute::F32),
    (16, 256, Compute::F32),
    (128, 8192, Compute::F32),
    (128, 8192, Compute::F16),
    (1, 256, Compute::F16),
];

/// Kernels by key, each with what first asked for it.
#[derive(Default)]
pub struct Kernels(pub BTreeMap<String, (Kernel, String)>);

impl Kernels {
    pub fn add(&mut self, plan: Plan, from: &str) {
        for dispatch in plan.dispatches {
            self.0.entry(dispatch.kernel.key()).or_insert_with(|| (dispatch.kernel, from.to_owned()));
        }
    }

    /// All that the models need on a device.
    pub fn add_models(&mut self, models: &[String], target: &Target) -> Result<()> {
        for model in models {
            let config = common::preset(model)?;
            for (stored, _) in STORED.iter().filter(|(_, only)| only.is_empty() || only.contains(&model.as_str())) {
                self.add_model(&format!("{model}, {stored}"), &config, &build(&config, stored)?, target)?;
            }
        }
        Ok(())
    }

    fn add_model(&mut self, name: &str, config: &GemmaConfig, built: &BuiltModel, target: &Target) -> Result<()> {
        let window = config.sliding_window.unwrap_or(512);
        let together = Together::of(&built.graph);
        let mut maxima = false;
        for (tokens, rows, compute) in RUNS {
            if compute == Compute::F16 && !target.f16 {
                continue;
            }
            let options = LowerOptions { compute, chosen_from: Some("logits".into()), ..LowerOptions::default() };
            let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, rows).with(sym::RING, window + 128);
            let plan = lower(&built.graph, &binding, target, &options, &together)?;
            maxima |= plan.output(&sampling::maxima_of("logits")).is_some();
            self.add(plan, &format!("{name}, {tokens} tokens"));
        }
        self.add(sampling::argmax(1, config.vocab_size, maxima, target), name);
        self.add(sampling::top_k(1, config.vocab_size, 64, target), name);
        Ok(())
    }
}

fn build(config: &GemmaConfig, stored: &str) -> Result<BuiltModel> {
    let mut weights = random_weights(config, DType::BF16, 1)?;
    let flow = GemmaFlow::resident(config).last_token_logits();
    if stored == "bf16" {
        return Ok(flow.build(&mut weights)?);
    }
    let format = Packed::by_name(stored).ok_or_else(|| anyhow!("there is no format {stored}"))?;
    Ok(flow.build(&mut Stored::new(&mut weights, format))?)
}
