//! Attention over one new token: its kernel norms and rotates query and key, and writes key and value into the caches.

use super::{Group, Matcher};
use crate::ir::{
    MaskKind, NodeId, Op,
    fusion::{DecodePrologue, FusedNorm, Fusion},
    ops::{Attention, Gain, Input, Role, Rope},
};

/// A prologue as it is found.
struct Found {
    prologue: DecodePrologue<NodeId>,
    /// The operands of the attention: the projected query, and the caches before the writes.
    inputs: Vec<NodeId>,
    /// The ops that it takes the place of.
    fused: Vec<NodeId>,
}

/// A rotation: its operand, the rows of the table, and how it turns.
type Rotation<'a> = (NodeId, NodeId, &'a Rope);

impl Matcher<'_> {
    /// The attentions that have a decode prologue.
    pub(super) fn attentions(&mut self) -> Vec<Group> {
        let mut groups = Vec::new();
        for id in self.bound.values().filter(|id| self.bound.is_kernel(*id)) {
            let Some(found) = self.decode_prologue(id) else { continue };
            self.fused.extend(found.fused);
            self.fused.insert(id);
            let fusions = vec![Fusion::DecodePrologue(found.prologue)];
            groups.push(Group { inputs: found.inputs, fusions, ..Group::kernel(self.bound, id) });
        }
        groups
    }

    /// The prologue of `attention`, where nothing else reads the values that lead to it.
    fn decode_prologue(&self, attention: NodeId) -> Option<Found> {
        let bound = self.bound;
        let Op::Attention(Attention { keep: false, .. }) = bound.op(attention) else { return None };
        let one_row = bound.sequences > 0 || bound.ty(attention).shape[1] == 1;
        let inputs = &bound.graph.node(attention).inputs;
        let [query, key, value] = [0, 1, 2].map(|i| bound.resolve(inputs[i]));
        if !one_row || key == value || bound.is_alone(attention) {
            return None;
        }
        let positions = self.own_positions(attention)?;
        let (key_cache, rotated_key) = self.cache_write(key, attention, positions)?;
        let (value_cache, value_row) = self.cache_write(value, attention, positions)?;
        let rotated = bound.resolve(rotated_key);
        let (q, table, rope) = self.rotation(query, attention)?;
        let (k, key_table, key_rope) = self.rotation(rotated, key)?;
        let heads = bound.ty(attention);
        let by_head = bound.ty(query) == heads && bound.ty(rotated).shape[2..] == bound.ty(inputs[1]).shape[2..];
        if bound.resolve(table) != bound.resolve(key_table) || rope != key_rope || !by_head {
            return None;
        }
        if !Attention::has_decode_prologue(bound.target_of(attention), heads.last(), rope, bound.ty(table).last()) {
            return None;
        }
        let mut fused = vec![query, rotated, key, value];
        let mut operands = [q, k];
        let norms = self.head_norms([(q, query), (k, rotated)], heads.last());
        if norms.is_some() {
            fused.extend(operands.map(|norm| bound.resolve(norm)));
            operands = operands.map(|norm| bound.graph.node(bound.resolve(norm)).inputs[0]);
        }
        // Attention's own operands, its result, the prologue's operands and the weights of the norms.
        let buffers = 9 + 2 * usize::from(norms.is_some());
        if buffers > bound.target.max_storage_buffers as usize {
            return None;
        }
        let [q, k] = operands;
        let prologue = DecodePrologue { key: k, value: value_row, table, rope: rope.clone(), norms };
        Some(Found { prologue, inputs: vec![q, key_cache, value_cache, inputs[3], inputs[4]], fused })
    }

    fn is_free(&self, value: NodeId, reader: NodeId) -> bool {
        self.only_reader(value, reader) && !self.bound.is_alone(value)
    }

    /// The cache and the row of a write at `positions` that `attention` alone reads.
    fn cache_write(&self, write: NodeId, attention: NodeId, positions: NodeId) -> Option<(NodeId, NodeId)> {
        let bound = self.bound;
        let Op::CacheWrite(_) = bound.op(write) else { return None };
        let [cache, row, at] = bound.graph.node(write).inputs[..] else { return None };
        let own = bound.resolve(cache);
        let fits = self.is_free(write, attention) && self.only_reader(own, write) && bound.resolve(at) == positions;
        (fits && matches!(bound.op(own), Op::Input(_))).then_some((cache, row))
    }

    /// The rotation `id` that `reader` alone reads.
    fn rotation(&self, id: NodeId, reader: NodeId) -> Option<Rotation<'_>> {
        let Op::Rope(rope) = self.bound.op(id) else { return None };
        let inputs = &self.bound.graph.node(id).inputs;
        self.is_free(id, reader).then_some((inputs[0], inputs[1], rope))
    }

    /// The norms of query and key over heads of `width`, each with its only reader: of one sort, with weights of one
    /// type.
    fn head_norms(&self, norms: [(NodeId, NodeId); 2], width: usize) -> Option<[FusedNorm<NodeId>; 2]> {
        let bound = self.bound;
        let [q, k] = norms.map(|(norm, reader)| {
            let norm = bound.resolve(norm);
            let fused = self.fused_norm(norm).filter(|fused| fused.op.gain != Gain::None)?;
            (bound.ty(norm).last() == width && self.is_free(norm, reader)).then_some(fused)
        });
        let q = q?;
        let k = k?;
        let gain_type = |norm: &FusedNorm<NodeId>| norm.gain.map(|gain| bound.ty(gain));
        (q.op == k.op && gain_type(&q) == gain_type(&k)).then_some([q, k])
    }

    /// The positions at which the attention's rows are written, where each row sees itself and none behind it: the last
    /// position that a query sees is its own.
    fn own_positions(&self, attention: NodeId) -> Option<NodeId> {
        let bound = self.bound;
        let [visible, keys] = [3, 4].map(|i| bound.resolve(bound.graph.node(attention).inputs[i]));
        let Op::CacheWrite(_) = bound.op(keys) else { return None };
        let [positions, rows] = bound.operands(keys).skip(1).collect::<Vec<_>>()[..] else { return None };
        let role = |value: NodeId| match bound.op(value) {
            Op::Input(Input { role, .. }) => Some(role),
            _ => None,
        };
        let Role::Positions(of_rows) = role(positions)? else { return None };
        let Role::Visible { rule, mask: MaskKind::Causal | MaskKind::SlidingWindow(1..), .. } = role(visible)? else {
            return None;
        };
        (rows == positions && rule == of_rows).then_some(positions)
    }
}
