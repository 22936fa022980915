//! From a lowered graph to a plan that can run: the one way of the generator, the batch and the drafter.

use std::{collections::HashMap, sync::Arc};

use super::{caches::Caches, inputs::InputBlock, model::GpuModel, plans::logits_of};
use crate::{
    Result,
    flow::BuiltModel,
    plan::Plan,
    runtime::{Bindings, PreparedPlan, ResidentWeight, ScratchPool},
};

/// A plan bound to weights, to an input block of its own and to caches.
pub(super) struct RunPlan {
    pub(super) plan: PreparedPlan,
    pub(super) block: InputBlock,
    pub(super) built: Arc<BuiltModel>,
}

/// The buffers that a plan is bound to.
pub(super) struct Binding<'a> {
    pub(super) weights: &'a HashMap<String, ResidentWeight>,
    /// New tokens that the input block has room for.
    pub(super) tokens: usize,
    /// Sequences with a step uniform each; 0 where there is one sequence.
    pub(super) sequences: usize,
    /// `None` where each sequence binds its own.
    pub(super) caches: Option<&'a Caches>,
}

impl RunPlan {
    /// Binds `lowered`, the plan of `built`.
    pub(super) fn new(
        model: &GpuModel,
        built: Arc<BuiltModel>,
        lowered: &Plan,
        to: &Binding,
        scratch: &mut ScratchPool,
    ) -> Result<Self> {
        let block = InputBlock::new(&model.context, &built.graph, to.tokens, to.sequences)?;
        let mut inputs: HashMap<_, _> = block.bindings().collect();
        inputs.extend(to.caches.into_iter().flat_map(Caches::bindings));
        let bound = Bindings { weights: to.weights, inputs: &inputs, step: block.buffer() };
        let plan = PreparedPlan::new(&model.pipelines, lowered, bound, scratch)?;
        Ok(Self { plan, block, built })
    }

    /// A plan that chooses tokens from this one's logits, by the same steps.
    pub(super) fn sampler(&self, model: &GpuModel, sampler: &Plan, scratch: &mut ScratchPool) -> Result<PreparedPlan> {
        let inputs = logits_of(&self.plan)?;
        let bound = Bindings { weights: &model.weights, inputs: &inputs, step: self.block.buffer() };
        PreparedPlan::new(&model.pipelines, sampler, bound, scratch)
    }
}
