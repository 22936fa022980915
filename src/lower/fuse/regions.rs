//! Regions: elementwise ops and data movement that become generated text, of their own or as the epilogue of a kernel.

use std::collections::BTreeSet;

use super::Group;
use crate::lower::bound::{Bound, is_elementwise};
use crate::{
    Error, Result,
    ir::{DType, NodeId, Op},
};

/// A value that a region reads.
pub(super) struct Leaf {
    pub(super) node: NodeId,
    /// True if element `i` of the region reads its element `i` and no other.
    same_index: bool,
}

/// The expression of one sink.
pub(super) struct Expression {
    pub(super) leaves: Vec<Leaf>,
    inner: Vec<NodeId>,
}

/// For each value, true if it gets a slot of its own.
pub(super) fn stored(bound: &Bound) -> Vec<bool> {
    let count = bound.graph.nodes().len();
    let mut arithmetic = vec![false; count];
    let mut constant = vec![false; count];
    for id in bound.values().filter(|id| bound.is_region(*id)) {
        let own = matches!(bound.op(id), Op::Unary(_) | Op::Binary(_));
        arithmetic[id.index()] = own || bound.operands(id).any(|x| arithmetic[x.index()]);
        constant[id.index()] = bound.operands(id).all(|x| constant[x.index()]);
    }
    // Constants are text in the regions that read them.
    let storable = |id: NodeId| bound.is_region(id) && !constant[id.index()];
    let mut stored = vec![false; count];
    bound.graph.outputs().iter().for_each(|(_, id)| stored[bound.resolve(*id).index()] = true);
    // Moving ops are always inlined, and what they move is computed at each of their places.
    let mut places = vec![Places::None; count];
    for id in bound.values().rev() {
        let elementwise = is_elementwise(bound.op(id));
        let computes = arithmetic[id.index()] && elementwise;
        let alone = bound.is_alone(id);
        let unread = places[id.index()] == Places::None;
        stored[id.index()] |= bound.is_kernel(id) || (computes && places[id.index()] == Places::Several);
        stored[id.index()] |= storable(id) && (alone || unread);
        for (position, x) in bound.operands(id).enumerate() {
            // All operands of an elementwise op are read at one index.
            let position = if elementwise { 0 } else { position };
            let here = match places[id.index()] {
                _ if stored[id.index()] => Places::One(id, position),
                Places::One(..) if !elementwise => Places::One(id, position),
                places => places,
            };
            places[x.index()] = places[x.index()].and(here);
            stored[x.index()] |= (bound.is_kernel(id) && bound.is_region(x)) || (alone && storable(x));
        }
    }
    stored
}

/// Where a value would be computed if it were inlined into all its readers. A region computes it once for each index at
/// which it needs it.
#[derive(Clone, Copy, PartialEq)]
enum Places {
    None,
    /// One: at the index of a region's sink, or at that of an operand of a moving op.
    One(NodeId, usize),
    Several,
}

impl Places {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, place) | (place, Self::None) => place,
            (one, other) if one == other => one,
            _ => Self::Several,
        }
    }
}

/// The labels of elementwise arithmetic in dispatches of its own.
pub(in crate::lower) fn own_regions(bound: &Bound, groups: &[Group]) -> Vec<String> {
    let mut stored = vec![false; bound.graph.nodes().len()];
    groups.iter().for_each(|group| stored[group.sink.index()] = true);
    let computes = |group: &&Group| {
        let inlined = expression(bound, &stored, group.sink).inner;
        group.roots.is_empty() && inlined.into_iter().chain([group.sink]).any(|id| is_elementwise(bound.op(id)))
    };
    groups.iter().filter(computes).map(|group| bound.label(group.sink)).collect()
}

/// Walks from `sink` through everything inlined into it.
pub(super) fn expression(bound: &Bound, stored: &[bool], sink: NodeId) -> Expression {
    let mut found = Expression { leaves: Vec::new(), inner: Vec::new() };
    let mut seen = BTreeSet::new();
    let mut stack = vec![(sink, true)];
    while let Some((id, same_index)) = stack.pop() {
        if !seen.insert((id, same_index)) {
            continue;
        }
        if id != sink && (stored[id.index()] || !bound.is_region(id)) {
            match found.leaves.iter_mut().find(|leaf| leaf.node == id) {
                Some(leaf) => leaf.same_index &= same_index,
                None => found.leaves.push(Leaf { node: id, same_index }),
            }
            continue;
        }
        if id != sink && !found.inner.contains(&id) {
            found.inner.push(id);
        }
        let same_index = same_index && is_elementwise(bound.op(id));
        stack.extend(bound.operands(id).rev().map(|x| (x, same_index)));
    }
    found
}

/// Stores inner values of regions that read more buffers than one dispatch may bind.
pub(super) fn split(bound: &Bound, stored: &mut [bool]) -> Result<()> {
    let room = (bound.target.max_storage_buffers as usize).saturating_sub(1);
    let too_wide = |stored: &[bool]| {
        let sinks = bound.values().filter(|id| bound.is_region(*id) && stored[id.index()]);
        sinks.map(|sink| (sink, expression(bound, stored, sink))).find(|(_, e)| e.leaves.len() > room)
    };
    while let Some((sink, wide)) = too_wide(stored) {
        let width_with = |stored: &mut [bool], id: NodeId| {
            stored[id.index()] = true;
            let width = expression(bound, stored, sink).leaves.len();
            stored[id.index()] = false;
            width
        };
        let inner = wide.inner.iter().filter(|id| expression(bound, stored, **id).leaves.len() <= room).copied();
        let inner: Vec<NodeId> = inner.collect();
        let best = inner.into_iter().map(|id| (width_with(stored, id), id)).min();
        match best.filter(|(width, _)| *width < wide.leaves.len()) {
            Some((_, id)) => stored[id.index()] = true,
            None => {
                let label = bound.label(sink);
                let reads = wide.leaves.len();
                return Err(Error::Unsupported(format!("{label}: reading {reads} buffers where a dispatch may read {room}")));
            }
        }
    }
    Ok(())
}

/// The ops whose kernel computes the region as its epilogue: none, one, or a pair of products of one operand.
pub(super) fn roots(bound: &Bound, sink: NodeId, expression: &Expression, only_reader: impl Fn(&&Leaf) -> bool) -> Vec<NodeId> {
    let candidates = expression.leaves.iter().filter(|leaf| leaf.same_index && bound.op(leaf.node).takes_epilogue());
    let candidates = candidates.filter(only_reader).map(|leaf| leaf.node);
    let mut candidates: Vec<NodeId> =
        candidates.filter(|id| bound.ty(*id).len() == bound.ty(sink).len() && bound.ty(*id).dtype == DType::F32).collect();
    candidates.sort_unstable();
    let pairs = candidates.iter().enumerate().flat_map(|(i, a)| candidates[i + 1..].iter().map(|b| vec![*a, *b]));
    let pair = pairs.into_iter().find(|pair| is_pair(bound, pair[0], pair[1]) && fits(bound, expression, pair));
    let single = || candidates.last().map(|last| vec![*last]).filter(|single| fits(bound, expression, single));
    pair.or_else(single).unwrap_or_default()
}

/// Two products of one operand with weights that lie alike.
fn is_pair(bound: &Bound, a: NodeId, b: NodeId) -> bool {
    let [x, y] = [a, b].map(|id| bound.graph.node(id).inputs.as_slice());
    let linear = matches!((bound.op(a), bound.op(b)), (Op::Linear(_), Op::Linear(_)));
    linear
        && bound.compute(a) == bound.compute(b)
        && bound.resolve(x[0]) == bound.resolve(y[0])
        && bound.ty(x[0]) == bound.ty(y[0])
        && bound.ty(x[1]) == bound.ty(y[1])
        && {
            let weights = [x[1], y[1]].map(|id| bound.resolve(id));
            bound.shards(weights[0]) == bound.shards(weights[1])
        }
}

/// Returns `true` if the kernel of `roots` can read everything else that the expression reads.
fn fits(bound: &Bound, expression: &Expression, roots: &[NodeId]) -> bool {
    let sharded = roots.iter().flat_map(|id| bound.operands(*id)).any(|x| bound.shards(x).len() > 1);
    let extras: Vec<&Leaf> = expression.leaves.iter().filter(|leaf| !roots.contains(&leaf.node)).collect();
    // A shard's dispatch binds its operands from its first column on, which those that are read at other places, or are
    // weights or narrower than a word, cannot be.
    let readable = |leaf: &&Leaf| {
        let weight = bound.shards(leaf.node).len();
        let dtype = bound.ty(leaf.node).dtype;
        if sharded { leaf.same_index && dtype.is_word() && weight == 0 } else { dtype.scalar_bytes().is_some() && weight <= 1 }
    };
    let own = bound.graph.node(roots[0]).inputs.len() + roots.len();
    extras.iter().all(readable) && own + extras.len() <= bound.target.max_storage_buffers as usize
}
