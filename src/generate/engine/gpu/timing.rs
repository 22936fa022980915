//! The next run of a model, dispatch by dispatch.

use super::{GpuEngine, plans::Ready, run_plan::RunPlan};
use crate::{
    Result,
    generate::Outputs,
    ir::{DimBinding, kernel::Dispatch, sym},
    plan::{Live, Plan, cost},
    runtime::{Clock, DispatchTime, GpuContext, PreparedPlan, RunTimes, RunTokens, Step},
};

impl GpuEngine {
    /// Times the run that [`begin`](crate::generate::Engine::begin) would make of the same arguments, greedily:
    /// `reps` times after one that is not counted. Each writes the same rows.
    pub(super) fn measure_run(&mut self, run: RunTokens, reps: usize, clock: Option<Clock>) -> Result<RunTimes> {
        let RunTokens { tokens, start, .. } = run;
        let key = self.prepare(&run, true, Outputs::Last)?;
        let pad = self.model.model.pad();
        let context = self.model.context.clone();
        self.settle()?;
        let clock = clock.unwrap_or_else(|| Clock::best(context.capabilities()));
        let Ready { run: RunPlan { plan, block, built }, samplers, .. } = self.plans.of(&key).ready(&key)?;
        let step = Step { end: run.end() as u32, capacity: key.rows as u32, ..Step::all(tokens.len() as u32) };
        block.write(&context, step, run, pad, built, true)?;
        let prepared: Vec<&PreparedPlan> = [Some(&*plan), samplers.as_ref().map(|s| &s.argmax)].into_iter().flatten().collect();
        let (whole, seconds) = measure(&context, &prepared, reps, clock)?;

        // The prepared plans came from these: lowering is a function of its arguments.
        let binding = DimBinding::new().with(sym::SEQ, key.tokens).with(sym::CACHE, key.rows).with(sym::RING, self.caches.ring());
        let lowered = self.model.lower(built, &binding, self.profiles.of(key.resident, key.tokens))?;
        let sampler = self.model.argmax(1, &lowered);
        let live = Live { tokens: tokens.len(), start };
        let described = |plan: &Plan| -> Vec<DispatchTime> {
            let one = |dispatch: &Dispatch| DispatchTime {
                label: dispatch.label.clone(),
                shader: dispatch.kernel.shader,
                kernel: dispatch.kernel.to_string(),
                uses_matrices: dispatch.kernel.uses_matrices(),
                seconds: 0.0,
                cost: cost(plan, dispatch, live, &|name, shard| self.model.shard_bytes(name, shard)),
            };
            plan.dispatches.iter().map(one).collect()
        };
        let mut dispatches = described(&lowered);
        dispatches.extend(described(&sampler));
        dispatches.iter_mut().zip(seconds).for_each(|(dispatch, seconds)| dispatch.seconds = seconds);
        Ok(RunTimes { clock, tokens: tokens.len(), start, reps, whole, dispatches })
    }
}

/// Medians of the whole run and of each dispatch.
fn measure(context: &GpuContext, plans: &[&PreparedPlan], reps: usize, clock: Clock) -> Result<(f64, Vec<f64>)> {
    context.time_whole(plans)?;
    context.time_dispatches(plans, clock)?;
    let mut wholes = Vec::new();
    let mut runs = Vec::new();
    for _ in 0..reps.max(1) {
        wholes.push(context.time_whole(plans)?);
        runs.push(context.time_dispatches(plans, clock)?);
    }
    let count = runs.first().map_or(0, Vec::len);
    let each = (0..count).map(|i| median(runs.iter().map(|run| run[i]).collect()));
    Ok((median(wholes), each.collect()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
