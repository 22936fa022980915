//! Trying a model's kernels on its device.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::model::{GpuModel, options, target};
use crate::{
    Result,
    generate::{CancelToken, Outputs, Profiles, SMALLEST_BUCKET},
    lower::lower,
    plan::Plan,
    runtime::{AdapterKind, Bench, Budget, ResidentWeights, TrialRun},
};

/// Rows of the caches that kernels are timed with.
const ROWS: usize = 4096;

/// New tokens of a prompt's run that are neither few nor many.
const SOME_TOKENS: usize = 16;

/// New tokens of a run whose products and attention may go through cooperative matrices.
const MANY_TOKENS: usize = 64;

impl GpuModel {
    /// Tests the kernels of a step and of a prompt, and takes the fastest unless `untimed`, as far as the device's
    /// options have time for it and an earlier start or another model has not done it.
    ///
    /// # Errors
    /// [`DeviceError::WrongKernel`](crate::error::DeviceError::WrongKernel);
    /// [`Error::Cancelled`](crate::Error::Cancelled); [`DeviceError::Lost`](crate::error::DeviceError::Lost).
    pub(super) fn tune(
        &mut self,
        profiles: &Profiles,
        (chunk, ring): (usize, usize),
        untimed: bool,
        cancel: CancelToken,
    ) -> Result<()> {
        // A trial waits for its kernel.
        if !self.context.blocks() {
            return Ok(());
        }
        let software = self.context.capabilities().kind == AdapterKind::Software;
        let Some(budget) = self.context.tuning().budget(software) else { return Ok(()) };
        self.tune_with(profiles, [chunk, ring], untimed, (budget, cancel), &|_| {})
    }

    /// As [`tune`](Self::tune), with plans that `change` has changed.
    pub(super) fn tune_with(
        &mut self,
        profiles: &Profiles,
        [chunk, ring]: [usize; 2],
        untimed: bool,
        (budget, cancel): (Budget, CancelToken),
        change: &dyn Fn(&mut Plan),
    ) -> Result<()> {
        let built = self.model.built(true, Outputs::Last, profiles.kv())?;
        let run = |tokens: usize, rows: usize| {
            let options = options(profiles.of(true, tokens), self.context.capabilities()).for_graph(&built.graph);
            TrialRun { graph: &built.graph, options, tokens, rows, ring }
        };
        let tokens = BTreeSet::from([1, SOME_TOKENS, MANY_TOKENS, chunk].map(|tokens| tokens.min(chunk)));
        let mut runs: Vec<TrialRun> = tokens.into_iter().map(|tokens| run(tokens, SMALLEST_BUCKET)).collect();
        runs.push(run(1, ROWS));
        let bench = Bench {
            pipelines: &self.pipelines,
            resident: &self.weights,
            params: &built.params,
            runs,
            cancel,
            lower: &|part, run, target| {
                let mut plan = lower(&part.graph, &run.binding(), target, &run.options, &ResidentWeights(&self.weights))?;
                change(&mut plan);
                Ok(plan)
            },
        };
        let found = bench.choose(&target(&self.context, untimed), budget, !untimed)?;
        self.context.learn_choices(found);
        self.target = target(&self.context, untimed);
        Ok(())
    }
}
