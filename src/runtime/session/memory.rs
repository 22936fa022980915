//! The device memory of compiled graphs, without allocating any.

use super::super::{Capabilities, Step, memory::PlannedRuns};
use crate::{
    Result,
    ir::{DimBinding, Graph},
    lower::{Unplaced, lower},
    plan::{Plan, SlotKind},
    profile::CompileProfile,
};

impl PlannedRuns {
    /// Of graphs that share their scratch, compiled in their order and all kept, at these sizes on a device like
    /// `device`.
    ///
    /// # Errors
    /// As [`lower`].
    pub(crate) fn of_graphs<'g>(
        device: &Capabilities,
        graphs: impl IntoIterator<Item = (&'g Graph, DimBinding)>,
        profile: &CompileProfile,
    ) -> Result<Self> {
        let target = device.target();
        let options = profile.options(&device.backend);
        let plans: Vec<Plan> =
            graphs.into_iter().map(|(graph, dims)| lower(graph, &dims, &target, &options, &Unplaced)).collect::<Result<_>>()?;
        let mut runs = Self::default();
        runs.add_pool(&plans, &target)?;
        for plan in &plans {
            runs.bytes += size_of::<Step>() as u64;
            let inputs = plan.slots.iter().filter(|slot| matches!(slot.kind, SlotKind::Input { .. }));
            runs.bytes += inputs.map(|slot| super::gpu::input_bytes(slot.bytes)).sum::<u64>();
            runs.compare_slots(plan);
        }
        Ok(runs)
    }
}
