//! Logits as hooks look at them: the likeliest tokens and some by name, and the whole row where those do not suffice.

use super::{GpuEngine, PlanKey, SampleMode, model::LOGITS, nothing_begun, output};
use crate::{
    Error, Result,
    error::SamplingError,
    generate::{LogitsView, ShortList},
};

impl GpuEngine {
    /// As [`Engine::look`](crate::generate::Engine::look).
    pub(super) fn look_at(&mut self, ids: &[u32]) -> Result<LogitsView> {
        self.submit_all()?;
        let begun = self.begun.pop_front().ok_or_else(nothing_begun)?;
        if begun.mode == SampleMode::Logits {
            return Ok(LogitsView::Full(bytemuck::pod_collect_to_vec(&self.collect(begun)?)));
        }
        let context = &self.model.context;
        self.viewed = Some(begun.key);
        let (row, offset, bytes) = output(&self.plans.of(&begun.key).ready(&begun.key)?.run.plan, LOGITS)?;
        let offsets: Vec<u64> = ids.iter().map(|id| u64::from(*id) * 4).filter(|at| *at < bytes).map(|at| offset + at).collect();
        // Submitted before the run is waited for: one wait for both.
        let mut staged = None;
        let submission = if offsets.is_empty() {
            None
        } else {
            Some(context.run("logits of some tokens", |encoder| {
                staged = Some(context.stage_words(encoder, row, &offsets)?);
                Ok(())
            })?)
        };
        let mut logits = vec![0f32; offsets.len()];
        let list = self.collect(begun)?;
        if let (Some(staged), Some(submission)) = (staged, submission) {
            self.model.context.collect_unless(staged, &submission, bytemuck::cast_slice_mut(&mut logits), &self.cancel)?;
        }
        Ok(LogitsView::List { list: short_list(&list).0, logits })
    }

    /// The logits of the last token that the plan of `key` has run.
    pub(super) fn row_of(&mut self, key: &PlanKey) -> Result<Vec<f32>> {
        let (buffer, offset, bytes) = output(&self.plans.of(key).ready(key)?.run.plan, LOGITS)?;
        let mut row = vec![0u8; bytes as usize];
        self.model.context.read_back(buffer, offset, &mut row)?;
        Ok(bytemuck::pod_collect_to_vec(&row))
    }
}

/// The token that `shaders/argmax.wgsl` found to follow `tokens` ones.
pub(super) fn chosen(bytes: &[u8], tokens: usize) -> Result<u32> {
    match bytemuck::pod_read_unaligned(bytes) {
        u32::MAX => Err(Error::Sampling(SamplingError::BrokenLogits { tokens })),
        token => Ok(token),
    }
}

/// Ids, logits, maximum and sum, and the device's draw, as `shaders/top_k.wgsl` lays them out.
pub(super) fn short_list(bytes: &[u8]) -> (ShortList, u32) {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
    let top = (words.len() - 3) / 2;
    let entries = (0..top).map(|i| (words[i], f32::from_bits(words[top + i])));
    let total = f64::from(f32::from_bits(words[2 * top + 1]));
    (ShortList { entries: entries.filter(|(id, _)| *id != u32::MAX).collect(), total, complete: false }, words[2 * top + 2])
}
