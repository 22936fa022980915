//! Scratch buffers that plans share.

use std::sync::{Arc, Weak};

use super::{buffer::Buffer, context::GpuContext};
use crate::{Result, plan::Plan};

/// Scratch buffers that plans which never run at once share: the n-th largest slot of each plan lies in the n-th
/// buffer.
///
/// A buffer lives as long as a plan uses it. One that a plan outgrows lives on in the earlier plans, and its successor
/// has at least twice its size (where a binding may be so large). So all buffers together hold at most four times the
/// scratch of the largest plan. Prepare the plan with the largest scratch first and they hold no more than that plan's.
#[derive(Debug, Clone, Default)]
pub struct ScratchPool {
    newest: Vec<Weak<Buffer>>,
    outgrown: Vec<Weak<Buffer>>,
}

impl ScratchPool {
    /// Bytes of the buffers that plans hold now.
    pub fn bytes(&self) -> u64 {
        let live = self.newest.iter().chain(&self.outgrown).filter_map(Weak::upgrade);
        live.map(|buffer| buffer.size()).sum()
    }

    pub(crate) fn take(&mut self, context: &GpuContext, index: usize, bytes: u64) -> Result<Arc<Buffer>> {
        let known = self.newest.get(index).and_then(Weak::upgrade);
        if let Some(found) = known.as_ref().filter(|buffer| buffer.size() >= bytes) {
            return Ok(found.clone());
        }
        let doubled = known.as_ref().map_or(0, |small| small.size() * 2).min(context.capabilities().target().max_binding);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = Arc::new(context.create_buffer("scratch", bytes.max(doubled), usage)?);
        self.outgrown.retain(|buffer| buffer.strong_count() > 0);
        self.outgrown.extend(known.as_ref().map(Arc::downgrade));
        match self.newest.get_mut(index) {
            Some(small) => *small = Arc::downgrade(&buffer),
            None => self.newest.push(Arc::downgrade(&buffer)),
        }
        Ok(buffer)
    }
}

/// The slots that a plan's runner owns, largest first, with the bytes of their buffers: whole vectors, so that vector
/// loads of a tail stay inside.
pub(crate) fn owned(plan: &Plan) -> Vec<(usize, u64)> {
    let mut order: Vec<usize> = (0..plan.slots.len()).filter(|&index| plan.slots[index].kind.is_owned()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(plan.slots[index].bytes));
    order.into_iter().map(|index| (index, padded(plan, index))).collect()
}

/// Bytes of a slot's buffer.
pub(crate) fn padded(plan: &Plan, index: usize) -> u64 {
    plan.slots[index].bytes.max(1).next_multiple_of(16)
}

/// Bytes that a [`ScratchPool`] comes to when these plans are prepared in this order and all live, on a device that
/// binds at most `max_binding` bytes.
pub(crate) fn pooled_bytes<'a>(plans: impl IntoIterator<Item = &'a Plan>, max_binding: u64) -> u64 {
    let mut newest = Vec::<u64>::new();
    let mut together = 0;
    for plan in plans {
        for (rank, (_, bytes)) in owned(plan).into_iter().enumerate() {
            let known = newest.get(rank).copied().unwrap_or(0);
            if known >= bytes {
                continue;
            }
            let grown = bytes.max((known * 2).min(max_binding));
            together += grown;
            match newest.get_mut(rank) {
                Some(small) => *small = grown,
                None => newest.push(grown),
            }
        }
    }
    together
}
