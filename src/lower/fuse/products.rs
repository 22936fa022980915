//! Products that share a kernel, and the maxima that it keeps of their result.

use std::collections::BTreeMap;

use super::{Group, Matcher};
use crate::{
    ir::{DType, Graph, NodeId, Op, fusion::Fusion, ops::Linear},
    lower::bound::Bound,
    plan::sampling,
};

impl Matcher<'_> {
    /// Products of one row of one operand whose weights adjoin in memory, so that one dispatch reads them as one
    /// matrix.
    pub(super) fn concatenations(&mut self) -> Vec<Group> {
        let bound = self.bound;
        let mut lists: Vec<Vec<NodeId>> = Vec::new();
        for id in bound.values().filter(|id| self.may_concatenate(*id)) {
            match lists.iter_mut().find(|list| follows(bound, list, id)) {
                Some(list) => list.push(id),
                None => lists.push(vec![id]),
            }
        }
        lists.retain(|list| list.len() > 1);
        self.fused.extend(lists.iter().flatten().copied());
        lists.into_iter().map(|roots| concatenation(bound, roots)).collect()
    }

    fn may_concatenate(&self, id: NodeId) -> bool {
        let bound = self.bound;
        let is_output = self.readers.get(&id).is_some_and(|readers| readers.contains(&id));
        matches!(bound.op(id), Op::Linear(_))
            && bound.ty(id).rows() == 1
            && bound.shards(weight(bound, id)).len() == 1
            && !is_output
            && !bound.is_alone(id)
            && !self.fused.contains(&id)
    }

    /// Lets the product of one row that makes the output which a token is chosen from keep the maximum of each block.
    pub(super) fn block_maxima(&self, groups: &mut [Group]) {
        for group in groups {
            if self.keeps_maxima(group) {
                group.fusions.push(Fusion::BlockMaxima(sampling::block_of(self.bound.ty(group.sink).len())));
            }
        }
    }

    fn keeps_maxima(&self, group: &Group) -> bool {
        let bound = self.bound;
        let [root] = group.roots[..] else { return false };
        let is_chosen_from =
            |(name, id): &(String, NodeId)| Some(name) == bound.options.chosen_from.as_ref() && bound.resolve(*id) == group.sink;
        matches!(bound.op(root), Op::Linear(_))
            && bound.ty(root).rows() == 1
            && bound.ty(group.sink).dtype == DType::F32
            && !bound.is_alone(root)
            && !bound.is_alone(group.sink)
            && bound.graph.outputs().iter().any(is_chosen_from)
            && Linear::has_block_maxima(bound.target_of(root))
            && group.buffers() < bound.target.max_storage_buffers as usize
    }
}

fn concatenation(bound: &Bound, roots: Vec<NodeId>) -> Group {
    let rest = roots[1..].iter().map(|root| bound.graph.node(*root).inputs[1]).collect();
    let mut group = Group::kernel(bound, roots[0]);
    group.roots = roots;
    group.fusions.push(Fusion::Concatenated(rest));
    group
}

/// Returns `true` if the weight of the product `id` can be read behind those of `list`.
fn follows(bound: &Bound, list: &[NodeId], id: NodeId) -> bool {
    let (Some(first), Some(last)) = (list.first(), list.last()) else { return false };
    let operand = |id: NodeId| bound.resolve(bound.graph.node(id).inputs[0]);
    let bytes = |id: &NodeId| {
        let ty = bound.ty(weight(bound, *id));
        ty.dtype.resident_row_bytes(ty.last()).map_or(u64::MAX, |row| row.saturating_mul(ty.rows() as u64))
    };
    let types = [*last, id].map(|id| bound.ty(weight(bound, id)));
    let [Op::Weight(before), Op::Weight(own)] = [*last, id].map(|id| bound.op(weight(bound, id))) else { return false };
    operand(*first) == operand(id)
        && bound.compute(*first) == bound.compute(id)
        && types[0].dtype == types[1].dtype
        && types[0].last() == types[1].last()
        // Each result begins where a binding may begin.
        && list.iter().all(|id| bound.ty(*id).last().is_multiple_of(64))
        && list.iter().chain([&id]).map(bytes).fold(0, u64::saturating_add) <= bound.target.max_binding
        && bound.residency.adjoin(&before.name, &own.name)
}

fn weight(bound: &Bound, product: NodeId) -> NodeId {
    bound.resolve(bound.graph.node(product).inputs[1])
}

/// Weights that multiply the same value, in the order of the graph: a device that keeps each list in one piece
/// ([`Residency::adjoin`](crate::lower::Residency::adjoin)) reads it with one dispatch where one row is multiplied.
pub fn weights_of_one_operand(graph: &Graph) -> Vec<Vec<String>> {
    let mut lists: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for node in graph.nodes().iter().filter(|node| matches!(node.op, Op::Linear(_))) {
        if let Op::Weight(weight) = &graph.node(node.inputs[1]).op {
            let list = lists.entry(node.inputs[0]).or_default();
            if !list.contains(&weight.name) {
                list.push(weight.name.clone());
            }
        }
    }
    lists.into_values().filter(|list| list.len() > 1).collect()
}
