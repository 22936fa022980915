//! Kernels that look at whole rows: the norm and the choice of a token.

use std::{collections::HashMap, sync::Arc};

use anyhow::Result;
use gemmaflow::{
    gemma::GemmaConfig,
    internals::{
        ir::{
            Case,
            kernel::{Kernel, Operand, Tier, weight_option},
            work::Work,
        },
        runtime::WeightUploader,
    },
    ir::DType,
    runtime::GpuContext,
};

use crate::ladder::{Bench, Operands, Variant, dispatch, options, slot};

/// Tiers with their lanes, the plain one first.
fn tiers(bench: &Bench) -> Vec<(&'static str, u32)> {
    let mut tiers = vec![("portable", 64), ("portable", 128), ("portable", 256)];
    if let Tier::Subgroup(size) = bench.context().capabilities().target().tier {
        tiers.push(("subgroup", size));
    }
    tiers
}

pub fn rms_norm(
    bench: &Bench,
    context: &Arc<GpuContext>,
    shape: &str,
    config: &GemmaConfig,
    dtype: DType,
    rows: &[usize],
) -> Result<()> {
    let columns = config.hidden_size;
    let mut uploader = WeightUploader::new(context)?;
    let mut weights = HashMap::from([("gain".to_string(), uploader.upload_random(&[columns], dtype, 5, 0.02)?)]);
    uploader.finish()?;
    for &rows in rows {
        let variant = |(tier, lanes): (&'static str, u32)| {
            let mut text = vec![weight_option(dtype)];
            text.extend(options(&[
                ("TIER", &tier),
                ("GAIN", &"one_plus"),
                ("LANES", &lanes),
                ("VEC", &1),
                ("WEIGHTS", &1),
                ("SECOND_NORM", &"no"),
            ]));
            let overrides = vec![("R", rows as f64), ("C", columns as f64), ("EPS", 1e-6)];
            let hole = "fn epilogue(i: u32, v: f32) -> f32 { return v; }\n".to_string();
            let kernel = Kernel { shader: "rms_norm", options: text, overrides, hole };
            let bindings = vec![(0, slot(1)), (1, slot(0)), (2, Operand::Weight("gain".into(), 0))];
            let elements = (rows * columns) as u64;
            let work = Work::of(8 * elements, 4 * elements);
            Variant::new(format!("rms_norm {tier} LANES={lanes}"), vec![dispatch(kernel, bindings, [rows, 1], work)])
        };
        let inputs = vec![Case::values(&[rows, columns], 3, 1.0)];
        let operands = Operands { result: rows * columns, inputs, weights: std::mem::take(&mut weights), live: None };
        let variants = tiers(bench).into_iter().map(variant).collect();
        bench.run(&format!("rms_norm {shape} {rows}×{columns} {dtype}"), &operands, rows, 0, variants)?;
        weights = operands.weights;
    }
    Ok(())
}

/// One row of logits.
pub fn argmax(bench: &Bench, shape: &str, config: &GemmaConfig) -> Result<()> {
    let vocab = config.vocab_size;
    let inputs = vec![Case::values(&[1, vocab], 3, 1.0)];
    let operands = Operands { result: 1, inputs, ..Operands::default() };
    let mut variants = Vec::new();
    for (tier, lanes) in tiers(bench) {
        for slice in [512, 1024, 4096] {
            let slices = vocab.div_ceil(slice);
            let stage = |stage: &'static str| {
                let overrides = vec![("R", 1.0), ("V", vocab as f64), ("SLICE", slice as f64)];
                let text = options(&[("TIER", &tier), ("LANES", &lanes), ("STAGE", &stage)]);
                Kernel { shader: "argmax", options: text, overrides, hole: String::new() }
            };
            let dispatches = vec![
                dispatch(
                    stage("slices"),
                    vec![(0, slot(1)), (1, slot(2))],
                    [slices, 1],
                    Work::moves((4 * vocab + 8 * slices) as u64),
                ),
                dispatch(stage("merge"), vec![(0, slot(2)), (1, slot(0))], [1, 1], Work::moves(8 * slices as u64 + 4)),
            ];
            let name = format!("argmax {tier} LANES={lanes} SLICE={slice}");
            variants.push(Variant { name, scratch: vec![slices as u64 * 8], dispatches });
        }
    }
    bench.run(&format!("argmax {shape} {vocab}"), &operands, 1, 0, variants)
}
