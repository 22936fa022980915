//! Decides which values are materialised and which ops share a kernel.
//!
//! A group is one kernel: a generated region of elementwise ops, or an op with its epilogue and its [`Fusion`]s.

mod decode_prologue;
mod norms;
mod products;
mod regions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use products::weights_of_one_operand;
pub(super) use regions::own_regions;
use regions::{Expression, Leaf};

use super::bound::Bound;
use crate::{
    Result,
    ir::{NodeId, fusion::Fusion},
};

/// Ops that one kernel computes.
pub(super) struct Group {
    /// The value that is written.
    pub(super) sink: NodeId,
    /// The op whose kernel runs, first; the sink is its result, or that of its epilogue. Empty for a region. Products
    /// that share the kernel follow; of concatenated ones the first is the sink.
    pub(super) roots: Vec<NodeId>,
    /// The operands of the first root, as its kernel reads them.
    pub(super) inputs: Vec<NodeId>,
    /// The values that the generated text reads besides the roots.
    pub(super) extras: Vec<NodeId>,
    /// The other ops that the kernel computes.
    pub(super) fusions: Vec<Fusion<NodeId>>,
    /// The norm of the sink that is a second result.
    pub(super) second: Option<NodeId>,
}

impl Group {
    fn region(sink: NodeId, extras: Vec<NodeId>) -> Self {
        Self { sink, roots: Vec::new(), inputs: Vec::new(), extras, fusions: Vec::new(), second: None }
    }

    fn kernel(bound: &Bound, root: NodeId) -> Self {
        let inputs = bound.graph.node(root).inputs.clone();
        Self { roots: vec![root], inputs, ..Self::region(root, Vec::new()) }
    }

    /// Returns `true` if the results of all roots are written, one behind the other.
    pub(super) fn is_concatenated(&self) -> bool {
        self.roots.len() > 1 && self.roots.contains(&self.sink)
    }

    /// The values that are written.
    pub(super) fn results(&self) -> Vec<NodeId> {
        if self.is_concatenated() { self.roots.clone() } else { std::iter::once(self.sink).chain(self.second).collect() }
    }

    /// The values that are read, resolved.
    pub(super) fn operands(&self, bound: &Bound) -> Vec<NodeId> {
        let fused = self.fusions.iter().flat_map(Fusion::values);
        let all = self.inputs.iter().chain(&self.extras).chain(fused);
        all.map(|id| bound.resolve(*id)).collect()
    }

    /// Storage buffers that the kernel binds.
    fn buffers(&self) -> usize {
        let fused = self.fusions.iter().flat_map(|fusion| match fusion {
            // One binding holds them all.
            Fusion::Concatenated(_) => Vec::new(),
            fusion => fusion.values(),
        });
        let second_output = self.fusions.iter().any(|fusion| matches!(fusion, Fusion::SecondNorm(_) | Fusion::BlockMaxima(_)));
        1 + usize::from(second_output) + self.inputs.len() + self.extras.len() + fused.count()
    }
}

/// The groups in an order in which each reads only what an earlier one wrote.
pub(super) fn groups(bound: &Bound) -> Result<Vec<Group>> {
    let mut stored = regions::stored(bound);
    regions::split(bound, &mut stored)?;
    let sinks: Vec<NodeId> = bound.values().filter(|id| bound.is_region(*id) && stored[id.index()]).collect();
    let expressions: Vec<Expression> = sinks.iter().map(|sink| regions::expression(bound, &stored, *sink)).collect();

    let mut matcher = Matcher { bound, readers: readers(bound, &sinks, &expressions), fused: BTreeSet::new() };
    let mut groups: Vec<Group> = sinks.into_iter().zip(expressions).map(|(sink, e)| matcher.region(sink, &e)).collect();
    groups.extend(matcher.attentions());
    groups.extend(matcher.concatenations());
    let rest = bound.values().filter(|id| bound.is_kernel(*id) && !matcher.fused.contains(id));
    groups.extend(rest.map(|id| Group::kernel(bound, id)));
    groups.sort_by_key(|group| group.sink);
    let mut norms = matcher.second_norms(&mut groups);
    norms.extend(matcher.norm_prologues(&mut groups));
    matcher.block_maxima(&mut groups);
    groups.retain(|group| !norms.contains(&group.sink));
    Ok(groups)
}

/// Finds the fusions of a graph.
struct Matcher<'a> {
    bound: &'a Bound<'a>,
    /// The values that read each value; an output also reads itself, so that nothing fuses it.
    readers: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Ops with kernels that a group already computes.
    fused: BTreeSet<NodeId>,
}

impl Matcher<'_> {
    /// The group of a region: a kernel of its own, or the epilogue of one or two ops.
    fn region(&mut self, sink: NodeId, expression: &Expression) -> Group {
        let bound = self.bound;
        let only_reader = |leaf: &&Leaf| self.readers[&leaf.node].iter().eq([&sink]) && !bound.is_alone(leaf.node);
        let roots = if bound.is_alone(sink) { Vec::new() } else { regions::roots(bound, sink, expression, only_reader) };
        let extras = expression.leaves.iter().map(|leaf| leaf.node).filter(|id| !roots.contains(id)).collect();
        self.fused.extend(roots.iter().copied());
        let mut group = Group::region(sink, extras);
        if let Some(first) = roots.first() {
            group.inputs = bound.graph.node(*first).inputs.clone();
        }
        if let [_, second] = roots[..] {
            group.fusions.push(Fusion::Pair(bound.graph.node(second).inputs[1]));
        }
        group.roots = roots;
        group
    }

    /// Returns `true` if `reader` alone reads `value`.
    fn only_reader(&self, value: NodeId, reader: NodeId) -> bool {
        self.readers.get(&value).is_some_and(|readers| readers.iter().eq([&reader]))
    }
}

fn readers(bound: &Bound, sinks: &[NodeId], expressions: &[Expression]) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let mut readers: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    let mut reads = |value, reader| readers.entry(value).or_default().insert(reader);
    for (sink, expression) in sinks.iter().zip(expressions) {
        expression.leaves.iter().for_each(|leaf| _ = reads(leaf.node, *sink));
    }
    for id in bound.values().filter(|id| bound.is_kernel(*id)) {
        bound.operands(id).for_each(|x| _ = reads(x, id));
    }
    bound.graph.outputs().iter().for_each(|(_, id)| _ = reads(bound.resolve(*id), bound.resolve(*id)));
    readers
}
