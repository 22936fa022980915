//! The bytes and operations of a dispatch, from the plan alone.

use super::{Plan, SlotKind};
use crate::ir::{
    MaskKind,
    kernel::{Dispatch, Operand, Slot},
    ops::Role,
    work::{AttentionWork, WeightsRead},
};

/// Bytes and operations that a dispatch cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Bytes of all that is read, once, and of all that is written, once: weights, activations, live rows of the
    /// caches.
    pub bytes: u64,
    /// Multiplications and additions of products, attention, norms and rotations; 0 for data movement, selection and
    /// activations.
    pub flops: u64,
}

/// The rows of a run: `tokens` of them, of which the first is at position `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// New tokens.
    pub tokens: usize,
    /// Cached rows before them.
    pub start: usize,
}

/// The cost of `dispatch`, one of `plan`'s: its [`Work`](crate::ir::work::Work) in the run `live`, with its weights.
/// `shard_bytes` gives the bytes of a shard of a weight.
pub fn cost(plan: &Plan, dispatch: &Dispatch, live: Live, shard_bytes: &dyn Fn(&str, usize) -> u64) -> Cost {
    let bound = dispatch.bindings.iter().map(|(_, operand)| match operand {
        Operand::Weight(name, shard) => shard_bytes(name, *shard),
        Operand::Concatenated(names) => names.iter().map(|name| shard_bytes(name, 0)).sum(),
        Operand::Slot(..) | Operand::Step | Operand::StepOf(_) => 0,
    });
    let work = &dispatch.work;
    let weights = match work.weights {
        WeightsRead::All => bound.sum(),
        WeightsRead::Parts { read, of } => bound.sum::<u64>() * read / of.max(1),
        WeightsRead::Rows => 0,
    };
    let seen = work.attention.map_or_else(Cost::default, |attention| seen(plan, attention, live));
    Cost { bytes: weights + work.bytes + seen.bytes, flops: work.flops + seen.flops }
}

/// The part of an attention that follows from the keys which the queries of a run see, however large the cache is.
fn seen(plan: &Plan, attention: AttentionWork, live: Live) -> Cost {
    let AttentionWork { batch, token_bytes, pair_flops, visible, pairs: [queries, keys] } = attention;
    let tokens = live.tokens as u64;
    let start = live.start as u64;
    let all = start + tokens;
    let causal = |window: u64| (start..all).map(|position| window.min(position + 1)).sum();
    let (rows, pairs) = match mask(plan, visible) {
        None => (keys, queries * keys),
        Some(MaskKind::None) => (all, tokens * all),
        Some(MaskKind::SlidingWindow(window)) => {
            let window = window as u64;
            (all.min(window.saturating_add(tokens.saturating_sub(1))), causal(window))
        }
        Some(_) => (all, causal(u64::MAX)),
    };
    Cost { bytes: batch * rows * token_bytes, flops: batch * pairs * pair_flops }
}

/// The mask of the visible positions in `slot`.
fn mask(plan: &Plan, slot: Slot) -> Option<MaskKind> {
    match plan.slots.get(slot.0).map(|slot| &slot.kind) {
        Some(SlotKind::Input { role: Role::Visible { mask, .. }, .. }) => Some(*mask),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
