//! Trying tokens before the model has chosen them.

use super::{GpuEngine, PlanKey, SampleMode, Tokens, chosen, model::LOGITS, nothing_begun, output, short_list};
use crate::{
    Result,
    generate::{Outputs, Run, SampleOpts, agreed, sample_after_draft},
    runtime::RunTokens,
};

impl GpuEngine {
    /// As [`Engine::verify`]: one submit, and of each token what it is chosen by.
    pub(super) fn verify_drafted(&mut self, history: &[u32], drafted: &[u32], opts: &SampleOpts) -> Result<Vec<u32>> {
        self.forget();
        let start = history.len() - 1;
        let tokens = [&history[start..], drafted].concat();
        let run = RunTokens::text(&tokens, start);
        let key = self.prepare(&run, true, Outputs::Each)?;
        let mode = SampleMode::for_choosing(opts);
        let begun = self.submit(key, Tokens::Given(run), mode)?.ok_or_else(nothing_begun)?;
        let bytes = self.collect(begun)?;
        let row_bytes = bytes.len() / tokens.len();
        agreed(drafted, |known| {
            let row = &bytes[known * row_bytes..][..row_bytes];
            let logits = match mode {
                SampleMode::Argmax => return chosen(row, history.len() + known),
                SampleMode::Draw(_) => {
                    let list = short_list(row).0;
                    list.check(history.len() + known)?;
                    match list.choose(opts, history.len() + known) {
                        Some(token) => return Ok(token),
                        None => self.logits_of_row(&key, known)?,
                    }
                }
                SampleMode::Logits | SampleMode::Nothing => bytemuck::pod_collect_to_vec(row),
            };
            sample_after_draft(&logits, opts, history, &drafted[..known])
        })
    }

    /// One row of the logits of the plan that ran last.
    fn logits_of_row(&mut self, key: &PlanKey, row: usize) -> Result<Vec<f32>> {
        let (buffer, offset, _) = output(&self.plans.of(key).ready(key)?.run.plan, LOGITS)?;
        let mut bytes = vec![0; self.model.model.config.vocab_size * 4];
        self.model.context.read_back(buffer, offset + (row * bytes.len()) as u64, &mut bytes)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
