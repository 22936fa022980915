//! How long each dispatch of a run takes on the device.

use std::time::Duration;

use super::{capabilities::Capabilities, context::GpuContext, prepared::PreparedPlan};
use crate::{
    Error, Result,
    ir::kernel::Dispatch,
    plan::{Cost, Live, Plan, cost},
    platform::Instant,
};

/// Dispatches of one submit; wgpu's query sets hold 4,096 timestamps.
const SEGMENT: usize = 2000;
/// Empty submits that are timed for the cost of a submit.
const EMPTY_SUBMITS: usize = 9;

/// The clock that measures a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The device's timestamps before and after each dispatch of one pass.
    InsidePasses,
    /// A pass for each dispatch, with the device's timestamps at its edges.
    PassEdges,
    /// A submit for each dispatch, timed on the host, less an empty one.
    Submits,
}

impl Clock {
    /// The best that a device offers.
    pub fn best(capabilities: &Capabilities) -> Self {
        match capabilities {
            Capabilities { timestamps: true, timestamps_inside_passes: true, .. } => Clock::InsidePasses,
            Capabilities { timestamps: true, .. } => Clock::PassEdges,
            _ => Clock::Submits,
        }
    }

    fn check(self, capabilities: &Capabilities) -> Result<()> {
        let there = match self {
            Clock::InsidePasses => capabilities.timestamps && capabilities.timestamps_inside_passes,
            Clock::PassEdges => capabilities.timestamps,
            Clock::Submits => true,
        };
        let what = || format!("timing dispatches by {self} on '{}', which has no such timestamps", capabilities.adapter);
        there.then_some(()).ok_or_else(|| Error::Unsupported(what()))
    }
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Clock::InsidePasses => "timestamps between dispatches",
            Clock::PassEdges => "timestamps at the edges of a pass a dispatch",
            Clock::Submits => "a submit a dispatch, timed on the host",
        })
    }
}

/// One dispatch of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct DispatchTime {
    /// Position in the model.
    pub label: String,
    /// The shader's name.
    pub shader: &'static str,
    /// The whole kernel as text, options and sizes included.
    pub kernel: String,
    /// True if it multiplies with the device's matrix units.
    pub uses_matrices: bool,
    /// Seconds, the median over the repetitions.
    pub seconds: f64,
    /// The bytes that it moves and the operations that it computes.
    pub cost: Cost,
}

/// The dispatches of one run in order.
#[derive(Debug, Clone, PartialEq)]
pub struct RunTimes {
    /// How the dispatches were timed.
    pub clock: Clock,
    /// Tokens of the run.
    pub tokens: usize,
    /// Cached rows before them.
    pub start: usize,
    /// Repetitions.
    pub reps: usize,
    /// Seconds of the run as one pass without timestamps, from before the submit to the end of the wait; the median.
    pub whole: f64,
    /// The dispatches.
    pub dispatches: Vec<DispatchTime>,
}

impl DispatchTime {
    /// The dispatches of a plan in the run `live`, which no clock has timed yet. `shard_bytes` gives the bytes of a
    /// shard of a weight.
    pub(crate) fn untimed(plan: &Plan, live: Live, shard_bytes: &dyn Fn(&str, usize) -> u64) -> Vec<Self> {
        let one = |dispatch: &Dispatch| Self {
            label: dispatch.label.clone(),
            shader: dispatch.kernel.shader,
            kernel: dispatch.kernel.to_string(),
            uses_matrices: dispatch.kernel.uses_matrices(),
            seconds: 0.0,
            cost: cost(plan, dispatch, live, shard_bytes),
        };
        plan.dispatches.iter().map(one).collect()
    }
}

impl GpuContext {
    /// Medians of `plans` as a whole and of each dispatch, of `reps` times after one that is not counted.
    ///
    /// # Errors
    /// As [`time_dispatches`](Self::time_dispatches).
    pub(crate) fn time_run(&self, plans: &[&PreparedPlan], reps: usize, clock: Clock) -> Result<(f64, Vec<f64>)> {
        self.time_whole(plans)?;
        self.time_dispatches(plans, clock)?;
        let mut wholes = Vec::new();
        let mut runs = Vec::new();
        for _ in 0..reps.max(1) {
            wholes.push(self.time_whole(plans)?);
            runs.push(self.time_dispatches(plans, clock)?);
        }
        let count = runs.first().map_or(0, Vec::len);
        let each = (0..count).map(|i| median(runs.iter().map(|run| run[i]).collect()));
        Ok((median(wholes), each.collect()))
    }

    /// Runs every dispatch of `plans` once, in order, and returns the seconds of each.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for timestamps that the device does not have; as [`GpuContext::run`] and
    /// [`GpuContext::wait`].
    pub fn time_dispatches(&self, plans: &[&PreparedPlan], clock: Clock) -> Result<Vec<f64>> {
        clock.check(self.capabilities())?;
        let steps: Vec<Step> = plans.iter().flat_map(|plan| (0..plan.dispatch_count()).map(move |i| (*plan, i))).collect();
        match clock {
            Clock::Submits => self.time_submits(&steps),
            Clock::InsidePasses | Clock::PassEdges => {
                let parts = steps.chunks(SEGMENT).map(|part| self.time_segment(part, clock));
                Ok(parts.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// Seconds of `plans` recorded in one pass, submit and wait included.
    ///
    /// # Errors
    /// As [`GpuContext::run`] and [`GpuContext::wait`].
    pub fn time_whole(&self, plans: &[&PreparedPlan]) -> Result<f64> {
        let start = Instant::now();
        let submission = self.run("a timed run", |encoder| {
            plans.iter().for_each(|plan| plan.reset(encoder));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            plans.iter().for_each(|plan| plan.record(&mut pass));
            Ok(())
        })?;
        self.wait(&submission, "a timed run")?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn time_segment(&self, steps: &[Step], clock: Clock) -> Result<Vec<f64>> {
        let count = 2 * steps.len() as u32;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("timestamps"), ty: wgpu::QueryType::Timestamp, count };
        let queries = self.scoped("timestamps", || self.device().create_query_set(&descriptor))?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let ticks = self.create_buffer("timestamps", u64::from(count) * 8, usage)?;
        let submission = self.run("timed dispatches", |encoder| {
            match clock {
                Clock::InsidePasses => record_inside(encoder, &queries, steps),
                _ => record_passes(encoder, &queries, steps),
            }
            encoder.resolve_query_set(&queries, 0..count, ticks.raw(), 0);
            Ok(())
        })?;
        self.wait(&submission, "timed dispatches")?;
        let mut bytes = vec![0; count as usize * 8];
        self.read_back(&ticks, 0, &mut bytes)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let period = f64::from(self.capabilities().timestamp_period) * 1e-9;
        Ok(ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect())
    }

    fn time_submits(&self, steps: &[Step]) -> Result<Vec<f64>> {
        let time = |step: Option<&Step>| -> Result<Duration> {
            let start = Instant::now();
            let submission = self.run("a timed dispatch", |encoder| {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                step.into_iter().for_each(|(plan, index)| plan.record_dispatch(&mut pass, *index));
                Ok(())
            })?;
            self.wait(&submission, "a timed dispatch")?;
            Ok(start.elapsed())
        };
        let mut empty = (0..EMPTY_SUBMITS).map(|_| time(None)).collect::<Result<Vec<_>>>()?;
        empty.sort_unstable();
        let empty = empty[EMPTY_SUBMITS / 2];
        steps.iter().map(|step| Ok(time(Some(step))?.saturating_sub(empty).as_secs_f64())).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A dispatch of a plan by its number.
type Step<'a> = (&'a PreparedPlan, usize);

/// Timestamps 2i and 2i + 1 around dispatch i.
fn record_inside(encoder: &mut wgpu::CommandEncoder, queries: &wgpu::QuerySet, steps: &[Step]) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for (query, (plan, index)) in (0..).step_by(2).zip(steps) {
        pass.write_timestamp(queries, query);
        plan.record_dispatch(&mut pass, *index);
        pass.write_timestamp(queries, query + 1);
    }
}

fn record_passes(encoder: &mut wgpu::CommandEncoder, queries: &wgpu::QuerySet, steps: &[Step]) {
    for (query, (plan, index)) in (0..).step_by(2).zip(steps) {
        let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
            query_set: queries,
            beginning_of_pass_write_index: Some(query),
            end_of_pass_write_index: Some(query + 1),
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        plan.record_dispatch(&mut pass, *index);
    }
}
