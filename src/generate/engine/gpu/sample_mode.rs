//! The use of a run's logits.

use super::{GpuEngine, PlanKey};
use crate::{
    generate::{DeviceDraw, SHORT_LIST, SampleOpts},
    runtime::Step,
};

/// The sampler that runs after the plan, and so what is read back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SampleMode {
    Nothing,
    Logits,
    Argmax,
    Draw(SampleOpts),
}

impl SampleMode {
    /// The step of a run of `rows` tokens from `start` on.
    pub(super) fn step(self, key: &PlanKey, start: usize, rows: usize) -> Step {
        let end = if key.resident { (start + rows) as u32 } else { u32::MAX };
        let step = Step { rows: rows as u32, end, capacity: key.rows as u32, ..Step::all(0) };
        self.choosing(step, start + rows)
    }

    /// `step` with what the token at `position` is chosen by.
    pub(super) fn choosing(self, step: Step, position: usize) -> Step {
        let SampleMode::Draw(opts) = self else { return step };
        let DeviceDraw { temperature, draw, top_k, top_p, min_p } = opts.on_device(position);
        Step { temperature, draw, top_k, top_p, min_p, ..step }
    }

    /// The mode in which a token is chosen.
    pub(super) fn for_choosing(opts: &SampleOpts) -> Self {
        match (opts.penalises(), opts.is_greedy()) {
            (true, _) => SampleMode::Logits,
            (false, true) => SampleMode::Argmax,
            (false, false) => SampleMode::Draw(*opts),
        }
    }
}

impl GpuEngine {
    /// The mode in which a token is chosen. Where nothing may block, the whole row comes with the run unless the list
    /// of the likeliest decides in any case.
    pub(super) fn mode(&self, opts: &SampleOpts) -> SampleMode {
        let listed = SHORT_LIST.min(self.model.model.config.vocab_size);
        match SampleMode::for_choosing(opts) {
            SampleMode::Draw(_) if !self.model.context.blocks() && !(1..=listed).contains(&opts.top_k()) => SampleMode::Logits,
            mode => mode,
        }
    }
}
