//! One run of the model: its plan, its inputs, and the bytes that are read back.

use std::sync::Arc;

use super::{
    Begun, GpuEngine, PlanKey, Ready, SampleMode, SlicedRun, Tokens, model::LOGITS, output, plans::Samplers, run_plan::RunPlan,
};
use crate::{
    Result,
    generate::{CacheStore, FINAL_NORM, Outputs, Run, token_bucket},
    platform,
    runtime::{Buffer, PreparedPlan, RunTokens, Wait},
};

impl GpuEngine {
    /// Prepares the plan of a run, if it is new.
    pub(super) fn prepare(&mut self, run: &RunTokens, resident: bool, want: Outputs) -> Result<PlanKey> {
        let tokens = run.tokens.len();
        let soft = run.has_soft();
        let key = if resident {
            self.reserve(run.end())?;
            let rows = self.policy.rows(tokens, run.end(), self.caches.rows());
            // A few drafted tokens are no prompt.
            let tokens = if want == Outputs::Each { token_bucket(tokens) } else { self.policy.tokens(tokens, self.chunk(want)) };
            PlanKey { resident, want, soft, tokens, rows }
        } else {
            PlanKey { resident, want, soft, tokens: token_bucket(tokens), rows: 0 }
        };
        let hidden = self.drafter.is_some();
        self.drafter.iter_mut().try_for_each(|drafter| drafter.make_room(&self.model.context))?;
        self.plans.of(&key).prepare(key, &self.model, &self.profiles, &self.caches, hidden, &self.cancel)?;
        Ok(key)
    }

    /// Writes the inputs, submits the plan with the sampler behind it, and stages the bytes to be read back.
    pub(super) fn submit(&mut self, key: PlanKey, tokens: Tokens, mode: SampleMode) -> Result<Option<Begun>> {
        let mut begun = self.submit_first(key, tokens, mode)?;
        while self.sliced.is_some() {
            begun = self.submit_slice(None)?;
        }
        Ok(begun)
    }

    /// As [`submit`](Self::submit), by whom `wait` says: the task waits for each slice before the next.
    pub(super) async fn submit_by(
        &mut self,
        key: PlanKey,
        tokens: Tokens<'_>,
        mode: SampleMode,
        wait: Wait,
    ) -> Result<Option<Begun>> {
        let mut begun = self.submit_first(key, tokens, mode)?;
        while let Some(run) = &self.sliced {
            if let Some(earlier) = run.slices.submission().cloned() {
                self.model.context.awaited(wait, &earlier, "a part of a run", &self.cancel).await?;
            }
            begun = self.submit_slice(None)?;
        }
        Ok(begun)
    }

    /// As [`submit`](Self::submit), of the first slice; the run is whole if no other is left.
    pub(super) fn submit_first(&mut self, key: PlanKey, tokens: Tokens, mode: SampleMode) -> Result<Option<Begun>> {
        self.settle()?;
        if let SampleMode::Draw(_) = mode {
            self.plans.of(&key).prepare_draw(&key, &self.model)?;
        }
        let context = &self.model.context;
        let Ready { run: RunPlan { block, built, .. }, warm, estimates, .. } = self.plans.of(&key).ready(&key)?;
        let (given, chosen) = match tokens {
            Tokens::Given(run) => (run, None),
            Tokens::Chosen { buffer, offset, position } => (RunTokens::text(&[0], position), Some((buffer, offset, 4))),
        };
        let rows = given.start..given.end();
        let pad = self.model.model.pad();
        block.write(context, mode.step(&key, rows.start, rows.len()), given, pad, built, key.resident)?;
        let warm = std::mem::replace(warm, true);
        let slices = self.slices.of_run(context, estimates, key.tokens, warm);
        if mode == SampleMode::Nothing && warm && slices.is_one() {
            self.pace.started(rows.len());
        }
        self.sliced = Some(SlicedRun { key, mode, rows, slices });
        self.submit_slice(chosen)
    }

    /// Submits the next slice of the run under way, if one is left; its first token may be `chosen` by the device. A
    /// run that becomes whole is in flight or, where something is read back, returned; one that fails is given up.
    pub(super) fn submit_slice(&mut self, chosen: Option<(&Buffer, u64, u64)>) -> Result<Option<Begun>> {
        let Some(mut run) = self.sliced.take() else { return Ok(None) };
        let SlicedRun { key, mode, rows, slices } = &mut run;
        let context = &self.model.context;
        let Ready { run: RunPlan { plan, block, .. }, samplers, .. } = self.plans.of(key).ready(key)?;
        let (sampler, source) = result(plan, samplers.as_ref(), *mode)?;
        let mut staged = Vec::new();
        let submitted =
            self.slices.submit_next(context, &mut || self.cancel.check("a run of the model"), slices, |encoder, slice| {
                if slice.first {
                    if let Some(chosen) = chosen {
                        block.copy(encoder, "input_ids", chosen);
                    }
                    plan.reset(encoder);
                }
                let mut pass = slice.begin_pass(encoder);
                plan.record_part(&mut pass, slice.dispatches.clone());
                if !slice.last {
                    return Ok(());
                }
                if let Some(sampler) = sampler {
                    sampler.record(&mut pass);
                }
                drop(pass);
                if let (Some(drafter), Some(hidden)) = (&mut self.drafter, plan.output(FINAL_NORM)) {
                    drafter.keep_hidden(encoder, hidden, key.want, rows.clone());
                }
                if let Some((buffer, offset, bytes)) = source {
                    let of_each = matches!(key.want, Outputs::All | Outputs::Each);
                    let live = if of_each { bytes / key.tokens as u64 * rows.len() as u64 } else { bytes };
                    staged = context.stage_reads(encoder, buffer, offset, live)?;
                }
                Ok(())
            });
        if let Err(error) = submitted {
            self.in_flight = run.slices.submission().map(|earlier| (earlier.clone(), None));
            return Err(error);
        }
        if !run.slices.is_whole() {
            self.sliced = Some(run);
            return Ok(None);
        }
        let token = source.and_then(|(buffer, offset, bytes)| match run.mode {
            SampleMode::Argmax => Some((buffer.clone(), offset)),
            // A draw that the list cannot decide runs its token again, by the same plan, if its logits are gone.
            SampleMode::Draw(_) if run.rows.len() == 1 => Some((buffer.clone(), offset + bytes - 4)),
            SampleMode::Draw(_) | SampleMode::Nothing | SampleMode::Logits => None,
        });
        let (submission, timed) = run.slices.done()?;
        if staged.is_empty() {
            self.in_flight = Some((submission, timed));
            return Ok(None);
        }
        Ok(Some(Begun { key: run.key, mode: run.mode, staged, submission, timed, token }))
    }

    /// Submits the slices that are left of the run under way.
    pub(super) fn submit_all(&mut self) -> Result<()> {
        while self.sliced.is_some() {
            let begun = self.submit_slice(None)?;
            self.begun.extend(begun);
        }
        Ok(())
    }

    pub(super) fn logits(&mut self, run: RunTokens, resident: bool, want: Outputs) -> Result<Vec<f32>> {
        platform::wait("a run of the model", self.logits_by(run, resident, want, Wait::Thread))
    }

    /// Runs the tokens, over the caches if `resident`, and reads the logits that are wanted.
    pub(in crate::generate::engine) async fn logits_by(
        &mut self,
        run: RunTokens<'_>,
        resident: bool,
        want: Outputs,
        wait: Wait,
    ) -> Result<Vec<f32>> {
        let key = self.prepare(&run, resident, want)?;
        let mode = if want == Outputs::Nothing { SampleMode::Nothing } else { SampleMode::Logits };
        self.settled(wait).await?;
        let bytes = match self.submit_by(key, Tokens::Given(run), mode, wait).await? {
            Some(begun) => self.collected_by(begun, wait).await?,
            None => Vec::new(),
        };
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

/// Buffer, offset and number of the bytes that are read back.
type Source<'a> = (&'a Arc<Buffer>, u64, u64);

/// The sampler of the run's logits, if the device chooses, and the bytes that are read back.
fn result<'a>(
    plan: &'a PreparedPlan,
    samplers: Option<&'a Samplers>,
    mode: SampleMode,
) -> Result<(Option<&'a PreparedPlan>, Option<Source<'a>>)> {
    let sampler = samplers.and_then(|samplers| match mode {
        SampleMode::Argmax => Some(&samplers.argmax),
        SampleMode::Draw(_) => samplers.top_k.as_ref(),
        SampleMode::Nothing | SampleMode::Logits => None,
    });
    let source = match (mode, sampler) {
        (SampleMode::Nothing, _) => None,
        (_, Some(sampler)) => Some(output(sampler, "token")?),
        (_, None) => Some(output(plan, LOGITS)?),
    };
    Ok((sampler, source))
}
