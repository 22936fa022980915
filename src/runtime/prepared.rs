//! A plan with its buffers and bind groups made, ready to be recorded.

use std::{collections::HashMap, num::NonZeroU64, ops::Range, sync::Arc};

use super::{
    buffer::Buffer,
    context::GpuContext,
    pipeline::{Pipeline, PipelineCache},
    resident::{ResidentWeight, Shard},
    scratch::{ScratchPool, owned, padded},
    size_blocks::SizeBlocks,
};
use crate::{
    Error, Result,
    error::{DeviceError, GraphError, WeightError},
    ir::kernel::{Dispatch, Operand, Slot},
    plan::{Plan, SlotKind},
    shader::{Access, SIZES_BINDING},
};

/// The uniform that changes with every run, as `shaders/lib/step.wgsl` reads it.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Step {
    /// Live new tokens, at most the plan's T; rows from there on are padding.
    pub rows: u32,
    /// Cache rows that are live after this run's writes; `u32::MAX` where all rows of the cache are.
    pub end: u32,
    /// Where a draw ends, as a part of the mass: 0 to 1.
    pub draw: f32,
    /// Tokens that a draw keeps; 0 for all.
    pub top_k: u32,
    /// Sampling temperature.
    pub temperature: f32,
    /// Rows of the caches that grow, as the plan was bound.
    pub capacity: u32,
    /// Part of the mass that a draw keeps.
    pub top_p: f32,
    /// Least probability that a draw keeps, as a part of the largest.
    pub min_p: f32,
    /// Where sequences lie apart: the row of the dispatch's sequence in all but its caches; else 0.
    pub sequence: u32,
}

/// Bytes from one step to the next, where each sequence has one: the largest alignment of uniforms that a device may
/// ask for.
pub(crate) const STEP_STRIDE: u64 = 256;

impl Step {
    /// All `rows` live, the whole cache live, no sampling.
    pub fn all(rows: u32) -> Self {
        Self { rows, end: u32::MAX, draw: 0.0, top_k: 0, temperature: 1.0, capacity: 0, top_p: 1.0, min_p: 0.0, sequence: 0 }
    }
}

/// The buffers that a plan's operands refer to.
#[derive(Debug, Clone, Copy)]
pub struct Bindings<'a> {
    /// The resident weights by name.
    pub weights: &'a HashMap<String, ResidentWeight>,
    /// The buffer of each input slot by the input's name, and where in it the value begins (a multiple of 256). Inputs
    /// that a dispatch reads while it writes another, such as caches, must not share a buffer with it.
    pub inputs: &'a HashMap<String, (Arc<Buffer>, u64)>,
    /// The buffer of a [`Step`]; where sequences lie apart those of the sequences follow, each 256 bytes after the one
    /// before.
    pub step: &'a Arc<Buffer>,
}

/// A plan that is ready to be recorded any number of times.
#[derive(Debug)]
pub struct PreparedPlan {
    /// None for the caches of sequences that lie apart.
    slots: Vec<Option<Region>>,
    zeroed: Vec<Region>,
    steps: Vec<Recorded>,
    outputs: HashMap<String, (Slot, u64)>,
    scratch_bytes: u64,
    /// Bound by the steps, and counted as long as they live.
    sizes: SizeBlocks,
}

#[derive(Debug, Clone)]
struct Region {
    buffer: Arc<Buffer>,
    offset: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Recorded {
    label: String,
    pipeline: Arc<Pipeline>,
    group: Group,
    /// The sequence that it serves, where they lie apart.
    sequence: Option<usize>,
    workgroups: [u32; 3],
}

#[derive(Debug)]
enum Group {
    Own(wgpu::BindGroup),
    /// That of the sequence's [`SequenceSlot`], by its index there.
    SequenceSlot(usize),
}

/// The bind groups of one sequence in a plan where sequences lie apart: all that binds its caches. Whoever owns the
/// caches owns it.
#[derive(Debug, Default)]
pub(crate) struct SequenceSlot(Vec<wgpu::BindGroup>);

impl PreparedPlan {
    /// Compiles missing pipelines, takes scratch buffers and makes the bind groups.
    ///
    /// # Errors
    /// [`Error::Input`] for an input that is not given or too small, [`WeightError::NotGiven`], [`DeviceError::Shader`]
    /// where a dispatch does not fit its shader; as [`PipelineCache::get`] and [`GpuContext::create_buffer`].
    pub fn new(pipelines: &PipelineCache, plan: &Plan, bound: Bindings<'_>, scratch: &mut ScratchPool) -> Result<Self> {
        let context = pipelines.context();
        pipelines.prepare(plan.dispatches.iter().map(|dispatch| &dispatch.kernel))?;
        let slots = regions(context, plan, bound.inputs, scratch)?;
        let sizes = SizeBlocks::new(pipelines, plan)?;
        let mut held = HashMap::<usize, usize>::new();
        let make = |dispatch: &Dispatch| {
            let pipeline = pipelines.get(&dispatch.kernel)?;
            let sequence = sequence_of(dispatch);
            let group = match sequence.filter(|_| binds_caches(plan, dispatch)) {
                Some(sequence) => {
                    let count = held.entry(sequence).or_default();
                    *count += 1;
                    Group::SequenceSlot(*count - 1)
                }
                None => Group::Own(bind(context, dispatch, &pipeline, &slots, bound, &sizes)?),
            };
            Ok(Recorded { label: dispatch.label.clone(), pipeline, group, sequence, workgroups: dispatch.workgroups })
        };
        let steps = plan.dispatches.iter().map(make).collect::<Result<_>>()?;
        let bytes = |ty: &crate::ir::FixedType| ty.device_bytes().unwrap_or(0);
        let outputs = plan.outputs.iter().map(|o| (o.name.clone(), (o.slot, bytes(&o.ty)))).collect();
        let is_zeroed = |index: &usize| plan.slots[*index].kind == SlotKind::Zeroed;
        let zeroed = (0..slots.len()).filter(is_zeroed).filter_map(|index| slots[index].clone()).collect();
        Ok(Self { slots, zeroed, steps, outputs, scratch_bytes: plan.scratch_bytes(), sizes })
    }

    /// Zeroes the regions that hold zeros when a run begins. To be recorded before the pass of each run; records
    /// nothing for most plans.
    pub fn reset(&self, encoder: &mut wgpu::CommandEncoder) {
        for Region { buffer, offset, bytes } in &self.zeroed {
            encoder.clear_buffer(buffer.raw(), *offset, Some(*bytes));
        }
    }

    /// Records every dispatch; makes nothing.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_part(pass, 0..self.steps.len());
    }

    /// Records the dispatches `part`, which are there. Parts that run in order, in one submit or several, are the
    /// whole.
    pub(crate) fn record_part(&self, pass: &mut wgpu::ComputePass<'_>, part: Range<usize>) {
        part.for_each(|index| self.record_dispatch(pass, index));
    }

    /// Records the dispatch `index` alone, for tools that look between dispatches.
    pub fn record_dispatch(&self, pass: &mut wgpu::ComputePass<'_>, index: usize) {
        self.record_step(pass, &self.steps[index], None);
    }

    /// As [`record_part`](Self::record_part), what serves all sequences and what serves those that `slots` has one for,
    /// by their rows.
    pub(crate) fn record_slots(&self, pass: &mut wgpu::ComputePass<'_>, slots: &[Option<&SequenceSlot>], part: Range<usize>) {
        for step in &self.steps[part] {
            let slot = step.sequence.and_then(|sequence| slots.get(sequence).copied().flatten());
            if step.sequence.is_none() || slot.is_some() {
                self.record_step(pass, step, slot);
            }
        }
    }

    /// A slot in the row `sequence`; the caches are among the inputs of `bound`, by the names of the graph's inputs.
    /// All else is as it was given for `plan`, of which this was made.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn slot(&self, context: &GpuContext, plan: &Plan, bound: Bindings<'_>, sequence: usize) -> Result<SequenceSlot> {
        let mut slots = self.slots.clone();
        for (slot, info) in slots.iter_mut().zip(&plan.slots) {
            if let SlotKind::CacheOf { sequence: row, name, .. } = &info.kind
                && *row == sequence
            {
                let missing = || Error::Input { name: name.clone(), problem: "has no buffer; give one".into() };
                let (buffer, offset) = bound.inputs.get(name).ok_or_else(missing)?;
                *slot = Some(Region { buffer: buffer.clone(), offset: *offset, bytes: buffer.size() - offset });
            }
        }
        let own = plan.dispatches.iter().zip(&self.steps);
        let own = own.filter(|(_, step)| step.sequence == Some(sequence) && matches!(step.group, Group::SequenceSlot(_)));
        let groups = own.map(|(dispatch, step)| bind(context, dispatch, &step.pipeline, &slots, bound, &self.sizes));
        Ok(SequenceSlot(groups.collect::<Result<_>>()?))
    }

    fn record_step(&self, pass: &mut wgpu::ComputePass<'_>, step: &Recorded, slot: Option<&SequenceSlot>) {
        let Recorded { pipeline, group, workgroups: [x, y, z], .. } = step;
        let group = match group {
            Group::Own(group) => Some(group),
            Group::SequenceSlot(index) => slot.and_then(|slot| slot.0.get(*index)),
        };
        let Some(group) = group else { return };
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(*x, *y, *z);
    }

    /// Buffer, offset and bytes of the output `name`.
    pub fn output(&self, name: &str) -> Option<(&Arc<Buffer>, u64, u64)> {
        let (slot, bytes) = self.outputs.get(name)?;
        let region = self.slots.get(slot.0)?.as_ref()?;
        Some((&region.buffer, region.offset, *bytes))
    }

    /// Number of dispatches of one run.
    pub fn dispatch_count(&self) -> usize {
        self.steps.len()
    }

    /// The position in the model of each dispatch.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.label.as_str())
    }

    /// Bytes of the scratch slots, which may be shared with other plans.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }

    /// Bytes that are this plan's alone: the sizes of its kernels, where they are data.
    pub fn own_bytes(&self) -> u64 {
        self.sizes.bytes()
    }
}

/// The buffer of every slot: inputs as given, scratch from the pool, largest first.
fn regions(
    context: &GpuContext,
    plan: &Plan,
    inputs: &HashMap<String, (Arc<Buffer>, u64)>,
    scratch: &mut ScratchPool,
) -> Result<Vec<Option<Region>>> {
    let mut taken = HashMap::new();
    for (rank, (index, bytes)) in owned(plan).into_iter().enumerate() {
        taken.insert(index, Region { buffer: scratch.take(context, rank, bytes)?, offset: 0, bytes });
    }
    let region = |index: usize| match &plan.slots[index].kind {
        SlotKind::Scratch | SlotKind::Zeroed => {
            taken.remove(&index).map(Some).ok_or_else(|| malformed(plan, format!("slot {index} has no buffer")))
        }
        SlotKind::Input { name, ty, .. } => {
            let wrong = |problem: String| Error::Input { name: name.clone(), problem };
            let (buffer, offset) = inputs.get(name).ok_or_else(|| wrong("has no buffer; give one".into()))?;
            let room = buffer.size().saturating_sub(*offset);
            let needed = ty.device_bytes().unwrap_or(0);
            if room < needed {
                return Err(wrong(format!("its buffer has {room} bytes from {offset} on, expected at least {needed}")));
            }
            Ok(Some(Region { buffer: buffer.clone(), offset: *offset, bytes: padded(plan, index).min(room) }))
        }
        SlotKind::CacheOf { .. } => Ok(None),
    };
    (0..plan.slots.len()).map(region).collect()
}

fn malformed(plan: &Plan, problem: String) -> Error {
    Error::Graph(GraphError::Malformed { graph: plan.name.clone(), problem })
}

fn bind(
    context: &GpuContext,
    dispatch: &Dispatch,
    pipeline: &Pipeline,
    slots: &[Option<Region>],
    bound: Bindings,
    sizes: &SizeBlocks,
) -> Result<wgpu::BindGroup> {
    let misfit = |problem: String| {
        Error::Device(DeviceError::Shader { shader: format!("{} ({})", dispatch.kernel.shader, dispatch.label), problem })
    };
    let mut entries: Vec<wgpu::BindGroupEntry> = Vec::with_capacity(dispatch.bindings.len());
    let mut used: Vec<(&wgpu::Buffer, Access)> = Vec::with_capacity(dispatch.bindings.len());
    for declared in &pipeline.bindings {
        if declared.number == SIZES_BINDING {
            let block = sizes.binding(&dispatch.kernel, pipeline)?.ok_or_else(|| misfit("its sizes have no block".into()))?;
            entries.push(wgpu::BindGroupEntry { binding: SIZES_BINDING, resource: wgpu::BindingResource::Buffer(block) });
            continue;
        }
        let mut given = dispatch.bindings.iter().filter(|(number, _)| *number == declared.number);
        let Some((_, operand)) = given.next() else {
            return Err(misfit(format!(
                "binding {} ({}) is declared and nothing is given for it",
                declared.number, declared.name
            )));
        };
        let binding =
            resource(operand, slots, bound).map_err(|e| e.unwrap_or_else(|| misfit(format!("{operand:?} does not exist"))))?;
        let clash = |(buffer, access): &(&wgpu::Buffer, Access)| {
            *buffer == binding.buffer && (*access == Access::ReadWrite) != (declared.access == Access::ReadWrite)
        };
        if used.iter().any(clash) {
            return Err(misfit(format!("binding {} ({}) is bound twice, to read and to write", declared.number, declared.name)));
        }
        used.push((binding.buffer, declared.access));
        entries.push(wgpu::BindGroupEntry { binding: declared.number, resource: wgpu::BindingResource::Buffer(binding) });
    }
    if let Some((number, operand)) = dispatch.bindings.iter().find(|(n, _)| !pipeline.bindings.iter().any(|b| b.number == *n)) {
        return Err(misfit(format!("{operand:?} is given for binding {number}, which it does not declare")));
    }
    let descriptor = wgpu::BindGroupDescriptor { label: Some(&dispatch.label), layout: &pipeline.layout, entries: &entries };
    let group = context.scoped(&format!("binding '{}'", dispatch.label), || context.device().create_bind_group(&descriptor))?;
    context.counters().bind_group_created();
    Ok(group)
}

/// The bytes that an operand refers to; `None` for one that does not exist.
fn resource<'a>(
    operand: &Operand,
    slots: &'a [Option<Region>],
    bound: Bindings<'a>,
) -> Result<wgpu::BufferBinding<'a>, Option<Error>> {
    match operand {
        Operand::Slot(slot, from) => {
            let region = slots.get(slot.0).and_then(Option::as_ref).filter(|region| *from < region.bytes).ok_or(None)?;
            let size = NonZeroU64::new(region.bytes - from);
            Ok(wgpu::BufferBinding { buffer: region.buffer.raw(), offset: region.offset + from, size })
        }
        Operand::Weight(name, shard) => {
            let missing = || Error::Weight(WeightError::NotGiven { name: name.clone() });
            let weight = bound.weights.get(name).ok_or_else(missing)?;
            Ok(weight.shards.get(*shard).ok_or(None)?.binding())
        }
        Operand::Concatenated(names) => {
            let mut parts = names.iter().map(|name| bound.weights.get(name).and_then(|weight| weight.shards.first()));
            let first = parts.next().flatten().ok_or(None)?;
            let adjoins = |end: u64, part: &&Shard| part.offset == end && Arc::ptr_eq(&part.buffer, &first.buffer);
            let end = parts.try_fold(first.end(), |end, part| part.filter(|p| adjoins(end, p)).map(Shard::end)).ok_or(None)?;
            let size = NonZeroU64::new((end - first.offset).next_multiple_of(16));
            Ok(wgpu::BufferBinding { buffer: first.buffer.raw(), offset: first.offset, size })
        }
        Operand::Step => Ok(step(bound.step, 0)),
        Operand::StepOf(sequence) => Ok(step(bound.step, (*sequence as u64 + 1) * STEP_STRIDE)),
    }
}

fn step(buffer: &Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer: buffer.raw(), offset, size: NonZeroU64::new(size_of::<Step>() as u64) }
}

/// The sequence whose step the dispatch binds.
fn sequence_of(dispatch: &Dispatch) -> Option<usize> {
    dispatch.bindings.iter().find_map(|(_, operand)| match operand {
        Operand::StepOf(sequence) => Some(*sequence),
        _ => None,
    })
}

fn binds_caches(plan: &Plan, dispatch: &Dispatch) -> bool {
    let cache = |slot: &Slot| plan.slots.get(slot.0).is_some_and(|info| matches!(info.kind, SlotKind::CacheOf { .. }));
    dispatch.bindings.iter().any(|(_, operand)| matches!(operand, Operand::Slot(slot, _) if cache(slot)))
}
