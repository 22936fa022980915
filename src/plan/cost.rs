//! What a dispatch moves and computes, from the plan alone.

use super::{Plan, SlotKind};
use crate::ir::{
    DType, MaskKind,
    kernel::{Dispatch, Kernel, Operand},
    ops::Role,
};

/// Bytes and operations that a dispatch cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bytes of all that is read, once, and of all that is written, once: weights, activations, live rows of the caches.
    pub bytes: u64,
    /// Multiplications and additions of products, attention, norms and rotations; 0 for what only moves, chooses or bends.
    pub flops: u64,
}

/// What a run computes: `tokens` rows of which the first is at position `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// New tokens.
    pub tokens: usize,
    /// Cached rows before them.
    pub start: usize,
}

/// The cost of `dispatch`, one of `plan`'s. `shard_bytes` gives the bytes of a shard of a weight.
///
/// Sizes are the kernel's own (its overrides), so a padded bucket costs what it computes; attention is counted by the keys that
/// the live rows see, however large the cache is. Traffic that a kernel adds by reading a value twice is not counted: it is what
/// separates a kernel from the roofline. A kernel that is not known here costs the bytes of its whole slots and no operation.
pub fn cost(plan: &Plan, dispatch: &Dispatch, live: Live, shard_bytes: &dyn Fn(&str, usize) -> u64) -> Cost {
    let kernel = &dispatch.kernel;
    let size = |name: &str| number(kernel, name);
    let weights: u64 = dispatch
        .bindings
        .iter()
        .map(|(_, operand)| match operand {
            Operand::Weight(name, shard) => shard_bytes(name, *shard),
            Operand::Joined(names) => names.iter().map(|name| shard_bytes(name, 0)).sum(),
            Operand::Slot(..) | Operand::Step | Operand::StepOf(_) => 0,
        })
        .sum();
    let extras = dispatch.bindings.iter().filter(|(binding, _)| *binding >= 16).count() as u64;
    match kernel.shader {
        shader if shader.starts_with("linear_") && option(kernel, "EXPERTS").is_some_and(|experts| experts != "no") => {
            of_experts(kernel, weights)
        }
        shader if shader.starts_with("linear_") => of_products(kernel, weights, extras),
        "route" => Cost { bytes: weights + 4 * size("R") * (size("E") + 2 * size("TOP")), flops: 0 },
        "expert_tiles" => Cost { bytes: 8 * size("P") + 16 * size("TILES"), flops: 0 },
        "half_rows" => Cost { bytes: size("T") * (6 * size("IN") + 4), flops: 0 },
        "rms_norm" => {
            let elements = size("R") * size("C");
            let norms = if option(kernel, "SEQUEL") == Some("yes") { 2 } else { 1 };
            Cost { bytes: weights + 4 * elements * (1 + norms + extras), flops: 4 * elements * norms }
        }
        "rope" => {
            let (rows, width) = (size("ROWS"), size("HEADS") * size("H"));
            let rotated = size("N_ROT");
            Cost { bytes: 4 * rows * (2 * width + rotated), flops: 3 * rows * size("HEADS") * rotated }
        }
        "cache_write" => Cost { bytes: size("B") * size("T") * size("C") * (4 + element(kernel, "KV")), flops: 0 },
        "gather" => Cost { bytes: size("R") * (4 * size("C") * (1 + extras) + row(kernel, size("C"))), flops: 0 },
        "attention" | "attention_few" | "attention_tile" | "attention_coop" => {
            let Cost { bytes, flops } = attention(kernel, window(plan, dispatch), live);
            Cost { bytes: bytes + weights, flops }
        }
        "attention_combine" => {
            let results = size("BATCH") * size("T") * size("N");
            let width = size("H");
            let parts = size("PARTS");
            Cost { bytes: 4 * results * (parts * (width + 2) + width), flops: 2 * results * parts * width }
        }
        // Of the logits one slice is looked through.
        "argmax" if option(kernel, "STAGE") == Some("maxima") => {
            Cost { bytes: 4 * size("R") * (size("V").div_ceil(size("SLICE")) + size("SLICE") + 1), flops: 0 }
        }
        shader => {
            // A region's operands have at most as many elements as its result, or are all of them read.
            let most = if shader == "region" { 4 * size("TOTAL") } else { u64::MAX };
            let slot = |operand: &Operand| match operand {
                Operand::Slot(slot, from) => plan.slots.get(slot.0).map_or(0, |s| s.bytes.saturating_sub(*from)).min(most),
                Operand::Weight(..) | Operand::Joined(_) | Operand::Step | Operand::StepOf(_) => 0,
            };
            Cost { bytes: weights + dispatch.bindings.iter().map(|(_, operand)| slot(operand)).sum::<u64>(), flops: 0 }
        }
    }
}

/// Products with every element of the weights; `extras` are the operands of the epilogue.
fn of_products(kernel: &Kernel, weights: u64, extras: u64) -> Cost {
    let size = |name: &str| number(kernel, name);
    let rows = size("T");
    let inner = size("IN");
    let out = size("OUT");
    let products = option(kernel, "WEIGHTS").and_then(|text| text.parse().ok()).unwrap_or(1);
    let bytes = weights + 4 * rows * (inner + out * (1 + extras));
    let norm = if option(kernel, "NORM").is_none_or(|norm| norm == "none") { 0 } else { 4 };
    Cost { bytes, flops: rows * inner * (2 * out * products + norm) }
}

/// Of the matrices of all experts those that the products can take, each once. `weights` are the bytes of the part that is bound.
fn of_experts(kernel: &Kernel, weights: u64) -> Cost {
    let size = |name: &str| number(kernel, name);
    let products = size("T");
    let inner = size("IN");
    let out = size("OUT");
    let experts = size("E");
    let part = |of_all: u64| (u128::from(of_all) * u128::from(size("BOUND")) / u128::from(experts * out)) as u64;
    let bytes = weights * products.min(experts) / experts + 4 * (products / size("SHARE") * inner + part(products * out));
    Cost { bytes, flops: part(2 * products * inner * out) }
}

/// Keys that a query of this attention sees at most.
fn window(plan: &Plan, dispatch: &Dispatch) -> u64 {
    let visible = dispatch.bindings.iter().find(|(binding, _)| *binding == 3);
    let Some((_, Operand::Slot(slot, _))) = visible else { return u64::MAX };
    match plan.slots.get(slot.0).map(|slot| &slot.kind) {
        Some(SlotKind::Input { role: Role::Visible { mask: MaskKind::SlidingWindow(window), .. }, .. }) => *window as u64,
        _ => u64::MAX,
    }
}

/// Q, the visible rows of K, V and their positions, and the result or its parts; two products a visible pair.
fn attention(kernel: &Kernel, window: u64, live: Live) -> Cost {
    let size = |name: &str| number(kernel, name);
    let heads = size("N");
    let kv_heads = size("K");
    let width = size("H");
    let (tokens, start) = (live.tokens as u64, live.start as u64);
    let rows = (start + tokens).min(window.saturating_add(tokens.saturating_sub(1)));
    let pairs: u64 = (start..start + tokens).map(|position| window.min(position + 1)).sum();
    let results = size("BATCH") * size("T") * heads;
    let written = if option(kernel, "SPLITS") == Some("yes") { size("PARTS") * (width + 2) } else { width };
    let cached = size("BATCH") * rows * (2 * kv_heads * width * element(kernel, "KV") + 4);
    let pairs = Cost { bytes: 4 * results * (width + written) + cached, flops: 4 * size("BATCH") * pairs * heads * width };
    if option(kernel, "NEW") != Some("yes") {
        return pairs;
    }
    // Key and value are read and written once more, with their angles; the norm of an element is four operations, its turn three.
    let turned = size("BATCH") * (heads + kv_heads);
    let rotated = size("N_ROT");
    let norm = if option(kernel, "GAIN") == Some("none") { 0 } else { 4 };
    let moved = 4 * size("BATCH") * (2 * kv_heads * width + rotated);
    Cost { bytes: pairs.bytes + moved, flops: pairs.flops + turned * (3 * rotated + norm * width) }
}

fn number(kernel: &Kernel, name: &str) -> u64 {
    kernel.overrides.iter().find(|(n, _)| *n == name).map_or(1, |(_, value)| *value as u64)
}

fn option<'a>(kernel: &'a Kernel, name: &str) -> Option<&'a str> {
    kernel.options.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_str())
}

/// Bytes of an element of the type that the text option `name` holds.
fn element(kernel: &Kernel, name: &str) -> u64 {
    option(kernel, name).and_then(DType::of_weights).and_then(DType::scalar_bytes).map_or(4, |bytes| bytes as u64)
}

/// Bytes of a row of `columns` elements of the kernel's weight.
fn row(kernel: &Kernel, columns: u64) -> u64 {
    let dtype = option(kernel, "WEIGHT").and_then(DType::of_weights).unwrap_or(DType::F32);
    dtype.resident_row_bytes(columns as usize).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{FixedType, kernel::Slot, ops::PositionRule},
        plan::{SlotInfo, sampling},
    };

    fn dispatch(shader: &'static str, options: &[(&'static str, &str)], overrides: &[(&'static str, f64)]) -> Dispatch {
        let options = options.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let kernel = Kernel { shader, options, overrides: overrides.to_vec(), hole: String::new() };
        let bindings = vec![(2, Operand::Weight("w".into(), 0)), (8, Operand::Step)];
        Dispatch { label: "test".into(), kernel, bindings, workgroups: [1; 3] }
    }

    fn of(dispatch: &Dispatch, tokens: usize, start: usize) -> Cost {
        cost(&Plan::default(), dispatch, Live { tokens, start }, &|_, _| 1000)
    }

    #[test]
    fn a_product_reads_its_weight_once_and_multiplies_every_pair() {
        let sizes = [("T", 3.0), ("IN", 10.0), ("OUT", 7.0)];
        let found = of(&dispatch("linear_vec", &[("WEIGHTS", "2")], &sizes), 3, 0);
        assert_eq!(found, Cost { bytes: 1000 + 4 * (30 + 21), flops: 2 * 3 * 10 * 7 * 2 });
    }

    #[test]
    fn of_experts_those_that_are_chosen_are_read() {
        let sizes = |products: f64| {
            let all =
                [("T", products), ("IN", 10.0), ("OUT", 7.0), ("E", 8.0), ("SHARE", 3.0), ("FIRST_ROW", 0.0), ("BOUND", 56.0)];
            of(&dispatch("linear_vec", &[("WEIGHTS", "1"), ("EXPERTS", "each")], &all), 1, 0)
        };
        assert_eq!(sizes(3.0), Cost { bytes: 1000 * 3 / 8 + 4 * (10 + 21), flops: 2 * 3 * 70 });
        assert_eq!(sizes(24.0), Cost { bytes: 1000 + 4 * (80 + 168), flops: 2 * 24 * 70 });
    }

    #[test]
    fn attention_counts_what_its_rows_see() {
        let sizes = [("BATCH", 1.0), ("T", 4.0), ("N", 2.0), ("K", 1.0), ("H", 8.0), ("PARTS", 1.0)];
        let dispatch = dispatch("attention", &[("KV", "f16"), ("SPLITS", "no")], &sizes);
        let flops = |mask, tokens, start| {
            let mut plan = Plan::default();
            let role = Role::Visible { rule: PositionRule::From(0), mask };
            let ty = FixedType { dtype: DType::I32, shape: vec![1, 4, 2] };
            plan.slots.push(SlotInfo { bytes: 32, kind: SlotKind::Input { name: "visible".into(), role, ty } });
            let mut dispatch = dispatch.clone();
            dispatch.bindings.push((3, Operand::Slot(Slot(plan.slots.len() - 1), 0)));
            cost(&plan, &dispatch, Live { tokens, start }, &|_, _| 1000)
        };
        let (causal, window) = (MaskKind::Causal, MaskKind::SlidingWindow(5));
        // By hand: position p sees p + 1 keys, at most 5 in the window; 4 · heads · width operations a pair.
        assert_eq!(flops(causal, 4, 10).flops, 4 * 2 * 8 * (11 + 12 + 13 + 14));
        assert_eq!(flops(window, 4, 2).flops, 4 * 2 * 8 * (3 + 4 + 5 + 5));
        let activations = 4 * 4 * 2 * (8 + 8);
        // The gains of norms that it takes in are weights.
        assert_eq!(flops(causal, 1, 99).bytes, 1000 + activations + 100 * (2 * 8 * 2 + 4));
        assert_eq!(flops(window, 4, 50).bytes, 1000 + activations + 8 * (2 * 8 * 2 + 4));
    }

    #[test]
    fn an_unknown_kernel_costs_its_slots() {
        let plan = sampling::argmax(1, 1000, false, &crate::ir::kernel::Target::portable());
        let found = cost(&plan, &plan.dispatches[0], Live { tokens: 1, start: 0 }, &|_, _| 0);
        assert_eq!(found, Cost { bytes: 4000 + plan.slots[1].bytes, flops: 0 });
        // Two maxima, one slice of 512 logits and the id.
        let plan = sampling::argmax(1, 1000, true, &crate::ir::kernel::Target::portable());
        let found = cost(&plan, &plan.dispatches[0], Live { tokens: 1, start: 0 }, &|_, _| 0);
        assert_eq!(found, Cost { bytes: 4 * (2 + 512 + 1), flops: 0 });
    }
}
