//! The next run of a model, dispatch by dispatch.

use super::{GpuEngine, plans::Ready, run_plan::RunPlan};
use crate::{
    Result,
    generate::Outputs,
    ir::{DimBinding, sym},
    plan::Live,
    runtime::{Clock, DispatchTime, PreparedPlan, RunTimes, RunTokens, Step},
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
        let (whole, seconds) = context.time_run(&prepared, reps, clock)?;

        // The prepared plans came from these: lowering is a function of its arguments.
        let binding = DimBinding::new().with(sym::SEQ, key.tokens).with(sym::CACHE, key.rows).with(sym::RING, self.caches.ring());
        let lowered = self.model.lower(built, &binding, self.profiles.of(key.resident, key.tokens))?;
        let sampler = self.model.argmax(1, &lowered);
        let live = Live { tokens: tokens.len(), start };
        let bytes = |name: &str, shard: usize| self.model.shard_bytes(name, shard);
        let mut dispatches = DispatchTime::untimed(&lowered, live, &bytes);
        dispatches.extend(DispatchTime::untimed(&sampler, live, &bytes));
        dispatches.iter_mut().zip(seconds).for_each(|(dispatch, seconds)| dispatch.seconds = seconds);
        Ok(RunTimes { clock, tokens: tokens.len(), start, reps, whole, dispatches })
    }
}
