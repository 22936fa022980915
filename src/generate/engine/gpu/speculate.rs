//! Trying tokens before the model has chosen them.

use super::{GpuEngine, PlanKey, SampleMode, Tokens, chosen, model::LOGITS, nothing_begun, output, short_list};
use crate::{
    Result,
    generate::{Outputs, Run, SampleOpts, sample_after_draft},
    runtime::{RunTokens, Wait},
};

/// What a run over drafted tokens gave.
struct Verified<'a> {
    key: PlanKey,
    mode: SampleMode,
    history: &'a [u32],
    drafted: &'a [u32],
    opts: &'a SampleOpts,
}

impl GpuEngine {
    /// As [`Engine::verify`](crate::generate::Engine::verify): one submit, and of each token what it is chosen by.
    pub(in crate::generate::engine) async fn verify(
        &mut self,
        history: &[u32],
        drafted: &[u32],
        opts: &SampleOpts,
        wait: Wait,
    ) -> Result<Vec<u32>> {
        self.forget();
        self.settled(wait).await?;
        let start = history.len() - 1;
        let tokens = [&history[start..], drafted].concat();
        let run = RunTokens::text(&tokens, start);
        let key = self.prepare(&run, true, Outputs::Each)?;
        let mode = SampleMode::for_choosing(opts);
        let begun = self.submit_by(key, Tokens::Given(run), mode, wait).await?.ok_or_else(nothing_begun)?;
        let bytes = self.collected_by(begun, wait).await?;
        let verified = Verified { key, mode, history, drafted, opts };
        let mut chosen = Vec::new();
        for (known, row) in bytes.chunks(bytes.len() / tokens.len()).enumerate() {
            let token = self.choose_after(&verified, known, row, wait).await?;
            chosen.push(token);
            if drafted.get(known) != Some(&token) {
                break;
            }
        }
        Ok(chosen)
    }

    /// The token that follows the history and the first `known` drafted ones, by its row of what was read.
    async fn choose_after(&mut self, verified: &Verified<'_>, known: usize, row: &[u8], wait: Wait) -> Result<u32> {
        let Verified { key, mode, history, drafted, opts } = verified;
        let position = history.len() + known;
        let logits = match mode {
            SampleMode::Argmax => return chosen(row, position),
            SampleMode::Draw(_) => {
                let list = short_list(row).0;
                list.check(position)?;
                match list.choose(opts, position) {
                    Some(token) => return Ok(token),
                    None => self.logits_of_row(key, known, wait).await?,
                }
            }
            SampleMode::Logits | SampleMode::Nothing => bytemuck::pod_collect_to_vec(row),
        };
        sample_after_draft(&logits, opts, history, &drafted[..known])
    }

    /// One row of the logits of the plan that ran last.
    async fn logits_of_row(&mut self, key: &PlanKey, row: usize, wait: Wait) -> Result<Vec<f32>> {
        let (buffer, offset, _) = output(&self.plans.of(key).ready(key)?.run.plan, LOGITS)?;
        let mut bytes = vec![0; self.model.model.config.vocab_size * 4];
        self.model.context.read_back_by(wait, buffer, offset + (row * bytes.len()) as u64, &mut bytes).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
