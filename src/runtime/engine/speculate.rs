//! Trying tokens before the model has chosen them.

use super::{Follow, GpuEngine, PlanKey, Tokens, model::LOGITS, nothing_begun, output, short_list};
use crate::{
    Result,
    generate::{Engine, SampleOpts, Want, agreed, sample_token_after},
};

impl GpuEngine {
    /// As [`Engine::verify`]: one submit, and of each token what it is chosen by.
    pub(super) fn verify_drafted(&mut self, history: &[u32], drafted: &[u32], opts: &SampleOpts) -> Result<Vec<u32>> {
        self.forget();
        let (text, start) = ([history, drafted].concat(), history.len() - 1);
        let key = self.prepare(text.len() - start, text.len(), true, Want::Each)?;
        let follow = Follow::for_choosing(opts);
        let begun = self.submit(key, Tokens::Given(&text[start..]), start, follow)?.ok_or_else(nothing_begun)?;
        let bytes = self.collect(begun)?;
        let row_bytes = bytes.len() / (text.len() - start);
        agreed(&text, history.len(), |length| {
            let row = &bytes[(length - 1 - start) * row_bytes..][..row_bytes];
            match follow {
                Follow::Argmax => Ok(bytemuck::pod_read_unaligned(row)),
                Follow::Draw(_) => match short_list(row).0.choose(opts, length) {
                    Some(token) => Ok(token),
                    None => sample_token_after(&self.logits_of_row(&key, length - 1 - start)?, opts, &text[..length]),
                },
                Follow::Logits | Follow::Nothing => {
                    sample_token_after(&bytemuck::pod_collect_to_vec::<u8, f32>(row), opts, &text[..length])
                }
            }
        })
    }

    /// One row of the logits of the plan that ran last.
    fn logits_of_row(&mut self, key: &PlanKey, row: usize) -> Result<Vec<f32>> {
        let (buffer, offset, _) = output(&self.plans.of(key).ready(key)?.plan, LOGITS)?;
        let mut bytes = vec![0; self.model.model.config.vocab_size * 4];
        self.model.context.read_back(buffer, offset + (row * bytes.len()) as u64, &mut bytes)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
