//! Attention over a cache: decode with one row, a chunk of prefill with more.

use anyhow::Result;
use gemmaflow::{
    gemma::GemmaConfig,
    internals::{
        ir::{
            Case,
            kernel::{Kernel, Operand, Slot, Tier},
            work::{AttentionWork, Work},
        },
        plan::Live,
    },
    ir::{DType, MaskKind, Value},
};

use crate::ladder::{Bench, Operands, Variant, dispatch, options, slot};

pub fn run(bench: &Bench, shape: &str, config: &GemmaConfig, kv: DType, rows: &[usize], depths: &[usize]) -> Result<()> {
    let heads = config.num_attention_heads;
    let kv_heads = config.num_key_value_heads;
    let width = config.head_dim;
    for &depth in depths {
        for &new in rows {
            let cached = depth + new;
            let visible = |from: usize, count: usize| {
                let bounds = (from..from + count).flat_map(|position| MaskKind::Causal.visible(position as i32));
                Value::i32([1, count, 2], bounds.collect::<Vec<_>>())
            };
            let cache = |seed| match kv {
                DType::F16 => Case::halves(&[1, cached, kv_heads, width], seed, 1.0),
                _ => Case::values(&[1, cached, kv_heads, width], seed, 1.0),
            };
            let inputs = vec![
                Case::values(&[1, new, heads, width], 1, 1.0),
                cache(2),
                cache(3),
                visible(depth, new),
                Value::i32([1, cached], (0..cached as i32).collect::<Vec<_>>()),
            ];
            let live = Some(Live { tokens: new, start: depth });
            let operands = Operands { result: new * heads * width, inputs, live, ..Operands::default() };
            let sizes = Sizes { new, cached, heads, kv_heads, width, kv };
            let title = format!("attention {shape} {new} rows at depth {depth}, {heads}/{kv_heads} heads of {width}, {kv}");
            bench.run(&title, &operands, new, cached, variants(bench, &sizes))?;
        }
    }
    Ok(())
}

struct Sizes {
    new: usize,
    cached: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    kv: DType,
}

/// A kernel's file, its options, and the queries of a workgroup.
struct Layout {
    shader: &'static str,
    name: String,
    options: Vec<(&'static str, String)>,
    queries: usize,
}

fn variants(bench: &Bench, sizes: &Sizes) -> Vec<Variant> {
    let target = bench.context().capabilities().target();
    let width = sizes.width / 4;
    let rows = sizes.new * (sizes.heads / sizes.kv_heads);
    let rolled = if target.rolled { "yes" } else { "no" };
    let mut layouts = Vec::new();
    let tiers = if target.tier == Tier::Portable { vec!["portable"] } else { vec!["portable", "subgroups"] };
    for tier in tiers {
        let shared = options(&[("TIER", &tier), ("LANES", &128), ("ROLLED", &rolled), ("VEC", &4), ("WIDE", &"no")]);
        for queries in [1, 2, 4].into_iter().filter(|queries| rows <= 16 && *queries <= rows && width <= 128) {
            let split = if tier == "subgroups" && width.is_multiple_of(4) { 4 } else { 1 };
            let depth = if (width / split).is_multiple_of(4) { 4 } else { 1 };
            let room = (queries * width).max(128).next_power_of_two();
            let own = [("QUERIES", &queries), ("ROOM", &room), ("SPLIT", &split), ("DEPTH", &depth)];
            let mut text = shared.clone();
            text.extend(own.map(|(name, value)| (name, value.to_string())));
            layouts.push(Layout { shader: "attention_few", name: format!("{tier} QUERIES={queries}"), options: text, queries });
        }
        let held = width.div_ceil(16);
        for rows in [1, 2, 4].into_iter().filter(|rows| rows * held <= 16) {
            let mut text = shared.clone();
            text.extend(options(&[("ROWS", &rows), ("HV", &held)]));
            layouts.push(Layout {
                shader: "attention_tile",
                name: format!("{tier} ROWS={rows}"),
                options: text,
                queries: 8 * rows,
            });
        }
    }
    if let Tier::Subgroup(lanes) = target.tier {
        layouts.extend(software_layouts(sizes, lanes as usize, rows));
    }
    let splits = |parts: &usize| *parts == 1 || sizes.cached / parts >= 64;
    let parts: Vec<usize> = [1, 4, 16, 64].into_iter().filter(splits).collect();
    layouts.iter().flat_map(|layout| parts.iter().map(|parts| variant(sizes, layout, *parts))).collect()
}

/// Those of the kernel for drivers on the CPU.
fn software_layouts(sizes: &Sizes, lanes: usize, rows: usize) -> Vec<Layout> {
    let held = sizes.width.div_ceil(4 * lanes);
    let reads: &[&str] = if lanes >= 8 && sizes.width.is_multiple_of(8) { &["load", "shuffle"] } else { &["load"] };
    let mut layouts = Vec::new();
    for read in reads {
        let fits = |queries: &usize| *queries <= rows.next_power_of_two() && (queries * held <= 16 || *queries == 1);
        for queries in [1, 2, 4, 8].into_iter().filter(fits) {
            let mut text = options(&[("TIER", &"subgroup"), ("LANES", &lanes), ("QUERIES", &queries), ("READ", read)]);
            text.extend(options(&[("VEC", &4), ("HV", &held), ("WIDE", &"no")]));
            let name = format!("subgroup READ={read} QUERIES={queries}");
            layouts.push(Layout { shader: "attention", name, options: text, queries });
        }
    }
    layouts
}

fn variant(sizes: &Sizes, layout: &Layout, parts: usize) -> Variant {
    let Sizes { new, cached, heads, kv_heads, width, kv } = *sizes;
    let splits = if parts > 1 { "yes" } else { "no" };
    let mut text = layout.options.clone();
    text.extend(options(&[("SOFTCAP", &"no"), ("KEEP", &"no"), ("SPLITS", &splits), ("KV", &kv.name()), ("PROLOGUE", &"no")]));
    let number = |name, value: usize| (name, value as f64);
    let mut overrides =
        vec![number("BATCH", 1), number("T", new), number("S", cached), number("N", heads), number("K", kv_heads)];
    overrides.extend([number("H", width), ("SCALE", 1.0 / (width as f64).sqrt()), ("CAP", 1.0), number("PARTS", parts)]);
    let kernel = Kernel { shader: layout.shader, options: text, overrides, hole: String::new() };
    let mut bindings: Vec<(u32, Operand)> = (0..5).map(|i| (i as u32, slot(i + 1))).collect();
    bindings.push((8, Operand::Step));
    let written = if parts > 1 { parts * (width + 2) } else { width };
    let attention = AttentionWork {
        batch: 1,
        token_bytes: (2 * kv_heads * width * kv.scalar_bytes().unwrap_or(4) + 4) as u64,
        pair_flops: (4 * heads * width) as u64,
        visible: Slot(4),
        pairs: [new as u64, cached as u64],
    };
    let work = Work { attention: Some(attention), ..Work::of((4 * new * heads * (width + written)) as u64, 0) };
    let groups = kv_heads * (new * (heads / kv_heads)).div_ceil(layout.queries);
    let name = format!("{} {} PARTS={parts}", layout.shader, layout.name);
    if parts == 1 {
        bindings.push((5, slot(0)));
        return Variant::new(name, vec![dispatch(kernel, bindings, [groups, 1], work)]);
    }
    bindings.push((7, slot(6)));
    let results = new * heads;
    let overrides = vec![number("BATCH", 1), number("T", new), number("N", heads), number("H", width), number("PARTS", parts)];
    let combine = Kernel { shader: "attention_combine", options: options(&[("LANES", &64)]), overrides, hole: String::new() };
    let second = dispatch(
        combine,
        vec![(5, slot(0)), (7, slot(6)), (8, Operand::Step)],
        [results, 1],
        Work::moves((4 * results * (parts * (width + 2) + width)) as u64),
    );
    let scratch = vec![(results * parts * (width + 2) * 4) as u64];
    Variant { name, scratch, dispatches: vec![dispatch(kernel, bindings, [groups, parts], work), second] }
}
