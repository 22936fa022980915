//! The device memory of compiled graphs, without allocating any.

use super::super::{
    Capabilities, Step,
    resident::{Arrangement, split},
    scratch::pooled_bytes,
    size_blocks::size_block_bytes,
    staging_ring::StagingRing,
};
use crate::{
    Result,
    flow::ModelParams,
    ir::{DimBinding, Graph},
    lower::{Unplaced, lower},
    plan::{Plan, SlotKind},
    profile::CompileProfile,
};

/// Memory of weights as [`Session::load`](super::Session::load) places them, and of the staging buffers that pass them
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightMemory {
    /// Bytes of the weights, with the padding between them.
    pub(crate) bytes: u64,
    /// Bytes that are free again once they are there.
    pub(crate) loading: u64,
}

impl WeightMemory {
    /// Of these weights on a device like `device`.
    ///
    /// # Errors
    /// [`DeviceError::Limit`](crate::error::DeviceError::Limit) for one that no kernel could bind.
    pub(crate) fn of(device: &Capabilities, params: &ModelParams) -> Result<Self> {
        let mut pieces = Vec::new();
        for (name, tensor) in params {
            pieces.extend(split(device, name, tensor.dtype(), tensor.shape())?);
        }
        Ok(Self { bytes: Arrangement::of(device, &pieces).arenas.iter().sum(), loading: StagingRing::bytes(device) })
    }
}

/// Memory of graphs that share their scratch, compiled in their order and all kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RunMemory {
    /// Bytes of inputs, scratch and sizes.
    pub(crate) bytes: u64,
    /// Bytes of the largest binding, weights left out, and its name.
    pub(crate) largest_binding: (u64, String),
}

impl RunMemory {
    /// Of these graphs at these sizes on a device like `device`.
    ///
    /// # Errors
    /// As [`lower`].
    pub(crate) fn of<'g>(
        device: &Capabilities,
        graphs: impl IntoIterator<Item = (&'g Graph, DimBinding)>,
        profile: &CompileProfile,
    ) -> Result<Self> {
        let target = device.target();
        let options = profile.options(&device.backend);
        let plans: Vec<Plan> =
            graphs.into_iter().map(|(graph, dims)| lower(graph, &dims, &target, &options, &Unplaced)).collect::<Result<_>>()?;
        let mut memory = Self { bytes: pooled_bytes(&plans, target.max_binding), ..Self::default() };
        for plan in &plans {
            memory.bytes += size_of::<Step>() as u64 + if target.software { size_block_bytes(plan)? } else { 0 };
            for slot in &plan.slots {
                let what = match &slot.kind {
                    SlotKind::Input { name, .. } => {
                        memory.bytes += super::gpu::input_bytes(slot.bytes);
                        format!("input {name}")
                    }
                    SlotKind::Scratch | SlotKind::Zeroed => "scratch".to_string(),
                    SlotKind::CacheOf { name, .. } => format!("cache {name}"),
                };
                memory.largest_binding = memory.largest_binding.max((slot.bytes, what));
            }
        }
        Ok(memory)
    }
}
