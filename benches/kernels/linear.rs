//! Products with a weight.

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

/// Rows above which the LM head is not asked for: prefill needs its last row alone.
const HEAD_ROWS: usize = 8;

pub struct Weight {
    pub name: &'static str,
    inner: usize,
    out: usize,
    /// 2 for the pair of products of a GeGLU.
    pair: usize,
}

/// The products of a layer, and the LM head.
pub fn weights(config: &GemmaConfig) -> Vec<Weight> {
    let (model, ffw) = (config.hidden_size, config.intermediate_size);
    let weight = |name, inner, out, pair| Weight { name, inner, out, pair };
    vec![
        weight("query", model, config.q_proj_dim(), 1),
        weight("key", model, config.kv_proj_dim(), 1),
        weight("output", config.q_proj_dim(), model, 1),
        weight("gate", model, ffw, 2),
        weight("down", ffw, model, 1),
        weight("unembed", model, config.vocab_size, 1),
    ]
}

pub fn run(bench: &Bench, context: &Arc<GpuContext>, shape: &str, weight: &Weight, dtype: DType, rows: &[usize]) -> Result<()> {
    let scale = (3.0 / weight.inner as f32).sqrt();
    let mut uploader = WeightUploader::new(context)?;
    let mut resident = HashMap::new();
    let mut out = weight.out;
    for index in 0..weight.pair {
        let found = uploader.upload_random(&[weight.out, weight.inner], dtype, 7 + index as u32, scale)?;
        // Where a binding is smaller than the weight: the first shard.
        out = found.shards[0].rows.len();
        resident.insert(format!("w{index}"), found);
    }
    uploader.finish()?;
    for &rows in rows.iter().filter(|rows| weight.name != "unembed" || **rows <= HEAD_ROWS) {
        let inputs = vec![Case::values(&[rows, weight.inner], 3, 1.0)];
        let operands = Operands { result: rows * out, inputs, weights: std::mem::take(&mut resident), live: None };
        let cut = if out < weight.out { format!(" of {}", weight.out) } else { String::new() };
        let pair = if weight.pair == 2 { " × 2" } else { "" };
        let title = format!("linear {shape} {} {rows}×{}×{out}{cut}{pair} {dtype}", weight.name, weight.inner);
        bench.run(&title, &operands, rows, 0, variants(bench, weight, dtype, rows, out))?;
        resident = operands.weights;
    }
    Ok(())
}

/// From plain to best, as far as the device can.
fn variants(bench: &Bench, weight: &Weight, dtype: DType, rows: usize, out: usize) -> Vec<Variant> {
    let lanes = match bench.context().capabilities().target().tier {
        Tier::Subgroup(size) => Some(size as usize),
        Tier::Portable | Tier::Subgroups => None,
    };
    let variant = |shader: &'static str, text: &[(&'static str, &dyn std::fmt::Display)], count: usize, layers: usize| {
        let vector = if weight.inner.is_multiple_of(8) { 8 } else { 1 };
        let mut all = vec![weight_option(dtype), ("COMPUTE", "f32".to_string()), ("EXPERTS", "no".to_string())];
        all.extend(options(&[("WEIGHTS", &weight.pair)]));
        if shader != "linear_wide" {
            all.extend(options(&[("VEC", &vector)]));
        }
        all.extend(options(text));
        if shader != "linear_tile_shared" {
            all.extend(options(&[("MAXIMA", &"no")]));
        }
        if shader == "linear_tile" {
            all.extend(options(&[("GROUPS", &"no")]));
        }
        let overrides = vec![("T", rows as f64), ("IN", weight.inner as f64), ("OUT", out as f64), ("OUT_STRIDE", out as f64)];
        let hole = match weight.pair {
            1 => "fn epilogue(i: u32, v: f32) -> f32 { return v; }\n",
            _ => "fn epilogue(i: u32, v0: f32, v1: f32) -> f32 { return v0 * v1; }\n",
        };
        let kernel = Kernel { shader, options: all, overrides, hole: hole.into() };
        let mut bindings = vec![(0, slot(1)), (1, slot(0))];
        bindings.extend((0..weight.pair).map(|i| (2 + i as u32, Operand::Weight(format!("w{i}"), 0))));
        let inner = weight.inner;
        let [moved, computed] = [4 * rows * (inner + out), 2 * rows * inner * out * weight.pair].map(|count| count as u64);
        let work = Work::of(moved, computed);
        let name: Vec<String> = text.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Variant::new(format!("{shader} {}", name.join(" ")), vec![dispatch(kernel, bindings, [count, layers], work)])
    };
    let held = |most: &[usize]| -> Vec<usize> { most.iter().copied().filter(|held| *held == 1 || *held <= rows).collect() };
    let mut found = Vec::new();
    for (lanes, span) in [(64, 64), (64, 16), (128, 128), (256, 256)] {
        for (tile, held) in pairs(&[1, 2, 4], &held(&[1, 2, 4])) {
            // Sums of all lanes meet in workgroup memory.
            if tile * weight.pair * held * (lanes + 4) + lanes > 4088 {
                continue;
            }
            let text: [(&str, &dyn std::fmt::Display); 5] =
                [("LANES", &lanes), ("SPAN", &span), ("NR", &tile), ("ROWS", &held), ("NORM", &"none")];
            found.push(variant("linear_vec", &text, out.div_ceil(tile * lanes / span), rows.div_ceil(held)));
        }
    }
    if let Some(lanes) = lanes.filter(|lanes| *lanes >= 8) {
        for (tile, held) in pairs(&[1, 2, 4], &held(&[1, 2, 4, 6, 8])) {
            let count = rows.div_ceil(held) * out.div_ceil(tile * lanes);
            let text: [(&str, &dyn std::fmt::Display); 3] = [("LANES", &lanes), ("NR", &tile), ("ROWS", &held)];
            found.push(variant("linear_tile", &text, count, 1));
            let wide = bench.context().capabilities().int64 && dtype.is_half_word() && weight.inner.is_multiple_of(16);
            if wide && tile * weight.pair <= 4 {
                found.push(variant("linear_wide", &text, count, 1));
            }
        }
    }
    if rows > 1 {
        for (tile, held) in pairs(&[2, 4], &held(&[1, 2, 4])) {
            for depth in [16, 32].into_iter().filter(|depth| (held + tile * weight.pair) * depth <= 256) {
                let count = rows.div_ceil(16 * held) * out.div_ceil(16 * tile);
                found.push(variant("linear_tile_shared", &[("NR", &tile), ("ROWS", &held), ("DEPTH", &depth)], count, 1));
            }
        }
    }
    found
}

fn pairs(a: &[usize], b: &[usize]) -> Vec<(usize, usize)> {
    a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b))).collect()
}
