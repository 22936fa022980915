//! Decides which values are materialised and which ops share a dispatch.

use std::collections::BTreeSet;

use super::{
    absorb::{self, NewRow, Readers},
    bound::{Bound, is_elementwise},
};
use crate::{
    Error, Result,
    ir::{DType, NodeId, Op},
};

/// Ops that are computed together.
pub(super) struct Group {
    /// The value that is written.
    pub(super) sink: NodeId,
    /// The op with a kernel whose epilogue (or whose result) the sink is; two for a pair of products; none for a region. Products
    /// whose weights adjoin are roots and results, and the sink is the first of them.
    pub(super) roots: Vec<NodeId>,
    /// What the generated text reads besides the roots.
    pub(super) extras: Vec<NodeId>,
    /// Of an attention: the row that its kernel makes first.
    pub(super) new_row: Option<NewRow>,
    /// Of products: the norm of their operand, which is computed on the way.
    pub(super) norm: Option<NodeId>,
    /// Of a norm: a norm of the sink, which is a second result.
    pub(super) sequel: Option<NodeId>,
    /// Of a product: whether the largest of each slice of the sink are kept.
    pub(super) maxima: bool,
}

impl Group {
    fn of(sink: NodeId, roots: Vec<NodeId>, extras: Vec<NodeId>) -> Self {
        Self { sink, roots, extras, new_row: None, norm: None, sequel: None, maxima: false }
    }

    /// Whether every root is a result, in one binding with the others.
    pub(super) fn is_joined(&self) -> bool {
        self.roots.len() > 1 && self.roots.contains(&self.sink)
    }

    /// The values that are written.
    pub(super) fn results(&self) -> Vec<NodeId> {
        if self.is_joined() { self.roots.clone() } else { std::iter::once(self.sink).chain(self.sequel).collect() }
    }
}

/// A value that a region reads.
struct Leaf {
    node: NodeId,
    /// Whether element `i` of the region reads nothing but its element `i`.
    same_index: bool,
}

/// What is inlined into one sink.
struct Expression {
    leaves: Vec<Leaf>,
    inner: Vec<NodeId>,
}

/// The groups in an order in which each reads only what an earlier one wrote.
pub(super) fn groups(bound: &Bound) -> Result<Vec<Group>> {
    let mut stored = stored(bound);
    split(bound, &mut stored)?;
    let sinks: Vec<NodeId> = bound.values().filter(|id| bound.is_region(*id) && stored[id.index()]).collect();
    let expressions: Vec<Expression> = sinks.iter().map(|sink| expression(bound, &stored, *sink)).collect();

    let readers = readers(bound, &sinks, &expressions);
    let mut groups = Vec::new();
    let mut taken = BTreeSet::new();
    for (sink, expression) in sinks.into_iter().zip(expressions) {
        let only_reader = |leaf: &&Leaf| readers[&leaf.node].iter().eq([&sink]) && !bound.is_alone(leaf.node);
        let roots = if bound.is_alone(sink) { Vec::new() } else { roots(bound, sink, &expression, only_reader) };
        let extras = expression.leaves.iter().map(|leaf| leaf.node).filter(|id| !roots.contains(id)).collect();
        taken.extend(roots.iter().copied());
        groups.push(Group::of(sink, roots, extras));
    }
    for id in bound.values().filter(|id| bound.is_kernel(*id)) {
        if let Some(new_row) = NewRow::of(bound, &readers, id) {
            taken.extend(new_row.absorbed.iter().copied());
            taken.insert(id);
            groups.push(Group { new_row: Some(new_row), ..Group::of(id, vec![id], Vec::new()) });
        }
    }
    for joined in absorb::joined(bound, &readers, &taken) {
        taken.extend(joined.iter().copied());
        groups.push(Group::of(joined[0], joined, Vec::new()));
    }
    let kernels = bound.values().filter(|id| bound.is_kernel(*id) && !taken.contains(id));
    groups.extend(kernels.map(|id| Group::of(id, vec![id], Vec::new())));
    let most = bound.target.max_storage_buffers as usize;
    groups.sort_by_key(|group| group.sink);
    let mut norms = BTreeSet::new();
    // A norm that is a second result has none of its own.
    for group in &mut groups {
        if norms.contains(&group.sink) {
            continue;
        }
        // Operand, two gains, two results and what the epilogue reads.
        if let ([root], true) = (&group.roots[..], 5 + group.extras.len() <= most) {
            group.sequel = absorb::sequel(bound, *root, group.sink, &readers, &taken);
        }
        norms.extend(group.sequel);
    }
    taken.extend(norms.iter().copied());
    for group in &mut groups {
        // Operand, result, weights and what the epilogue reads; then the gain, then the maxima.
        let buffers = 2 + group.roots.len() + group.extras.len();
        if buffers < most {
            group.norm = absorb::norm(bound, &group.roots, &readers, &taken);
        }
        group.maxima = absorb::maxima(bound, &group.roots, group.sink, buffers + usize::from(group.norm.is_some()));
        norms.extend(group.norm);
    }
    groups.retain(|group| !norms.contains(&group.sink));
    Ok(groups)
}

/// Who reads each value.
fn readers(bound: &Bound, sinks: &[NodeId], expressions: &[Expression]) -> Readers {
    let mut readers = Readers::new();
    let mut reads = |value, reader| readers.entry(value).or_default().insert(reader);
    for (sink, expression) in sinks.iter().zip(expressions) {
        expression.leaves.iter().for_each(|leaf| _ = reads(leaf.node, *sink));
    }
    for id in bound.values().filter(|id| bound.is_kernel(*id)) {
        bound.operands(id).for_each(|x| _ = reads(x, id));
    }
    // An output counts as read by itself: nothing may absorb it.
    bound.graph.outputs().iter().for_each(|(_, id)| _ = reads(bound.resolve(*id), bound.resolve(*id)));
    readers
}

/// For each value, whether it gets a slot of its own.
fn stored(bound: &Bound) -> Vec<bool> {
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
    // Places where the value would be computed if it were inlined into all its readers. Moving ops are always inlined and hand
    // the number of their places on to what they move.
    let mut places = vec![0usize; count];
    for id in bound.values().rev() {
        let computes = arithmetic[id.index()] && is_elementwise(bound.op(id));
        let (alone, unread) = (bound.is_alone(id), places[id.index()] == 0);
        stored[id.index()] |= bound.is_kernel(id) || (computes && places[id.index()] > 1);
        stored[id.index()] |= storable(id) && (alone || unread);
        let here = if stored[id.index()] { 1 } else { places[id.index()] };
        let mut operands: Vec<NodeId> = bound.operands(id).collect();
        if is_elementwise(bound.op(id)) {
            operands.sort_unstable();
            operands.dedup();
        }
        for x in operands {
            places[x.index()] = places[x.index()].saturating_add(here);
            stored[x.index()] |= (bound.is_kernel(id) && bound.is_region(x)) || (alone && storable(x));
        }
    }
    stored
}

/// The labels of elementwise arithmetic in dispatches of its own.
pub(super) fn own_regions(bound: &Bound, groups: &[Group]) -> Vec<String> {
    let mut stored = vec![false; bound.graph.nodes().len()];
    groups.iter().for_each(|group| stored[group.sink.index()] = true);
    let computes = |group: &&Group| {
        let inlined = expression(bound, &stored, group.sink).inner;
        group.roots.is_empty() && inlined.into_iter().chain([group.sink]).any(|id| is_elementwise(bound.op(id)))
    };
    groups.iter().filter(computes).map(|group| bound.label(group.sink)).collect()
}

/// Walks from `sink` through everything inlined into it.
fn expression(bound: &Bound, stored: &[bool], sink: NodeId) -> Expression {
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
fn split(bound: &Bound, stored: &mut [bool]) -> Result<()> {
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
                let (label, reads) = (bound.label(sink), wide.leaves.len());
                return Err(Error::Unsupported(format!("{label}: reading {reads} buffers where a dispatch may read {room}")));
            }
        }
    }
    Ok(())
}

/// The ops whose kernel computes the region as its epilogue: none, one, or a pair of products of one operand.
fn roots(bound: &Bound, sink: NodeId, expression: &Expression, only_reader: impl Fn(&&Leaf) -> bool) -> Vec<NodeId> {
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

/// Whether the kernel of `roots` can read everything else that the expression reads.
fn fits(bound: &Bound, expression: &Expression, roots: &[NodeId]) -> bool {
    let sharded = roots.iter().flat_map(|id| bound.operands(*id)).any(|x| bound.shards(x).len() > 1);
    let extras: Vec<&Leaf> = expression.leaves.iter().filter(|leaf| !roots.contains(&leaf.node)).collect();
    // A shard's dispatch binds its operands from its first column on, which those that are read at other places, or are weights or
    // narrower than a word, cannot be.
    let readable = |leaf: &&Leaf| {
        let (weight, dtype) = (bound.shards(leaf.node).len(), bound.ty(leaf.node).dtype);
        match sharded {
            true => leaf.same_index && dtype.is_word() && weight == 0,
            false => dtype.scalar_bytes().is_some() && weight <= 1,
        }
    };
    let own = bound.graph.node(roots[0]).inputs.len() + roots.len();
    extras.iter().all(readable) && own + extras.len() <= bound.target.max_storage_buffers as usize
}
