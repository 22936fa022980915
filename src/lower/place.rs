//! Gives every stored value a slot, and scratch memory to the ops that ask for it.

use std::collections::BTreeMap;

use super::{bound::Bound, fuse::Group, sequences};
use crate::{
    Error, Result,
    ir::{
        DType, FixedType, NodeId, Op,
        emit::{Arg, Emit, Place},
        fusion::Fusion,
        kernel::{Operand, Slot},
        ops::Role,
    },
    plan::{Plan, PlanOutput, SlotInfo, SlotKind, sampling},
};

/// Which value stands for a slot that several lie in.
struct Owners<'a> {
    bound: &'a Bound<'a>,
    /// The first of the concatenated results that a value is one of.
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
    let concatenated = groups.iter().filter(|group| group.is_concatenated());
    concatenated.flat_map(|group| group.roots.iter().map(|root| (*root, group.sink))).collect()
}

/// The last step that needs each slot owner; outputs are needed for ever.
fn last_use(owners: &Owners, groups: &[Group]) -> BTreeMap<NodeId, usize> {
    let mut last = BTreeMap::new();
    for (step, group) in groups.iter().enumerate() {
        for value in group.operands(owners.bound).into_iter().chain(group.results()) {
            last.insert(owners.of(value), step);
        }
    }
    for (_, id) in owners.bound.graph.outputs() {
        last.insert(owners.of(owners.bound.resolve(*id)), usize::MAX);
    }
    last
}

/// Operands and results of a group, each with its place.
pub(super) struct Placed {
    pub(super) label: String,
    pub(super) inputs: Vec<Arg>,
    pub(super) extras: Vec<Arg>,
    pub(super) output: Arg,
    pub(super) second_output: Option<Arg>,
    pub(super) fusions: Vec<Fusion<Arg>>,
    /// Number of the first slot that the op may ask for as scratch.
    pub(super) first_scratch: usize,
}

/// Gives values their slots, group by group.
pub(super) struct Placer<'a> {
    bound: &'a Bound<'a>,
    plan: Plan,
    owners: Owners<'a>,
    last_use: BTreeMap<NodeId, usize>,
    free: Vec<Slot>,
    /// The slot of each value placed so far, and where in it the value begins.
    slots: BTreeMap<NodeId, (Slot, u64)>,
    /// The value that each slot holds now; the first of concatenated ones.
    holders: BTreeMap<Slot, NodeId>,
}

impl<'a> Placer<'a> {
    pub(super) fn new(bound: &'a Bound<'a>, groups: &[Group]) -> Result<Self> {
        let owners = Owners { bound, leaders: leaders(groups) };
        let last_use = last_use(&owners, groups);
        let plan = Plan { name: bound.graph.name.clone(), ..Plan::default() };
        let mut placer =
            Self { bound, plan, owners, last_use, free: Vec::new(), slots: BTreeMap::new(), holders: BTreeMap::new() };
        placer.inputs()?;
        Ok(placer)
    }

    /// The plan so far.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn inputs(&mut self) -> Result<()> {
        for id in self.bound.values() {
            let Op::Input(input) = self.bound.op(id) else { continue };
            let ty = self.bound.ty(id).clone();
            let bytes = self.slot_bytes(bytes_of(&ty, &input.name)?, &input.name)?;
            let name = input.name.clone();
            let slot = match self.bound.sequences {
                sequences if sequences > 0 && input.role == Role::Cache => {
                    sequences::caches(&mut self.plan, &name, &ty, bytes, sequences)
                }
                _ => self.new_slot(bytes, SlotKind::Input { name, role: input.role.clone(), ty }),
            };
            self.hold(slot, id);
        }
        Ok(())
    }

    /// The whole plan, with the outputs of the graph.
    pub(super) fn finish(mut self) -> Result<Plan> {
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

    /// Where everything lies that the kernel of `group` reads and writes.
    pub(super) fn place(&mut self, group: &Group) -> Result<Placed> {
        let bound = self.bound;
        let root = group.roots.first().copied();
        let label = bound.label(root.unwrap_or(group.sink));
        let mut inputs = Vec::new();
        for (index, x) in group.inputs.iter().enumerate() {
            let takes_shards = root.is_some_and(|root| bound.op(root).takes_shards(index));
            inputs.push(self.arg(*x, takes_shards, &label)?);
        }
        let extras = group.extras.iter().map(|x| self.arg(*x, false, &label)).collect::<Result<Vec<_>>>()?;
        let mut fusions = Vec::new();
        for fusion in &group.fusions {
            let takes_shards = matches!(fusion, Fusion::Pair(_));
            fusions.push(fusion.try_map(|x| self.arg(*x, takes_shards, &label))?);
        }
        // An epilogue's result lies in memory as the root's, whatever the sink's dimensions are.
        let result = root.unwrap_or(group.sink);
        let ty = if group.is_concatenated() { concatenated(bound, &group.roots) } else { bound.ty(result).clone() };
        let slot = self.result(group, &ty, &label)?;
        let output = Arg { ty, place: Place::Slot(slot, 0), grows: bound.grows(result) };
        let second_output = self.second_output(group, &label)?;
        self.hold_results(slot, group);
        Ok(Placed { label, inputs, extras, output, second_output, fusions, first_scratch: self.plan.slots.len() })
    }

    /// A slot for the result of a fusion that has one of its own.
    fn second_output(&mut self, group: &Group, label: &str) -> Result<Option<Arg>> {
        if let Some(second) = group.second {
            let ty = self.bound.ty(second).clone();
            let slot = self.slot_for(second, &ty, label)?;
            self.hold(slot, second);
            return Ok(Some(Arg { ty, place: Place::Slot(slot, 0), grows: false }));
        }
        for fusion in &group.fusions {
            if let Fusion::BlockMaxima(block) = fusion {
                return self.maxima(group.sink, *block, label).map(Some);
            }
        }
        Ok(None)
    }

    /// A slot for the maximum of each block of `value`, as an output beside those of the graph.
    fn maxima(&mut self, value: NodeId, block: usize, label: &str) -> Result<Arg> {
        let ty = FixedType { dtype: DType::U32, shape: vec![self.bound.ty(value).len().div_ceil(block)] };
        let bytes = self.slot_bytes(bytes_of(&ty, label)?, label)?;
        let slot = self.new_slot(bytes, SlotKind::Zeroed);
        let name = self.bound.options.chosen_from.as_deref().unwrap_or_default();
        self.plan.outputs.push(PlanOutput { name: sampling::maxima_of(name), slot, ty: ty.clone() });
        Ok(Arg { ty, place: Place::Slot(slot, 0), grows: false })
    }

    fn hold_results(&mut self, slot: Slot, group: &Group) {
        self.hold(slot, group.sink);
        if group.is_concatenated() {
            let mut offset = 0;
            for root in &group.roots {
                self.slots.insert(*root, (slot, offset));
                offset += self.bound.ty(*root).len() as u64 * 4;
            }
        }
    }

    /// Adds the dispatches of the group that is step `step`, with their scratch slots placed; then frees the slots that
    /// no later step needs.
    pub(super) fn append(&mut self, step: usize, group: &Group, emit: Emit) -> Result<()> {
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
        self.release(step, group);
        Ok(())
    }

    /// An operand as a kernel binds it.
    fn arg(&self, id: NodeId, takes_shards: bool, label: &str) -> Result<Arg> {
        let value = self.bound.resolve(id);
        let ty = self.bound.ty(id).clone();
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
        let ty = if group.is_concatenated() { ty } else { self.bound.ty(sink) };
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
        let bytes = bytes.next_multiple_of(16) + 16;
        let most = self.bound.target.max_binding;
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
        for value in group.operands(self.bound).into_iter().chain(group.results()) {
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
    ty.device_bytes().ok_or_else(|| Error::Unsupported(format!("{label}: {} in a buffer that is no weight", ty.dtype)))
}

/// The type of results that lie one behind the other.
fn concatenated(bound: &Bound, roots: &[NodeId]) -> FixedType {
    let columns = roots.iter().map(|root| bound.ty(*root).last()).sum();
    FixedType { dtype: DType::F32, shape: vec![1, columns] }
}

#[cfg(test)]
mod tests;
