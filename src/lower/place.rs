//! Appends dispatches and gives every stored value a slot.

use std::collections::BTreeMap;

use super::{
    absorb, apart,
    bound::Bound,
    fuse::Group,
    joined::{joined_type, joined_weight},
    region,
};
use crate::{
    Error, Result,
    ir::{
        Compute, DType, FixedType, NodeId, Op,
        kernel::{Arg, Emit, Epilogue, Maxima, NewRow, NormArg, Operand, Place, Slot},
        ops::{Linear, Role},
    },
    plan::{Plan, PlanOutput, SlotInfo, SlotKind, sampling},
};

/// The plan that computes `groups` in order.
pub(super) fn place(bound: &Bound, groups: &[Group]) -> Result<Plan> {
    let plan = Plan { name: bound.graph.name.clone(), ..Plan::default() };
    let owners = Owners { bound, leaders: leaders(groups) };
    let last_use = last_use(&owners, groups);
    let mut placer = Placer { bound, plan, owners, last_use, free: Vec::new(), slots: BTreeMap::new(), holders: BTreeMap::new() };
    placer.inputs()?;
    for (step, group) in groups.iter().enumerate() {
        placer.group(step, group)?;
    }
    placer.outputs()
}

/// Which value stands for a slot that several lie in.
struct Owners<'a> {
    bound: &'a Bound<'a>,
    /// The first of the joined results that a value is one of.
    leaders: BTreeMap<NodeId, NodeId>,
}

impl Owners<'_> {
    /// The value whose slot `id` lies in: that of its cache for a cache write, which happens in place.
    fn of(&self, mut id: NodeId) -> NodeId {
        while let (Op::CacheWrite(_), Some(cache)) = (self.bound.op(id), self.bound.operands(id).next()) {
            id = cache;
        }
        self.leaders.get(&id).copied().unwrap_or(id)
    }
}

fn leaders(groups: &[Group]) -> BTreeMap<NodeId, NodeId> {
    let joined = groups.iter().filter(|group| group.is_joined());
    joined.flat_map(|group| group.roots.iter().map(|root| (*root, group.sink))).collect()
}

/// Values that a group reads.
pub(super) fn operands(bound: &Bound, group: &Group) -> Vec<NodeId> {
    let weight = |norm: NodeId| bound.operands(norm).nth(1);
    let sequel = group.sequel.and_then(weight);
    let own = match &group.new_row {
        Some(row) => row.operands(bound, group.sink).iter().map(|id| bound.resolve(*id)).collect(),
        None => {
            let own = group.roots.iter().flat_map(|root| bound.operands(*root)).filter(|x| Some(*x) != group.norm);
            own.chain(group.norm.into_iter().flat_map(|norm| bound.operands(norm))).collect::<Vec<_>>()
        }
    };
    own.into_iter().chain(group.extras.iter().copied()).chain(sequel).collect()
}

/// The last step that needs each slot owner; outputs are needed for ever.
fn last_use(owners: &Owners, groups: &[Group]) -> BTreeMap<NodeId, usize> {
    let mut last = BTreeMap::new();
    for (step, group) in groups.iter().enumerate() {
        for value in operands(owners.bound, group).into_iter().chain(group.results()) {
            last.insert(owners.of(value), step);
        }
    }
    for (_, id) in owners.bound.graph.outputs() {
        last.insert(owners.of(owners.bound.resolve(*id)), usize::MAX);
    }
    last
}

struct Placer<'a> {
    bound: &'a Bound<'a>,
    plan: Plan,
    owners: Owners<'a>,
    last_use: BTreeMap<NodeId, usize>,
    free: Vec<Slot>,
    /// The slot of each value placed so far, and where in it the value begins.
    slots: BTreeMap<NodeId, (Slot, u64)>,
    /// The value that each slot holds now; the first of joined ones.
    holders: BTreeMap<Slot, NodeId>,
}

impl Placer<'_> {
    fn inputs(&mut self) -> Result<()> {
        for id in self.bound.values() {
            let Op::Input(input) = self.bound.op(id) else { continue };
            let ty = self.bound.ty(id).clone();
            let bytes = self.slot_bytes(bytes_of(&ty, &input.name)?, &input.name)?;
            let name = input.name.clone();
            let slot = match self.bound.apart {
                sequences if sequences > 0 && input.role == Role::Cache => {
                    apart::caches(&mut self.plan, &name, &ty, bytes, sequences)
                }
                _ => self.new_slot(bytes, SlotKind::Input { name, role: input.role.clone(), ty }),
            };
            self.hold(slot, id);
        }
        Ok(())
    }

    fn outputs(mut self) -> Result<Plan> {
        for (name, id) in self.bound.graph.outputs() {
            let value = self.bound.resolve(*id);
            if matches!(self.bound.op(value), Op::Weight(_)) {
                return Err(Error::Unsupported(format!("output '{name}': a weight as it is stored")));
            }
            let (slot, _) = self.current(value, &format!("output '{name}'"))?;
            self.plan.outputs.push(PlanOutput { name: name.clone(), slot, ty: self.bound.ty(*id).clone() });
        }
        Ok(self.plan)
    }

    fn group(&mut self, step: usize, group: &Group) -> Result<()> {
        let bound = self.bound;
        let root = group.roots.first().copied();
        let label = bound.label(root.unwrap_or(group.sink));
        let inputs = self.inputs_of(group, &label)?;
        let extras = group.extras.iter().map(|x| self.arg(*x, false, &label)).collect::<Result<Vec<_>>>()?;
        let new_row = group.new_row.as_ref().map(|row| self.new_row(row, &label)).transpose()?;
        let of_a_sequence = bound.apart > 0 && root.is_some_and(|root| apart::is_of_a_sequence(bound.op(root)));
        if !of_a_sequence && inputs.iter().chain(&extras).any(|arg| apart::is_cache(&self.plan, arg)) {
            return Err(apart::mixed(&label));
        }
        // An epilogue's result lies in memory as the root's, whatever the sink's dimensions are.
        let result = root.unwrap_or(group.sink);
        let ty = if group.is_joined() { joined_type(bound, &group.roots) } else { bound.ty(result).clone() };
        let slot = self.result(group, &ty, &label)?;
        let output = Arg { ty, place: Place::Slot(slot, 0), grows: bound.grows(result) };
        let norm = group.norm.map(|norm| self.norm(norm, &label)).transpose()?;
        let sequel = group.sequel.map(|norm| self.sequel(norm, &label)).transpose()?;
        let maxima = group.maxima.then(|| self.maxima(group.sink, &label)).transpose()?;
        let epilogue = match root {
            Some(root) if root != group.sink => region::epilogue(bound, group, extras.clone())?,
            _ => Epilogue::identity(),
        };
        let target = bound.target_of(result);
        let compute = root.map_or(Compute::F32, |root| bound.compute(root));
        let mut emit = Emit {
            target,
            compute,
            label,
            inputs,
            output,
            epilogue,
            new_row,
            norm,
            sequel,
            maxima,
            dispatches: Vec::new(),
            alternatives: Vec::new(),
            scratch: Vec::new(),
            first_scratch: self.plan.slots.len(),
        };
        match group.roots[..] {
            [] => {
                let mut bindings = vec![(0, emit.output.operand())];
                bindings.extend((region::FIRST_BINDING..).zip(extras.iter().map(Arg::operand)));
                emit.dispatch(region::kernel(bound, group)?, bindings, bound.ty(group.sink).len().div_ceil(64), 1);
            }
            _ if group.is_joined() => {
                let weights = [joined_weight(&emit.inputs)];
                Linear::emit_products(&mut emit, &weights)?;
            }
            [root] if of_a_sequence => {
                emit = apart::emit(bound, bound.op(root), emit, |arg| apart::is_cache(&self.plan, arg))?;
            }
            [root] => bound.op(root).emit(&mut emit)?,
            _ => {
                let weights = [emit.inputs[1].clone(), emit.inputs[3].clone()];
                Linear::emit_products(&mut emit, &weights)?;
            }
        }
        self.append(emit)?;
        self.hold_results(slot, group);
        self.release(step, group);
        Ok(())
    }

    /// The operands of the roots, as their kernel binds them.
    fn inputs_of(&self, group: &Group, label: &str) -> Result<Vec<Arg>> {
        let bound = self.bound;
        if let Some(row) = &group.new_row {
            let own = row.of_attention(bound, group.sink);
            return own.iter().map(|x| self.arg(*x, false, label)).collect();
        }
        let mut inputs = Vec::new();
        for root in &group.roots {
            for (index, x) in bound.graph.node(*root).inputs.iter().enumerate() {
                let normed = group.norm.filter(|norm| bound.resolve(*x) == *norm);
                let x = normed.map_or(*x, |norm| bound.graph.node(norm).inputs[0]);
                inputs.push(self.arg(x, takes_shards(bound.op(*root), index), label)?);
            }
        }
        Ok(inputs)
    }

    fn new_row(&self, row: &absorb::NewRow, label: &str) -> Result<NewRow> {
        let arg = |id: NodeId| self.arg(id, false, label);
        let norms = match row.norms {
            Some([q, k]) => Some([self.norm(q, label)?, self.norm(k, label)?]),
            None => None,
        };
        Ok(NewRow { key: arg(row.key)?, value: arg(row.value)?, table: arg(row.table)?, rope: row.rope.clone(), norms })
    }

    fn norm(&self, id: NodeId, label: &str) -> Result<NormArg> {
        let Op::RmsNorm(op) = self.bound.op(id) else {
            return Err(self.bound.malformed(format!("{label}: {id} is no norm")));
        };
        let gain = self.bound.graph.node(id).inputs.get(1).map(|gain| self.arg(*gain, false, label)).transpose()?;
        Ok(NormArg { op: op.clone(), gain })
    }

    /// The norm of a norm's result, and a slot for it.
    fn sequel(&mut self, norm: NodeId, label: &str) -> Result<(NormArg, Arg)> {
        let ty = self.bound.ty(norm).clone();
        let slot = self.slot_for(norm, &ty, label)?;
        self.hold(slot, norm);
        Ok((self.norm(norm, label)?, Arg { ty, place: Place::Slot(slot, 0), grows: false }))
    }

    /// A slot for the largest of each slice of `value`, as an output beside those of the graph.
    fn maxima(&mut self, value: NodeId, label: &str) -> Result<Maxima> {
        let elements = self.bound.ty(value).len();
        let slice = sampling::slice_of(elements);
        let ty = FixedType { dtype: DType::U32, shape: vec![elements.div_ceil(slice)] };
        let bytes = self.slot_bytes(bytes_of(&ty, label)?, label)?;
        let slot = self.new_slot(bytes, SlotKind::Zeroed);
        let name = self.bound.options.chosen_from.as_deref().unwrap_or_default();
        self.plan.outputs.push(PlanOutput { name: sampling::maxima_of(name), slot, ty });
        Ok(Maxima { to: Operand::Slot(slot, 0), slice })
    }

    fn hold_results(&mut self, slot: Slot, group: &Group) {
        self.hold(slot, group.sink);
        if group.is_joined() {
            let mut offset = 0;
            for root in &group.roots {
                self.slots.insert(*root, (slot, offset));
                offset += (self.bound.ty(*root).len() * 4) as u64;
            }
        }
    }

    /// Adds an op's dispatches with their scratch slots placed, which are free again afterwards.
    fn append(&mut self, emit: Emit) -> Result<()> {
        let Emit { label, dispatches, alternatives, scratch, first_scratch, .. } = emit;
        for new in alternatives {
            if !self.plan.alternatives.contains(&new) {
                self.plan.alternatives.push(new);
            }
        }
        let scratch = scratch.iter().map(|bytes| self.scratch(*bytes, &label)).collect::<Result<Vec<_>>>()?;
        for mut dispatch in dispatches {
            for (_, operand) in &mut dispatch.bindings {
                if let Operand::Slot(slot, _) = operand
                    && slot.0 >= first_scratch
                {
                    *slot = scratch[slot.0 - first_scratch];
                }
            }
            let buffers = dispatch.bindings.iter().filter(|(_, operand)| !operand.is_step()).count();
            let most = self.bound.target.max_storage_buffers;
            if buffers > most as usize {
                let what = format!("{label}: a dispatch with {buffers} storage buffers on a device that binds at most {most}");
                return Err(Error::Unsupported(what));
            }
            self.plan.dispatches.push(dispatch);
        }
        self.free.extend(scratch);
        Ok(())
    }

    /// An operand as a kernel binds it.
    fn arg(&self, id: NodeId, takes_shards: bool, label: &str) -> Result<Arg> {
        let (value, ty) = (self.bound.resolve(id), self.bound.ty(id).clone());
        let Op::Weight(weight) = self.bound.op(value) else {
            let (slot, offset) = self.current(value, label)?;
            return Ok(Arg { place: Place::Slot(slot, offset), ty, grows: self.bound.grows(id) });
        };
        let shards = self.bound.shards(value);
        let place = match shards.len() {
            1 => std::iter::once(0..ty.shape.first().copied().unwrap_or(1)).collect(),
            _ if takes_shards && value == id => shards.to_vec(),
            count => {
                let name = &weight.name;
                return Err(Error::Unsupported(format!(
                    "{label}: reading the weight '{name}', which lies in {count} shards, here"
                )));
            }
        };
        Ok(Arg { ty, place: Place::Weight(weight.name.clone(), place), grows: false })
    }

    /// The slot of `value`, which must not have been overwritten.
    fn current(&self, value: NodeId, reader: &str) -> Result<(Slot, u64)> {
        let missing = || self.bound.malformed(format!("{reader} reads {value}, which was not computed"));
        let (slot, offset) = *self.slots.get(&value).ok_or_else(missing)?;
        let leader = self.owners.leaders.get(&value).copied().unwrap_or(value);
        match self.holders.get(&slot) {
            Some(holder) if *holder == leader => Ok((slot, offset)),
            holder => {
                let writer = holder.map_or_else(String::new, |id| format!(" by {id} ({})", self.bound.label(*id)));
                Err(self.bound.malformed(format!("{reader} reads {value} after it was overwritten in place{writer}")))
            }
        }
    }

    /// The slot that the group writes.
    fn result(&mut self, group: &Group, ty: &FixedType, label: &str) -> Result<Slot> {
        let sink = group.sink;
        if let (Op::CacheWrite(_), Some(cache)) = (self.bound.op(sink), self.bound.operands(sink).next()) {
            if matches!(self.bound.op(cache), Op::Weight(_)) {
                return Err(Error::Unsupported(format!("{label}: writing into a weight")));
            }
            if self.bound.operands(sink).skip(1).any(|x| self.slots.get(&x) == self.slots.get(&cache)) {
                return Err(self.bound.malformed(format!("{label} writes rows of a cache into the same cache")));
            }
            return Ok(self.current(cache, label)?.0);
        }
        // An epilogue may convert what it writes.
        let ty = if group.is_joined() { ty } else { self.bound.ty(sink) };
        self.slot_for(sink, ty, label)
    }

    fn slot_for(&mut self, value: NodeId, ty: &FixedType, label: &str) -> Result<Slot> {
        let bytes = bytes_of(ty, label)?;
        if self.last_use.get(&value) == Some(&usize::MAX) {
            let bytes = self.slot_bytes(bytes, label)?;
            return Ok(self.new_slot(bytes, SlotKind::Scratch));
        }
        self.scratch(bytes, label)
    }

    /// The smallest free slot that is large enough, else the largest one enlarged, else a new one.
    fn scratch(&mut self, bytes: u64, label: &str) -> Result<Slot> {
        let bytes = self.slot_bytes(bytes, label)?;
        let size = |slot: &Slot| self.plan.slots[slot.0].bytes;
        let fitting = self.free.iter().enumerate().filter(|(_, slot)| size(slot) >= bytes).min_by_key(|(_, slot)| size(slot));
        let chosen = fitting.or_else(|| self.free.iter().enumerate().max_by_key(|(_, slot)| size(slot)));
        let Some(index) = chosen.map(|(index, _)| index) else { return Ok(self.new_slot(bytes, SlotKind::Scratch)) };
        let slot = self.free.swap_remove(index);
        let info = &mut self.plan.slots[slot.0];
        info.bytes = info.bytes.max(bytes);
        Ok(slot)
    }

    /// Bytes of a slot for a value: vector loads of the last elements stay inside.
    fn slot_bytes(&self, bytes: u64, label: &str) -> Result<u64> {
        let (bytes, most) = (bytes.next_multiple_of(16) + 16, self.bound.target.max_binding);
        if bytes > most {
            let what = format!("{label}: a buffer of {bytes} bytes on a device that binds at most {most}");
            return Err(Error::Unsupported(what));
        }
        Ok(bytes)
    }

    fn new_slot(&mut self, bytes: u64, kind: SlotKind) -> Slot {
        self.plan.slots.push(SlotInfo { bytes, kind });
        Slot(self.plan.slots.len() - 1)
    }

    fn hold(&mut self, slot: Slot, value: NodeId) {
        self.slots.insert(value, (slot, 0));
        self.holders.insert(slot, value);
    }

    /// Frees the slots that no later step needs.
    fn release(&mut self, step: usize, group: &Group) {
        for value in operands(self.bound, group).into_iter().chain(group.results()) {
            let owner = self.owners.of(value);
            let Some(&(slot, _)) = self.slots.get(&owner).filter(|_| self.last_use.get(&owner) == Some(&step)) else { continue };
            if self.plan.slots[slot.0].kind == SlotKind::Scratch && !self.free.contains(&slot) {
                self.free.push(slot);
            }
        }
    }
}

/// Bytes of a value in a slot.
fn bytes_of(ty: &FixedType, label: &str) -> Result<u64> {
    let bytes = ty.byte_len().map(|bytes| bytes as u64);
    bytes.ok_or_else(|| Error::Unsupported(format!("{label}: {} in a buffer that is no weight", ty.dtype)))
}

/// Whether the op's kernel runs once for each shard of the operand.
fn takes_shards(op: &Op, operand: usize) -> bool {
    match op {
        Op::Linear(_) | Op::ExpertLinear(_) => operand == 1,
        Op::Gather(gather) => operand == 0 && !gather.per_batch,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
