//! Attention over a cache: decode with one row, a chunk of prefill with more.

use anyhow::Result;
use gemmaflow::{
    gemma::GemmaConfig,
    ir::{
        Case, DType, Value,
        kernel::{Kernel, Operand, Tier},
    },
    plan::Live,
};

use crate::ladder::{Bench, Operands, Variant, dispatch, options, slot};

pub fn run(bench: &Bench, shape: &str, config: &GemmaConfig, kv: DType, rows: &[usize], depths: &[usize]) -> Result<()> {
    let (heads, kv_heads, width) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    for &depth in depths {
        for &new in rows {
            let cached = depth + new;
            let positions =
                |from: usize, count: usize| Value::i32([1, count], (from..from + count).map(|p| p as i32).collect::<Vec<_>>());
            let cache = |seed| match kv {
                DType::F16 => Case::halves(&[1, cached, kv_heads, width], seed, 1.0),
                _ => Case::values(&[1, cached, kv_heads, width], seed, 1.0),
            };
            let inputs = vec![
                Case::values(&[1, new, heads, width], 1, 1.0),
                cache(2),
                cache(3),
                positions(depth, new),
                positions(0, cached),
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

fn variants(bench: &Bench, sizes: &Sizes) -> Vec<Variant> {
    let mut tiers = vec![("portable", 64, "load")];
    if let Tier::Subgroup(size) = bench.context().capabilities().target().tier {
        tiers.push(("subgroup", size as usize, "load"));
        if size >= 8 && sizes.width.is_multiple_of(8) {
            tiers.push(("subgroup", size as usize, "shuffle"));
        }
    }
    let rows = sizes.new * (sizes.heads / sizes.kv_heads);
    let mut found = Vec::new();
    let software = bench.context().capabilities().target().software;
    for tier in tiers {
        // A driver on the CPU takes minutes to compile what is unrolled over many queries with barriers between.
        let most = if software && tier.0 == "portable" { 2 } else { 8 };
        let held = sizes.width.div_ceil(4 * tier.1);
        for queries in [1, 2, 4, 8] {
            if queries <= most.min(rows.next_power_of_two()) && (queries * held <= 16 || queries == 1) {
                let splits = [1, 4, 16].into_iter().filter(|parts| *parts == 1 || (sizes.cached / parts >= 64 && sizes.new <= 8));
                found.extend(splits.map(|parts| variant(sizes, tier, queries, parts)));
            }
        }
    }
    found
}

fn variant(sizes: &Sizes, (tier, lanes, read): (&str, usize, &str), queries: usize, parts: usize) -> Variant {
    let Sizes { new, cached, heads, kv_heads, width, kv } = *sizes;
    let splits = if parts > 1 { "yes" } else { "no" };
    let mut text = options(&[("TIER", &tier), ("LANES", &lanes), ("QUERIES", &queries), ("MASK", &"causal")]);
    text.extend(options(&[("SOFTCAP", &"no"), ("KEEP", &"no"), ("SPLITS", &splits), ("READ", &read), ("KV", &kv.name())]));
    text.extend(options(&[("VEC", &4), ("HV", &width.div_ceil(4 * lanes)), ("NEW", &"no")]));
    let number = |name, value: usize| (name, value as f64);
    let mut overrides = vec![number("B", 1), number("T", new), number("S", cached), number("N", heads), number("K", kv_heads)];
    overrides.extend([number("H", width), ("SCALE", 1.0 / (width as f64).sqrt()), ("CAP", 1.0)]);
    overrides.extend([number("WINDOW", 0), number("PARTS", parts)]);
    let kernel = Kernel { shader: "attention", options: text, overrides, hole: String::new() };
    let mut bindings: Vec<(u32, Operand)> = (0..5).map(|i| (i as u32, slot(i + 1))).collect();
    bindings.push((8, Operand::Step));
    let groups = kv_heads * (new * (heads / kv_heads)).div_ceil(queries);
    let name = format!("attention {tier} LANES={lanes} READ={read} QUERIES={queries} PARTS={parts}");
    if parts == 1 {
        bindings.push((5, slot(0)));
        return Variant::new(name, vec![dispatch(kernel, bindings, groups, 1)]);
    }
    bindings.push((7, slot(6)));
    let results = new * heads;
    let overrides = vec![number("B", 1), number("T", new), number("N", heads), number("H", width), number("PARTS", parts)];
    let combine = Kernel { shader: "attention_combine", options: options(&[("LANES", &64)]), overrides, hole: String::new() };
    let second = dispatch(combine, vec![(5, slot(0)), (7, slot(6)), (8, Operand::Step)], results, 1);
    let scratch = vec![(results * parts * (width + 2) * 4) as u64];
    Variant { name, scratch, dispatches: vec![dispatch(kernel, bindings, groups, parts), second] }
}
