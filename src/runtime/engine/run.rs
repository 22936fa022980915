//! One run of the model: its plan, its inputs, and what is read back.

use super::{Begun, Follow, GpuEngine, PlanKey, Ready, Tokens, output};
use crate::{
    Result,
    generate::{Engine, FINAL_NORM, Want, token_bucket},
};

impl GpuEngine {
    /// Prepares the plan of a run, if it is new.
    pub(super) fn prepare(&mut self, tokens: usize, end: usize, resident: bool, want: Want) -> Result<PlanKey> {
        let key = match resident {
            true => {
                self.reserve(end)?;
                let rows = self.policy.rows(tokens, end, self.caches.rows());
                // A few drafted tokens are no prompt.
                let tokens = if want == Want::Each { token_bucket(tokens) } else { self.policy.tokens(tokens, self.chunk(want)) };
                PlanKey { resident, want, tokens, rows }
            }
            false => PlanKey { resident, want, tokens: token_bucket(tokens), rows: 0 },
        };
        let hidden = self.drafter.is_some();
        self.drafter.iter_mut().try_for_each(|drafter| drafter.make_room(&self.model.context))?;
        self.plans.of(&key).prepare(key, &self.model, &self.profiles, &self.caches, hidden)?;
        Ok(key)
    }

    /// Writes the inputs and submits the plan and what follows it; what is to be read back is staged.
    pub(super) fn submit(&mut self, key: PlanKey, tokens: Tokens, start: usize, follow: Follow) -> Result<Option<Begun>> {
        self.settle()?;
        let context = &self.model.context;
        let Ready { plan, block, built, warm, samplers, estimates } = self.plans.of(&key).ready(&key)?;
        let given = if let Tokens::Given(tokens) = tokens { tokens } else { &[0] };
        block.write(context, follow.step(&key, start, given.len()), given, start, built, key.resident)?;
        let sampler = samplers.as_ref().and_then(|s| match follow {
            Follow::Argmax => Some(&s.argmax),
            Follow::Draw(_) => Some(&s.top_k),
            Follow::Nothing | Follow::Logits => None,
        });
        let source = match (follow, sampler) {
            (Follow::Nothing, _) => None,
            (_, Some(sampler)) => Some(output(sampler, "token")?),
            (_, None) => Some(output(plan, "logits")?),
        };
        let warm = std::mem::replace(warm, true);
        if source.is_none() && warm {
            self.pace.started(given.len());
        }
        let mut staged = None;
        let (submission, timed) = self.slices.submit(context, estimates, (key.tokens, warm), |encoder, slice| {
            if slice.first {
                if let Tokens::Chosen(buffer, offset) = tokens {
                    block.copy(encoder, "input_ids", (buffer, offset, 4));
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
                drafter.keep_hidden(encoder, hidden, key.want, start..start + given.len());
            }
            if let Some((buffer, offset, bytes)) = source {
                let of_each = matches!(key.want, Want::All | Want::Each);
                let live = if of_each { bytes / key.tokens as u64 * given.len() as u64 } else { bytes };
                staged = Some(context.stage_read(encoder, buffer, offset, live)?);
            }
            Ok(())
        })?;
        let Some(staged) = staged else {
            self.in_flight = Some((submission, timed));
            return Ok(None);
        };
        let token = source.and_then(|(buffer, offset, bytes)| match follow {
            Follow::Argmax => Some((buffer.clone(), offset)),
            // A draw that the list cannot decide runs its token again, by the same plan, if its logits are gone.
            Follow::Draw(_) if given.len() == 1 => Some((buffer.clone(), offset + bytes - 4)),
            Follow::Draw(_) | Follow::Nothing | Follow::Logits => None,
        });
        Ok(Some(Begun { key, follow, staged, submission, timed, token }))
    }

    pub(super) fn logits(&mut self, tokens: &[u32], start: usize, resident: bool, want: Want) -> Result<Vec<f32>> {
        let key = self.prepare(tokens.len(), start + tokens.len(), resident, want)?;
        let follow = if want == Want::Nothing { Follow::Nothing } else { Follow::Logits };
        let bytes = match self.submit(key, Tokens::Given(tokens), start, follow)? {
            Some(begun) => self.collect(begun)?,
            None => Vec::new(),
        };
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
