//! Norms that another kernel computes: of a norm's result, and of the operand of products.

use std::collections::BTreeSet;

use super::{Group, Matcher};
use crate::ir::{
    NodeId, Op,
    fusion::{FusedNorm, Fusion},
    ops::{Gain, Linear, RmsNorm},
};

impl Matcher<'_> {
    /// Gives norms the norm of their result as a second output; the norms that need no kernel any more.
    pub(super) fn second_norms(&mut self, groups: &mut [Group]) -> BTreeSet<NodeId> {
        let most = self.bound.target.max_storage_buffers as usize;
        let mut seconds = BTreeSet::new();
        for group in groups {
            // Operand, two gains, two results and what the epilogue reads.
            let fits = 5 + group.extras.len() <= most;
            // A norm that is a second output has none itself.
            if !fits || seconds.contains(&group.sink) {
                continue;
            }
            let [root] = group.roots[..] else { continue };
            let Some((second, norm)) = self.second_norm(root, group.sink) else { continue };
            group.second = Some(second);
            group.fusions.push(Fusion::SecondNorm(norm));
            seconds.insert(second);
        }
        self.fused.extend(seconds.iter().copied());
        seconds
    }

    /// The first norm of `sink`, the result of the norm `root`, that reads it in the same rows.
    fn second_norm(&self, root: NodeId, sink: NodeId) -> Option<(NodeId, FusedNorm<NodeId>)> {
        let bound = self.bound;
        let Op::RmsNorm(first) = bound.op(root) else { return None };
        let gain_type = |id: NodeId| bound.graph.node(id).inputs.get(1).map(|gain| bound.ty(*gain));
        // A gain that is computed may come after the first norm.
        let is_given = |id: NodeId| bound.operands(id).nth(1).is_none_or(|gain| matches!(bound.op(gain), Op::Weight(_)));
        let follows = |id: &NodeId| {
            let Op::RmsNorm(RmsNorm { gain, .. }) = bound.op(*id) else { return false };
            let x = bound.graph.node(*id).inputs[0];
            *gain == first.gain
                && bound.resolve(x) == sink
                && bound.ty(x).last() == bound.ty(root).last()
                && gain_type(*id) == gain_type(root)
                && is_given(*id)
        };
        let is_free = |id: &NodeId| !bound.is_alone(*id) && !bound.is_alone(sink) && !self.fused.contains(id);
        let second = self.readers.get(&sink)?.iter().copied().find(|id| follows(id) && is_free(id))?;
        Some((second, self.fused_norm(second)?))
    }

    /// Lets products compute the norm of their operand; the norms that need no kernel any more.
    pub(super) fn norm_prologues(&self, groups: &mut [Group]) -> BTreeSet<NodeId> {
        let most = self.bound.target.max_storage_buffers as usize;
        let mut norms = BTreeSet::new();
        for group in groups.iter_mut().filter(|group| group.buffers() < most) {
            let Some((id, norm)) = self.norm_prologue(&group.roots) else { continue };
            group.inputs[0] = self.bound.graph.node(id).inputs[0];
            group.fusions.push(Fusion::NormPrologue(norm));
            norms.insert(id);
        }
        norms
    }

    /// The norm that makes the operand of these products and of nothing else.
    fn norm_prologue(&self, roots: &[NodeId]) -> Option<(NodeId, FusedNorm<NodeId>)> {
        let bound = self.bound;
        let first = *roots.first()?;
        if !roots.iter().all(|root| matches!(bound.op(*root), Op::Linear(_)) && !bound.is_alone(*root)) {
            return None;
        }
        let norm = bound.operands(first).next()?;
        let Op::RmsNorm(RmsNorm { gain: Gain::OnePlus | Gain::Plain, .. }) = bound.op(norm) else { return None };
        let read_by_roots = self.readers.get(&norm)?.iter().all(|reader| roots.contains(reader));
        let is_free = !bound.is_alone(norm) && !self.fused.contains(&norm) && read_by_roots;
        let same_rows = bound.ty(norm).last() == bound.ty(bound.graph.node(first).inputs[0]).last();
        let has_kernel = Linear::has_norm_prologue(bound.target_of(first), bound.ty(first).rows(), bound.compute(first));
        (is_free && same_rows && has_kernel).then_some((norm, self.fused_norm(norm)?))
    }

    /// The norm `id` as another kernel computes it; `None` for another op.
    pub(super) fn fused_norm(&self, id: NodeId) -> Option<FusedNorm<NodeId>> {
        let Op::RmsNorm(op) = self.bound.op(id) else { return None };
        Some(FusedNorm { op: op.clone(), gain: self.bound.graph.node(id).inputs.get(1).copied() })
    }
}
