//! The device memory of weights and prepared plans, without allocating any.

use std::{collections::HashMap, ops::Range};

use super::{
    Capabilities,
    resident::{Arrangement, split},
    scratch::pooled_bytes,
    size_blocks::size_block_bytes,
};
use crate::{
    Result,
    ir::kernel::{Operand, Target},
    lower::Residency,
    plan::{Plan, SlotKind},
    weights::Tensor,
};

/// Weights where an upload will put them.
pub(crate) struct PlannedWeights {
    shards: HashMap<String, Vec<PlannedShard>>,
    /// Bytes of the weights, with the padding between them.
    pub(crate) bytes: u64,
}

struct PlannedShard {
    arena: usize,
    offset: u64,
    bytes: u64,
    rows: Range<usize>,
}

impl PlannedWeights {
    /// Of these weights, uploaded in their order, on a device like `device`.
    ///
    /// # Errors
    /// [`DeviceError::Limit`](crate::error::DeviceError::Limit) for one that no kernel could bind.
    pub(crate) fn of<'w>(device: &Capabilities, weights: impl IntoIterator<Item = (&'w String, &'w Tensor)>) -> Result<Self> {
        let mut names = Vec::new();
        let mut pieces = Vec::new();
        for (name, tensor) in weights {
            let own = split(device, name, tensor.dtype(), tensor.shape())?;
            names.extend(own.iter().map(|_| name));
            pieces.extend(own);
        }
        let arrangement = Arrangement::of(device, &pieces);
        let mut shards: HashMap<String, Vec<PlannedShard>> = HashMap::new();
        for ((name, piece), (arena, offset)) in names.into_iter().zip(pieces).zip(arrangement.places) {
            shards.entry(name.clone()).or_default().push(PlannedShard { arena, offset, bytes: piece.bytes, rows: piece.rows });
        }
        Ok(Self { shards, bytes: arrangement.arenas.iter().sum() })
    }

    /// Bytes of the largest shard, and the weight's name.
    pub(crate) fn largest_binding(&self) -> (u64, String) {
        let of = |(name, shards): (&String, &Vec<PlannedShard>)| {
            let bytes = shards.iter().map(|shard| shard.bytes).max().unwrap_or(0);
            (bytes, format!("weight {name}, {} shard{}", shards.len(), if shards.len() == 1 { "" } else { "s" }))
        };
        self.shards.iter().map(of).max().unwrap_or_default()
    }

    /// Bytes of weights that are bound as one.
    fn concatenated(&self, names: &[String]) -> u64 {
        names.iter().filter_map(|name| self.shards.get(name)).flatten().map(|shard| shard.bytes).sum()
    }
}

impl Residency for PlannedWeights {
    fn shards(&self, weight: &str) -> Option<Vec<Range<usize>>> {
        self.shards.get(weight).map(|shards| shards.iter().map(|shard| shard.rows.clone()).collect())
    }

    fn adjoin(&self, first: &str, second: &str) -> bool {
        let one = |name: &str| match self.shards.get(name).map(Vec::as_slice) {
            Some([shard]) => Some(shard),
            _ => None,
        };
        one(first).zip(one(second)).is_some_and(|(a, b)| a.arena == b.arena && a.offset + a.bytes == b.offset)
    }
}

/// Memory of prepared plans beside weights and caches.
#[derive(Debug, Default)]
pub(crate) struct PlannedRuns {
    /// Bytes of inputs, scratch and sizes.
    pub(crate) bytes: u64,
    /// Bytes of the largest binding, weights that are bound alone left out, and its name.
    pub(crate) largest_binding: (u64, String),
}

impl PlannedRuns {
    /// Adds the scratch and the sizes of plans that are all kept and share their scratch buffers.
    ///
    /// # Errors
    /// As [`size_block_bytes`].
    pub(crate) fn add_pool(&mut self, plans: &[Plan], target: &Target) -> Result<()> {
        self.bytes += pooled_bytes(plans, target.max_binding);
        if target.sizes_are_data {
            for plan in plans {
                self.bytes += size_block_bytes(plan)?;
            }
        }
        Ok(())
    }

    /// Compares the slots of a plan with the largest binding so far.
    pub(crate) fn compare_slots(&mut self, plan: &Plan) {
        for slot in &plan.slots {
            self.compare(slot.bytes, || match &slot.kind {
                SlotKind::Input { name, .. } | SlotKind::CacheOf { name, .. } => format!("input {name}"),
                SlotKind::Scratch | SlotKind::Zeroed => "scratch".to_string(),
            });
        }
    }

    /// Compares the weights that a plan binds as one with the largest binding so far.
    pub(crate) fn compare_concatenated(&mut self, plan: &Plan, weights: &PlannedWeights) {
        for (_, operand) in plan.dispatches.iter().flat_map(|dispatch| &dispatch.bindings) {
            if let Operand::Concatenated(names) = operand {
                self.compare(weights.concatenated(names), || format!("weights {}", names.join(" + ")));
            }
        }
    }

    fn compare(&mut self, bytes: u64, name: impl FnOnce() -> String) {
        if bytes > self.largest_binding.0 {
            self.largest_binding = (bytes, name());
        }
    }
}
