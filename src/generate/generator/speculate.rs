//! Generating with a drafter.

use std::ops::ControlFlow;

use super::GemmaGenerator;
use crate::{
    Result,
    generate::{DraftStats, Drafter, MOST_DRAFTED, SampleOpts, Want, draft::look_up},
};

impl GemmaGenerator {
    /// Lets [`generate_cached`](Self::generate_cached) and [`generate_cached_with`](Self::generate_cached_with) try several tokens in a
    /// run. The tokens are those without a drafter, greedy or drawn: a run of several tokens rounds otherwise than a run of one, so
    /// where two tokens are as likely up to that either may come.
    ///
    /// A drafter that is a model goes to the device here; plans made so far are made again. Its memory is in no
    /// [`MemoryPlan`](crate::generate::MemoryPlan) and counts towards no budget.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for the drafter of another model; a weight of it that is missing or misshapen, and what
    /// the device says.
    pub fn with_drafter(mut self, drafter: Drafter) -> Result<Self> {
        if let Some(model) = drafter.model() {
            self.engine.set_drafter(model)?;
        }
        self.drafter = Some(drafter);
        Ok(self)
    }

    /// Up to `count` tokens that the drafter would try after the history, 63 at most; none without a drafter, where the text gives no
    /// hint, and, of a drafter that is a model, before a step with it has chosen the last token of the history.
    ///
    /// # Errors
    /// What the device says.
    pub fn draft(&mut self, count: usize) -> Result<Vec<u32>> {
        let (history, count) = (self.history.tokens(), count.min(MOST_DRAFTED));
        match &self.drafter {
            Some(drafter) if drafter.model().is_some() && count > 0 => self.engine.draft(history, count),
            Some(drafter) if drafter.model().is_none() => Ok(look_up(history, count)),
            _ => Ok(Vec::new()),
        }
    }

    /// What the drafter has come to so far; zeros without one.
    pub fn draft_stats(&self) -> DraftStats {
        self.drafted
    }

    /// Up to `n` tokens, several from one run where what was drafted is right.
    pub(super) fn generate_drafted(
        &mut self,
        drafter: &Drafter,
        n: usize,
        opts: &SampleOpts,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n {
            for token in self.step_drafted(drafter, n - new.len(), opts)? {
                self.history.push(token);
                new.push(token);
                if on_token(token).is_break() || self.is_stop(token) {
                    self.history.rewind(self.history.len() - 1);
                    return Ok(new);
                }
            }
            // The rows of drafted tokens that were wrong are written again.
            self.history.rewind(self.history.len() - 1);
        }
        Ok(new)
    }

    /// At least one token that follows the history, and at most `most`; the history stays as it is.
    fn step_drafted(&mut self, drafter: &Drafter, most: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        self.ready_for_step(opts)?;
        let known = self.history.len();
        let room = (self.capacity - known).min(self.engine.chunk(Want::Each)).min(most);
        let count = drafter.tokens().min(room.saturating_sub(1));
        let drafted = if known - self.history.cached() == 1 { self.draft(count)? } else { Vec::new() };
        let end = known + drafted.len();
        let _span = tracing::trace_span!("step", position = known, tokens = end - self.history.cached()).entered();
        self.engine.reserve(end)?;
        self.history.writes(end);
        if drafted.is_empty() {
            self.engine.begin(self.history.tokens(), self.history.cached(), opts)?;
            let token = self.engine.finish(self.history.tokens(), opts)?.token;
            self.history.wrote(end);
            return Ok(vec![token]);
        }
        let chosen = self.engine.verify(self.history.tokens(), &drafted, opts)?;
        self.history.wrote(end);
        self.drafted.runs += 1;
        self.drafted.drafted += drafted.len() as u64;
        self.drafted.accepted += chosen.len() as u64 - 1;
        Ok(chosen)
    }
}
