//! A compiled graph's buffers and bind groups on a device.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        AdapterKind, Buffer, Clock, DispatchTime, GpuContext, RunTimes,
        pipeline::PipelineCache,
        prepared::{Bindings, PreparedPlan, Step},
        read_back::{LARGEST_STAGING, StagedRead},
        scratch::ScratchPool,
        wgpu,
    },
    SessionWeights,
    pace::{Pace, SubmitBound},
};
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::GraphError,
    ir::{FixedType, Value, derive::Inputs, ops::Role},
    plan::{Live, Plan, PlanOutput, SlotKind, estimate},
    platform::Instant,
};

/// The work that is waited for, as errors name it.
const RUN: &str = "a run of a graph";

#[derive(Debug)]
pub(super) struct GpuGraph {
    pub(super) plan: Plan,
    pipelines: Arc<PipelineCache>,
    /// Bound to the weights; made anew after one was replaced.
    prepared: Option<PreparedPlan>,
    /// Made with the bindings.
    pace: Pace,
    scratch: ScratchPool,
    inputs: HashMap<String, (Arc<Buffer>, u64)>,
    step: Arc<Buffer>,
}

impl GpuGraph {
    pub(super) fn new(
        pipelines: &Arc<PipelineCache>,
        plan: Plan,
        weights: &SessionWeights,
        scratch: &mut ScratchPool,
    ) -> Result<Self> {
        let context = pipelines.context().clone();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut inputs = HashMap::new();
        for slot in &plan.slots {
            if let SlotKind::Input { name, .. } = &slot.kind {
                let buffer = context.create_buffer(name, input_bytes(slot.bytes), usage)?;
                inputs.insert(name.clone(), (Arc::new(buffer), 0));
            }
        }
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = Arc::new(context.create_buffer("step", size_of::<Step>() as u64, uniform)?);
        let mut graph = Self {
            plan,
            pipelines: pipelines.clone(),
            prepared: None,
            pace: Pace::default(),
            scratch: scratch.clone(),
            inputs,
            step,
        };
        // Weights may still be missing; without them nothing can be bound.
        if graph.plan.weights().iter().all(|name| weights.resident.contains_key(*name)) {
            graph.prepare(weights)?;
        }
        *scratch = graph.scratch.clone();
        Ok(graph)
    }

    /// Makes the bind groups where there are none.
    pub(super) fn prepare(&mut self, weights: &SessionWeights) -> Result<()> {
        if self.prepared.is_none() {
            let bound = Bindings { weights: &weights.resident, inputs: &self.inputs, step: &self.step };
            self.prepared = Some(PreparedPlan::new(&self.pipelines, &self.plan, bound, &mut self.scratch)?);
            let shard = |name: &str, shard: usize| weights.resident.get(name).and_then(|weight| weight.shards.get(shard));
            let bytes = |name: &str, index: usize| shard(name, index).map_or(0, |shard| shard.bytes);
            let live = Live { tokens: most_queries(&self.plan), start: 0 };
            let software = self.pipelines.context().capabilities().kind == AdapterKind::Software;
            self.pace = Pace::new(estimate(&self.plan, live, &bytes), software);
        }
        Ok(())
    }

    pub(super) fn forget_bindings(&mut self) {
        self.prepared = None;
    }

    /// Bytes of the buffers that are not shared with other graphs: inputs, and the plan's own.
    pub(super) fn own_bytes(&self) -> u64 {
        let inputs: u64 = self.inputs.values().map(|(buffer, _)| buffer.size()).sum();
        inputs + self.step.size() + self.prepared.as_ref().map_or(0, PreparedPlan::own_bytes)
    }

    pub(super) fn scratch_bytes(&self) -> u64 {
        self.prepared.as_ref().map_or(0, PreparedPlan::scratch_bytes)
    }

    /// Writes the inputs, runs in as many submits as `bound` wants, each when the one before is done, and reads every
    /// output.
    pub(super) async fn run(&mut self, inputs: &Inputs, step: Step, bound: &SubmitBound) -> Result<Vec<Value>> {
        self.write(inputs, step)?;
        let Some(prepared) = &self.prepared else { return Err(self.missing("plan")) };
        let context: &Arc<GpuContext> = self.pipelines.context();
        let mut start = 0;
        let mut values = Vec::new();
        while let Some(slice) = self.pace.slice(start, bound.most) {
            bound.cancel.check(RUN)?;
            let begun = Instant::now();
            let is_last = slice.end == prepared.dispatch_count();
            let mut staged = Vec::new();
            let submission = context.run(&self.plan.name, |encoder| {
                if start == 0 {
                    prepared.reset(encoder);
                }
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                prepared.record_part(&mut pass, slice.clone());
                drop(pass);
                if is_last && self.outputs_are_small() {
                    staged = self.stage(prepared, encoder)?;
                }
                Ok(())
            })?;
            context.waited_unless(submission.clone(), RUN, &bound.cancel).await?;
            bound.cancel.check(RUN)?;
            for (staged, ty) in staged {
                let mut raw = vec![0u8; staged.len()];
                context.collect(staged, &submission, &mut raw)?;
                values.push(Value::from_bytes(&ty, &raw));
            }
            start = slice.end;
            self.pace.learn(slice, begun.elapsed());
        }
        for output in &self.plan.outputs[values.len()..] {
            let (buffer, offset, bytes) = prepared.output(&output.name).ok_or_else(|| self.missing(&output.name))?;
            let mut raw = vec![0u8; bytes as usize];
            context.read_back_async(buffer, offset, &mut raw).await?;
            values.push(Value::from_bytes(&output.ty, &raw));
        }
        Ok(values)
    }

    /// True if all outputs together can be staged at once; none of them may be empty.
    fn outputs_are_small(&self) -> bool {
        let bytes = |output: &PlanOutput| output.ty.device_bytes().unwrap_or(u64::MAX);
        let sum = self.plan.outputs.iter().map(bytes).fold(0, u64::saturating_add);
        sum <= LARGEST_STAGING && !self.plan.outputs.iter().any(|output| bytes(output) == 0)
    }

    /// Records the copies of all outputs, each of at most 16 MiB.
    fn stage(&self, prepared: &PreparedPlan, encoder: &mut wgpu::CommandEncoder) -> Result<Vec<(StagedRead, FixedType)>> {
        let copied = |output: &PlanOutput| {
            let (buffer, offset, bytes) = prepared.output(&output.name).ok_or_else(|| self.missing(&output.name))?;
            Ok((self.pipelines.context().stage_read(encoder, buffer, offset, bytes)?, output.ty.clone()))
        };
        self.plan.outputs.iter().map(copied).collect()
    }

    /// Writes the inputs and submits a run together with the copies of its outputs, each of at most 16 MiB: another run
    /// may begin before they are read.
    pub(super) fn begin(&mut self, inputs: &Inputs, step: Step) -> Result<Begun> {
        let Some(prepared) = &self.prepared else { return Err(self.missing("plan")) };
        let context: &Arc<GpuContext> = self.pipelines.context();
        self.write(inputs, step)?;
        let mut outputs = Vec::new();
        let submission = context.run(&self.plan.name, |encoder| {
            prepared.reset(encoder);
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            prepared.record(&mut pass);
            drop(pass);
            outputs = self.stage(prepared, encoder)?;
            Ok(())
        })?;
        Ok(Begun { context: context.clone(), submission, outputs })
    }

    /// Writes the inputs and times their run of `tokens` tokens, dispatch by dispatch.
    pub(super) fn time(
        &self,
        inputs: &Inputs,
        step: Step,
        tokens: usize,
        reps: usize,
        clock: Option<Clock>,
        weights: &SessionWeights,
    ) -> Result<RunTimes> {
        let Some(prepared) = &self.prepared else { return Err(self.missing("plan")) };
        let context = self.pipelines.context();
        self.write(inputs, step)?;
        let clock = clock.unwrap_or_else(|| Clock::best(context.capabilities()));
        let (whole, seconds) = context.time_run(&[prepared], reps, clock)?;
        let shard = |name: &str, shard: usize| weights.resident.get(name).and_then(|weight| weight.shards.get(shard));
        let bytes = |name: &str, number: usize| shard(name, number).map_or(0, |shard| shard.bytes);
        let mut dispatches = DispatchTime::untimed(&self.plan, Live { tokens, start: 0 }, &bytes);
        dispatches.iter_mut().zip(seconds).for_each(|(dispatch, seconds)| dispatch.seconds = seconds);
        Ok(RunTimes { clock, tokens, start: 0, reps, whole, dispatches })
    }

    fn write(&self, inputs: &Inputs, step: Step) -> Result<()> {
        let context = self.pipelines.context();
        for (name, value) in inputs {
            // An input that no output depends on is in no dispatch.
            if let Some((buffer, offset)) = self.inputs.get(name) {
                context.write(buffer, *offset, value.bytes())?;
            }
        }
        context.write(&self.step, 0, bytemuck::bytes_of(&step))
    }

    fn missing(&self, what: &str) -> Error {
        Error::Graph(GraphError::Malformed { graph: self.plan.name.clone(), problem: format!("its {what} has no buffer") })
    }
}

/// Queries of the longest attention.
fn most_queries(plan: &Plan) -> usize {
    let queries = plan.slots.iter().filter_map(|slot| match &slot.kind {
        SlotKind::Input { role: Role::Visible { .. }, ty, .. } => ty.shape.get(1).copied(),
        _ => None,
    });
    queries.max().unwrap_or(1)
}

/// Bytes of the buffer of an input.
pub(super) fn input_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(16) + 16
}

/// A run that was submitted, and the copies of its outputs.
pub(crate) struct Begun {
    context: Arc<GpuContext>,
    submission: wgpu::SubmissionIndex,
    outputs: Vec<(StagedRead, FixedType)>,
}

impl Begun {
    /// The outputs, once the device has made them.
    pub(super) async fn outputs(self, cancel: &CancelToken) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        for (staged, ty) in self.outputs {
            let mut raw = vec![0u8; staged.len()];
            self.context.collect_async_unless(staged, self.submission.clone(), &mut raw, cancel).await?;
            values.push(Value::from_bytes(&ty, &raw));
        }
        Ok(values)
    }
}
