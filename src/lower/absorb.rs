//! Ops that another op's kernel computes as well.

use std::collections::{BTreeMap, BTreeSet};

use super::bound::Bound;
use crate::ir::{
    DType, Graph, MaskKind, NodeId, Op,
    ops::{Attention, Gain, Input, Linear, RmsNorm, Role, Rope},
};

/// The values that each value is read by; an output is also read by itself.
pub(super) type Readers = BTreeMap<NodeId, BTreeSet<NodeId>>;

/// The row of an attention over one new token, from its projections on: the kernel norms and rotates query and key, and writes key
/// and value into the caches.
pub(super) struct NewRow {
    /// The projections of query, key and value, as the absorbed ops name them.
    pub(super) query: NodeId,
    pub(super) key: NodeId,
    pub(super) value: NodeId,
    /// The rotary rows.
    pub(super) table: NodeId,
    /// The rotation of query and key.
    pub(super) rope: Rope,
    /// The caches of keys and values before the writes.
    pub(super) caches: [NodeId; 2],
    /// The norms of query and key.
    pub(super) norms: Option<[NodeId; 2]>,
    /// What the kernel computes besides the attention.
    pub(super) absorbed: Vec<NodeId>,
}

impl NewRow {
    /// The new row of `attention`, where all that leads to it is read by nothing else.
    pub(super) fn of(bound: &Bound, readers: &Readers, attention: NodeId) -> Option<Self> {
        let Op::Attention(Attention { keep: false, .. }) = bound.op(attention) else { return None };
        let one_row = bound.apart > 0 || bound.ty(attention).shape[1] == 1;
        let inputs = &bound.graph.node(attention).inputs;
        let only = |value: NodeId, reader: NodeId| readers.get(&value).is_some_and(|r| r.iter().eq([&reader]));
        let free = |value: NodeId, reader: NodeId| only(value, reader) && !bound.is_alone(value);
        let [query, key, value] = [0, 1, 2].map(|i| bound.resolve(inputs[i]));
        let heads = bound.ty(attention).clone();
        if !one_row || key == value || bound.is_alone(attention) {
            return None;
        }
        let positions = own_positions(bound, attention)?;
        let write = |cache_write: NodeId| {
            let Op::CacheWrite(_) = bound.op(cache_write) else { return None };
            let [cache, row, at] = bound.graph.node(cache_write).inputs[..] else { return None };
            let own = bound.resolve(cache);
            let fits = free(cache_write, attention) && only(own, cache_write) && bound.resolve(at) == positions;
            (fits && matches!(bound.op(own), Op::Input(_))).then_some((cache, row))
        };
        let turn = |rope: NodeId, reader: NodeId| match bound.op(rope) {
            Op::Rope(turn) if free(rope, reader) => {
                let inputs = &bound.graph.node(rope).inputs;
                Some((inputs[0], inputs[1], turn))
            }
            _ => None,
        };
        let (key_cache, rotated_key) = write(key)?;
        let (value_cache, value_row) = write(value)?;
        let rotated = bound.resolve(rotated_key);
        let (q, table, rope) = turn(query, attention)?;
        let (k, key_table, key_rope) = turn(rotated, key)?;
        let key_heads = &bound.ty(inputs[1]).shape[2..];
        let by_head = *bound.ty(query) == heads && bound.ty(rotated).shape[2..] == *key_heads;
        if bound.resolve(table) != bound.resolve(key_table) || rope != key_rope || !by_head {
            return None;
        }
        if !Attention::makes_rows(bound.target_of(attention), heads.last(), rope, bound.ty(table).last()) {
            return None;
        }
        let mut absorbed = vec![query, rotated, key, value];
        let norms = [bound.resolve(q), bound.resolve(k)];
        let width = norms.iter().all(|norm| bound.ty(*norm).last() == heads.last());
        let norms = (width && free(norms[0], query) && free(norms[1], rotated) && alike(bound, norms)).then_some(norms);
        let below = |norm: NodeId| bound.graph.node(norm).inputs[0];
        let [q, k] = norms.map_or([q, k], |norms| norms.map(below));
        absorbed.extend(norms.iter().flatten());
        // Attention's own operands, its result, what was absorbed and the norms' weights.
        let buffers = 9 + 2 * usize::from(norms.is_some());
        let fits = buffers <= bound.target.max_storage_buffers as usize;
        let caches = [key_cache, value_cache];
        fits.then(|| Self { query: q, key: k, value: value_row, table, rope: rope.clone(), caches, norms, absorbed })
    }
}

impl NewRow {
    /// The operands of the attention itself, with the projected query and the caches as they were.
    pub(super) fn of_attention(&self, bound: &Bound, attention: NodeId) -> [NodeId; 5] {
        let inputs = &bound.graph.node(attention).inputs;
        [self.query, self.caches[0], self.caches[1], inputs[3], inputs[4]]
    }

    /// All that the kernel reads.
    pub(super) fn operands(&self, bound: &Bound, attention: NodeId) -> Vec<NodeId> {
        let gain = |norm: &NodeId| bound.graph.node(*norm).inputs.get(1).copied();
        let gains = self.norms.iter().flatten().filter_map(gain);
        let own = self.of_attention(bound, attention).into_iter();
        own.chain([self.key, self.value, self.table]).chain(gains).collect()
    }
}

/// The positions that the attention's own rows are written at, where each row sees itself and none behind it: the last position that
/// a query sees is its own.
fn own_positions(bound: &Bound, attention: NodeId) -> Option<NodeId> {
    let [visible, keys] = [3, 4].map(|i| bound.resolve(bound.graph.node(attention).inputs[i]));
    let Op::CacheWrite(_) = bound.op(keys) else { return None };
    let [positions, rows] = bound.operands(keys).skip(1).collect::<Vec<_>>()[..] else { return None };
    let role = |value: NodeId| match bound.op(value) {
        Op::Input(Input { role, .. }) => Some(role),
        _ => None,
    };
    let Role::Positions(of_rows) = role(positions)? else { return None };
    let Role::Visible { rule, mask: MaskKind::Causal | MaskKind::SlidingWindow(1..) } = role(visible)? else { return None };
    (rows == positions && rule == of_rows).then_some(positions)
}

/// Two norms with weights of one sort, over rows of one head.
fn alike(bound: &Bound, norms: [NodeId; 2]) -> bool {
    let norm = |id: NodeId| match bound.op(id) {
        Op::RmsNorm(norm) if norm.gain != Gain::None => Some((norm, bound.ty(bound.graph.node(id).inputs[1]).clone())),
        _ => None,
    };
    let [a, b] = norms.map(norm);
    a.is_some() && a == b
}

/// The one norm of the result of another norm's group that lies in memory as it does: `norm` is the group's root and `sink` its
/// result.
pub(super) fn sequel(bound: &Bound, norm: NodeId, sink: NodeId, readers: &Readers, taken: &BTreeSet<NodeId>) -> Option<NodeId> {
    let Op::RmsNorm(first) = bound.op(norm) else { return None };
    let weight = |id: NodeId| bound.graph.node(id).inputs.get(1).map(|gain| bound.ty(*gain));
    // A gain that is computed may come after the first norm.
    let given = |id: NodeId| bound.operands(id).nth(1).is_none_or(|gain| matches!(bound.op(gain), Op::Weight(_)));
    let follows = |id: &NodeId| match bound.op(*id) {
        Op::RmsNorm(RmsNorm { gain, .. }) => {
            let x = bound.graph.node(*id).inputs[0];
            *gain == first.gain
                && bound.resolve(x) == sink
                && bound.ty(x).last() == bound.ty(norm).last()
                && weight(*id) == weight(norm)
                && given(*id)
        }
        _ => false,
    };
    let free = |id: &NodeId| !bound.is_alone(*id) && !bound.is_alone(sink) && !taken.contains(id);
    readers.get(&sink)?.iter().copied().find(|id| follows(id) && free(id))
}

/// The norm that makes the operand of these products and of nothing else.
pub(super) fn norm(bound: &Bound, roots: &[NodeId], readers: &Readers, taken: &BTreeSet<NodeId>) -> Option<NodeId> {
    let first = *roots.first()?;
    if !roots.iter().all(|root| matches!(bound.op(*root), Op::Linear(_)) && !bound.is_alone(*root)) {
        return None;
    }
    let norm = bound.operands(first).next()?;
    let Op::RmsNorm(RmsNorm { gain: Gain::OnePlus | Gain::Plain, .. }) = bound.op(norm) else { return None };
    let free = !bound.is_alone(norm) && !taken.contains(&norm) && readers.get(&norm)?.iter().all(|reader| roots.contains(reader));
    let same_rows = bound.ty(norm).last() == bound.ty(bound.graph.node(first).inputs[0]).last();
    (free && same_rows && Linear::norms_operand(bound.target_of(first), bound.ty(first).rows(), bound.compute(first)))
        .then_some(norm)
}

/// Whether the kernel of `roots` keeps the largest of each slice of `sink`: one product of one row that makes the output which a
/// token is chosen from, `buffers` being what it binds besides.
pub(super) fn maxima(bound: &Bound, roots: &[NodeId], sink: NodeId, buffers: usize) -> bool {
    let chosen_from =
        |(name, id): &(String, NodeId)| Some(name) == bound.options.chosen_from.as_ref() && bound.resolve(*id) == sink;
    let [root] = roots else { return false };
    matches!(bound.op(*root), Op::Linear(_))
        && bound.ty(*root).rows() == 1
        && bound.ty(sink).dtype == DType::F32
        && !bound.is_alone(*root)
        && !bound.is_alone(sink)
        && bound.graph.outputs().iter().any(chosen_from)
        && Linear::keeps_maxima(bound.target_of(*root))
        && buffers < bound.target.max_storage_buffers as usize
}

/// Products of one row whose weights lie one behind the other, so that one dispatch reads them as one matrix: each a list in the
/// order of the weights.
pub(super) fn joined(bound: &Bound, readers: &Readers, taken: &BTreeSet<NodeId>) -> Vec<Vec<NodeId>> {
    let mut lists: Vec<Vec<NodeId>> = Vec::new();
    for id in bound.values() {
        let is_output = readers.get(&id).is_some_and(|r| r.contains(&id));
        let one = matches!(bound.op(id), Op::Linear(_)) && bound.ty(id).rows() == 1 && bound.shards(weight(bound, id)).len() == 1;
        if !one || is_output || bound.is_alone(id) || taken.contains(&id) {
            continue;
        }
        match lists.iter_mut().find(|list| follows(bound, list, id)) {
            Some(list) => list.push(id),
            None => lists.push(vec![id]),
        }
    }
    lists.retain(|list| list.len() > 1);
    lists
}

/// Whether the weight of the product `id` may be read behind those of `list`.
fn follows(bound: &Bound, list: &[NodeId], id: NodeId) -> bool {
    let (Some(first), Some(last)) = (list.first(), list.last()) else { return false };
    let input = |id: NodeId| bound.resolve(bound.graph.node(id).inputs[0]);
    let bytes = |id: &NodeId| {
        let ty = bound.ty(weight(bound, *id));
        ty.dtype.resident_row_bytes(ty.last()).map_or(u64::MAX, |row| row.saturating_mul(ty.rows() as u64))
    };
    let types = [*last, id].map(|id| bound.ty(weight(bound, id)));
    let [Op::Weight(before), Op::Weight(own)] = [*last, id].map(|id| bound.op(weight(bound, id))) else { return false };
    input(*first) == input(id)
        && bound.compute(*first) == bound.compute(id)
        && types[0].dtype == types[1].dtype
        && types[0].last() == types[1].last()
        // The results lie one behind the other too, each where a binding may begin.
        && list.iter().all(|id| bound.ty(*id).last().is_multiple_of(64))
        && list.iter().chain([&id]).map(bytes).fold(0, u64::saturating_add) <= bound.target.max_binding
        && bound.residency.adjoin(&before.name, &own.name)
}

fn weight(bound: &Bound, product: NodeId) -> NodeId {
    bound.resolve(bound.graph.node(product).inputs[1])
}

/// Weights that multiply the same value, in the order of the graph: a device that keeps each list in one piece
/// ([`Residency::adjoin`](super::Residency::adjoin)) reads it with one dispatch where one row is multiplied.
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

#[cfg(test)]
mod tests;
