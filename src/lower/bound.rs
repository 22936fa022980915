//! A graph with its sizes bound. Reshapes and the like resolve to their operand, which holds the same elements.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use super::Residency;
use crate::{
    Error, Result,
    error::GraphError,
    ir::{
        Compute, Dim, DimBinding, FixedType, Graph, LowerOptions, NodeId, Op,
        kernel::{Target, row_shards},
        ops::Lowering,
        sym,
    },
};

/// The graph with its sizes, as every step of lowering sees it.
pub(super) struct Bound<'a> {
    pub(super) graph: &'a Graph,
    pub(super) target: &'a Target,
    /// Other targets, for the kernels of some ops.
    safer: BTreeMap<&'static str, Target>,
    pub(super) options: &'a LowerOptions,
    pub(super) residency: &'a dyn Residency,
    types: Vec<FixedType>,
    resolved: Vec<NodeId>,
    /// Values that share no dispatch.
    alone: Vec<bool>,
    shards: BTreeMap<NodeId, Vec<Range<usize>>>,
    /// Sequences whose caches lie apart, each with one new token; 0 where there is one sequence, or a batch in common
    /// caches.
    pub(super) sequences: usize,
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        binding: &DimBinding,
        target: &'a Target,
        options: &'a LowerOptions,
        residency: &'a dyn Residency,
    ) -> Result<Self> {
        let types = graph.fixed_types(binding)?;
        let sequences = if options.batched { Dim::from(sym::SEQ).bind(binding)? } else { 0 };
        let mut resolved: Vec<NodeId> = Vec::with_capacity(types.len());
        let mut alone = vec![false; types.len()];
        let mut shards = BTreeMap::new();
        for (id, node) in graph.ids().zip(graph.nodes()) {
            let operand = node.inputs.first().filter(|x| keeps_flat_index(&node.op, &types[x.index()], &types[id.index()]));
            resolved.push(operand.map_or(id, |x| resolved[x.index()]));
            alone[resolved[id.index()].index()] |= options.is_unfused(node);
            if let Op::Weight(weight) = &node.op {
                let ty = &types[id.index()];
                let cut = match residency.shards(&weight.name) {
                    Some(cut) => cut,
                    None => row_shards(ty.dtype, &ty.shape, target.max_binding)
                        .map_err(|problem| Error::Unsupported(format!("weight '{}' on this device: {problem}", weight.name)))?,
                };
                shards.insert(id, cut);
            }
        }
        let ops = graph.nodes().iter().map(|node| node.op.name());
        let safer = ops.filter_map(|op| match target.of_op(op) {
            Cow::Owned(safer) => Some((op, safer)),
            Cow::Borrowed(_) => None,
        });
        let safer = safer.collect();
        Ok(Self { graph, target, safer, options, residency, types, resolved, alone, shards, sequences })
    }

    pub(super) fn op(&self, id: NodeId) -> &'a Op {
        &self.graph.node(id).op
    }

    /// The target that the kernel of `id` is chosen for.
    pub(super) fn target_of(&self, id: NodeId) -> &Target {
        self.safer.get(self.op(id).name()).unwrap_or(self.target)
    }

    pub(super) fn ty(&self, id: NodeId) -> &FixedType {
        &self.types[id.index()]
    }

    /// Returns `true` if the value's second dimension is the capacity of a cache that grows.
    pub(super) fn grows(&self, id: NodeId) -> bool {
        self.graph.shape(id).0.get(1) == Some(&sym::CACHE.into())
    }

    /// The value that holds the elements of `id` in the same order.
    pub(super) fn resolve(&self, id: NodeId) -> NodeId {
        self.resolved[id.index()]
    }

    /// The values that are not another one under other dimensions, in order.
    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = NodeId> {
        self.graph.ids().filter(|id| self.resolve(*id) == *id)
    }

    /// The resolved operands of `id`.
    pub(super) fn operands(&self, id: NodeId) -> impl DoubleEndedIterator<Item = NodeId> {
        self.graph.node(id).inputs.iter().map(|x| self.resolve(*x))
    }

    pub(super) fn is_region(&self, id: NodeId) -> bool {
        self.op(id).lowering() == Lowering::Region
    }

    pub(super) fn is_kernel(&self, id: NodeId) -> bool {
        self.op(id).lowering() == Lowering::Kernel
    }

    /// Returns `true` if the value shares no dispatch with another.
    pub(super) fn is_alone(&self, id: NodeId) -> bool {
        self.alone[id.index()]
    }

    /// The numbers that the op computes with. No expert's product goes through cooperative matrices.
    pub(super) fn compute(&self, id: NodeId) -> Compute {
        match self.op(id) {
            Op::Attention(_) => self.options.compute_of_attention(),
            Op::ExpertLinear(_) if self.options.compute == Compute::Auto => Compute::F32,
            Op::Linear(_) | Op::ExpertLinear(_) | Op::Conv2d(_) => match self.operands(id).nth(1).map(|weight| self.op(weight)) {
                Some(Op::Weight(weight)) => self.options.compute_of(&weight.name),
                _ => self.options.compute,
            },
            _ => Compute::F32,
        }
    }

    /// The rows of each shard of a weight; empty for anything else.
    pub(super) fn shards(&self, id: NodeId) -> &[Range<usize>] {
        self.shards.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The node's position in the model, or its op's name where it has none.
    pub(super) fn label(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        if node.name.is_empty() { node.op.name().into() } else { node.name.clone() }
    }

    pub(super) fn malformed(&self, problem: String) -> Error {
        Error::Graph(GraphError::Malformed { graph: self.graph.name.clone(), problem })
    }
}

/// Returns `true` if element `i` of the result is element `i` of the operand, unconverted.
fn keeps_flat_index(op: &Op, from: &FixedType, to: &FixedType) -> bool {
    from.dtype == to.dtype
        && match op {
            Op::Reshape(_) => true,
            Op::Broadcast(_) | Op::Slice(_) => from.len() == to.len(),
            Op::Permute(permute) => permute.order.iter().filter(|&&d| from.shape[d] != 1).is_sorted(),
            _ => false,
        }
}

/// Returns `true` if element `i` of the result depends on element `i` of the operands only.
pub(super) fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select(_) | Op::Cast(_))
}

#[cfg(test)]
mod tests;
