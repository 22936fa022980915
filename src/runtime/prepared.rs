//! A plan with its buffers and bind groups made: what is left is to record it.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, Weak},
};

use super::{
    buffer::Buffer,
    context::GpuContext,
    pipeline::{Pipeline, PipelineCache},
    resident::{ResidentWeight, Shard},
    size_blocks::SizeBlocks,
};
use crate::{
    Error, Result,
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
}

impl Step {
    /// All `rows` live, the whole cache live, no sampling.
    pub fn all(rows: u32) -> Self {
        Self { rows, end: u32::MAX, draw: 0.0, top_k: 0, temperature: 1.0, capacity: 0, top_p: 1.0, min_p: 0.0 }
    }
}

/// Scratch buffers that plans which never run at once share: the n-th largest slot of each plan lies in the n-th buffer.
///
/// A buffer lives as long as a plan uses it. One that a plan outgrows lives on in the earlier plans, and its successor has at
/// least twice its size (where a binding may be so large), so that all buffers together hold at most four times the scratch of
/// the largest plan. Prepare the plan with the largest scratch first and they hold no more than that plan's.
#[derive(Debug, Clone, Default)]
pub struct ScratchPool {
    newest: Vec<Weak<Buffer>>,
    outgrown: Vec<Weak<Buffer>>,
}

impl ScratchPool {
    /// Bytes of the buffers that plans hold now.
    pub fn bytes(&self) -> u64 {
        let live = self.newest.iter().chain(&self.outgrown).filter_map(Weak::upgrade);
        live.map(|buffer| buffer.size()).sum()
    }

    fn take(&mut self, context: &GpuContext, index: usize, bytes: u64) -> Result<Arc<Buffer>> {
        let known = self.newest.get(index).and_then(Weak::upgrade);
        if let Some(found) = known.as_ref().filter(|buffer| buffer.size() >= bytes) {
            return Ok(found.clone());
        }
        let doubled = known.as_ref().map_or(0, |small| small.size() * 2).min(context.capabilities().target().max_binding);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = Arc::new(context.create_buffer("scratch", bytes.max(doubled), usage)?);
        self.outgrown.retain(|buffer| buffer.strong_count() > 0);
        self.outgrown.extend(known.as_ref().map(Arc::downgrade));
        match self.newest.get_mut(index) {
            Some(small) => *small = Arc::downgrade(&buffer),
            None => self.newest.push(Arc::downgrade(&buffer)),
        }
        Ok(buffer)
    }
}

/// The slots that a plan's runner owns, largest first, with the bytes of their buffers: whole vectors, so that vector loads of a
/// tail stay inside.
fn owned(plan: &Plan) -> Vec<(usize, u64)> {
    let mut order: Vec<usize> = (0..plan.slots.len()).filter(|&index| plan.slots[index].kind.is_owned()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(plan.slots[index].bytes));
    order.into_iter().map(|index| (index, padded(plan, index))).collect()
}

fn padded(plan: &Plan, index: usize) -> u64 {
    plan.slots[index].bytes.max(1).next_multiple_of(16)
}

/// Bytes that a [`ScratchPool`] comes to when these plans are prepared in this order and all live, on a device that binds at most
/// `max_binding` bytes.
pub(super) fn pooled_bytes<'a>(plans: impl IntoIterator<Item = &'a Plan>, max_binding: u64) -> u64 {
    let (mut newest, mut together) = (Vec::<u64>::new(), 0);
    for plan in plans {
        for (rank, (_, bytes)) in owned(plan).into_iter().enumerate() {
            let known = newest.get(rank).copied().unwrap_or(0);
            if known >= bytes {
                continue;
            }
            let grown = bytes.max((known * 2).min(max_binding));
            together += grown;
            match newest.get_mut(rank) {
                Some(small) => *small = grown,
                None => newest.push(grown),
            }
        }
    }
    together
}

/// What a plan's operands refer to.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The resident weights by name.
    pub weights: &'a HashMap<String, ResidentWeight>,
    /// The buffer of each input slot by the input's name, and where in it the value begins (a multiple of 256). Inputs that a
    /// dispatch reads while it writes another, such as caches, must not share a buffer with it.
    pub inputs: &'a HashMap<String, (Arc<Buffer>, u64)>,
    /// The buffer of a [`Step`].
    pub step: &'a Arc<Buffer>,
}

/// A plan that is ready to be recorded any number of times.
#[derive(Debug)]
pub struct PreparedPlan {
    slots: Vec<Region>,
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
    group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl PreparedPlan {
    /// Compiles what is missing, takes scratch buffers and makes the bind groups.
    ///
    /// # Errors
    /// [`Error::Input`] for an input that is not given or too small, [`Error::MissingWeight`], [`Error::Shader`] where a
    /// dispatch does not fit its shader; as [`PipelineCache::get`] and [`GpuContext::create_buffer`].
    pub fn new(pipelines: &PipelineCache, plan: &Plan, bound: Bound<'_>, scratch: &mut ScratchPool) -> Result<Self> {
        let context = pipelines.context();
        pipelines.prepare(plan.dispatches.iter().map(|dispatch| &dispatch.kernel))?;
        let slots = regions(context, plan, bound.inputs, scratch)?;
        let sizes = SizeBlocks::new(pipelines, plan)?;
        let make = |dispatch: &Dispatch| {
            let pipeline = pipelines.get(&dispatch.kernel)?;
            let group = bind(context, dispatch, &pipeline, &slots, bound, &sizes)?;
            Ok(Recorded { label: dispatch.label.clone(), pipeline, group, workgroups: dispatch.workgroups })
        };
        let steps = plan.dispatches.iter().map(make).collect::<Result<_>>()?;
        let bytes = |ty: &crate::ir::FixedType| ty.byte_len().unwrap_or(0) as u64;
        let outputs = plan.outputs.iter().map(|o| (o.name.clone(), (o.slot, bytes(&o.ty)))).collect();
        let is_zeroed = |index: &usize| plan.slots[*index].kind == SlotKind::Zeroed;
        let zeroed = (0..slots.len()).filter(is_zeroed).map(|index| slots[index].clone()).collect();
        Ok(Self { slots, zeroed, steps, outputs, scratch_bytes: plan.scratch_bytes(), sizes })
    }

    /// Zeroes what every run begins with zeros. To be recorded before the pass of each run; records nothing for most plans.
    pub fn reset(&self, encoder: &mut wgpu::CommandEncoder) {
        for Region { buffer, offset, bytes } in &self.zeroed {
            encoder.clear_buffer(buffer.raw(), *offset, Some(*bytes));
        }
    }

    /// Records every dispatch; makes nothing.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_part(pass, 0..self.steps.len());
    }

    /// Records the dispatches `part`, which are there. Parts that run in order, in one submit or several, are the whole.
    pub(super) fn record_part(&self, pass: &mut wgpu::ComputePass<'_>, part: Range<usize>) {
        part.for_each(|index| self.record_dispatch(pass, index));
    }

    /// Records the dispatch `index` alone, for tools that look between dispatches.
    pub fn record_dispatch(&self, pass: &mut wgpu::ComputePass<'_>, index: usize) {
        let Recorded { pipeline, group, workgroups: [x, y, z], .. } = &self.steps[index];
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(*x, *y, *z);
    }

    /// Buffer, offset and bytes of the output `name`.
    pub fn output(&self, name: &str) -> Option<(&Arc<Buffer>, u64, u64)> {
        let (slot, bytes) = self.outputs.get(name)?;
        let region = self.slots.get(slot.0)?;
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
) -> Result<Vec<Region>> {
    let mut taken = HashMap::new();
    for (rank, (index, bytes)) in owned(plan).into_iter().enumerate() {
        taken.insert(index, Region { buffer: scratch.take(context, rank, bytes)?, offset: 0, bytes });
    }
    let region = |index: usize| match &plan.slots[index].kind {
        SlotKind::Scratch | SlotKind::Zeroed => {
            taken.remove(&index).ok_or_else(|| malformed(plan, format!("slot {index} has no buffer")))
        }
        SlotKind::Input { name, ty, .. } => {
            let wrong = |problem: String| Error::Input { name: name.clone(), problem };
            let (buffer, offset) = inputs.get(name).ok_or_else(|| wrong("has no buffer; give one".into()))?;
            let (room, needed) = (buffer.size().saturating_sub(*offset), ty.byte_len().unwrap_or(0) as u64);
            if room < needed {
                return Err(wrong(format!("its buffer has {room} bytes from {offset} on, expected at least {needed}")));
            }
            Ok(Region { buffer: buffer.clone(), offset: *offset, bytes: padded(plan, index).min(room) })
        }
    };
    (0..plan.slots.len()).map(region).collect()
}

fn malformed(plan: &Plan, problem: String) -> Error {
    Error::Graph { graph: plan.name.clone(), problem }
}

fn bind(
    context: &GpuContext,
    dispatch: &Dispatch,
    pipeline: &Pipeline,
    slots: &[Region],
    bound: Bound,
    sizes: &SizeBlocks,
) -> Result<wgpu::BindGroup> {
    let misfit = |problem: String| Error::Shader { shader: format!("{} ({})", dispatch.kernel.shader, dispatch.label), problem };
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
fn resource<'a>(operand: &Operand, slots: &'a [Region], bound: Bound<'a>) -> Result<wgpu::BufferBinding<'a>, Option<Error>> {
    match operand {
        Operand::Slot(slot, from) => {
            let region = slots.get(slot.0).filter(|region| *from < region.bytes).ok_or(None)?;
            let size = NonZeroU64::new(region.bytes - from);
            Ok(wgpu::BufferBinding { buffer: region.buffer.raw(), offset: region.offset + from, size })
        }
        Operand::Weight(name, shard) => {
            let missing = || Error::MissingWeight { name: name.clone(), nearest: None };
            let weight = bound.weights.get(name).ok_or_else(missing)?;
            Ok(weight.shards.get(*shard).ok_or(None)?.binding())
        }
        Operand::Joined(names) => {
            let mut parts = names.iter().map(|name| bound.weights.get(name).and_then(|weight| weight.shards.first()));
            let first = parts.next().flatten().ok_or(None)?;
            let adjoins = |end: u64, part: &&Shard| part.offset == end && Arc::ptr_eq(&part.buffer, &first.buffer);
            let end = parts.try_fold(first.end(), |end, part| part.filter(|p| adjoins(end, p)).map(Shard::end)).ok_or(None)?;
            let size = NonZeroU64::new((end - first.offset).next_multiple_of(16));
            Ok(wgpu::BufferBinding { buffer: first.buffer.raw(), offset: first.offset, size })
        }
        Operand::Step => {
            Ok(wgpu::BufferBinding { buffer: bound.step.raw(), offset: 0, size: NonZeroU64::new(size_of::<Step>() as u64) })
        }
    }
}
