//! Generating with a drafter.

use tracing::Instrument;

use super::GemmaGenerator;
use crate::{
    Error, Result,
    generate::{DraftStats, Drafter, MOST_DRAFTED, Outputs, SampleOpts, draft::look_up},
    platform,
    runtime::Wait,
};

impl GemmaGenerator {
    /// Lets [`generate_cached`](Self::generate_cached) and [`generate_cached_with`](Self::generate_cached_with) try
    /// several tokens in a run. The tokens are those without a drafter, greedy or drawn: a run of several tokens rounds
    /// otherwise than a run of one, so where two tokens are as likely up to that either may come.
    ///
    /// A drafter that is a model goes to the device here; plans made so far are made again. Its memory is in no
    /// [`MemoryPlan`](crate::generate::MemoryPlan) and counts towards no budget.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with [`GeneratorOptions::deterministic`](super::GeneratorOptions::deterministic).
    /// [`Error::Config`] for the drafter of another model; a weight of it that is missing or misshapen, and what
    /// the device says.
    pub fn with_drafter(self, drafter: Drafter) -> Result<Self> {
        platform::wait("loading a drafter", self.with_drafter_async(drafter))
    }

    /// As [`with_drafter`](Self::with_drafter), as a future like that of
    /// [`with_options_async`](Self::with_options_async).
    ///
    /// # Errors
    /// As [`with_drafter`](Self::with_drafter).
    pub async fn with_drafter_async(mut self, drafter: Drafter) -> Result<Self> {
        if self.history.is_aligned() {
            return Err(Error::Unsupported(
                "a drafter with GeneratorOptions::deterministic: its runs have any number of rows, which".into(),
            ));
        }
        self.stop_ahead();
        if let Some(model) = drafter.model() {
            self.engine.set_drafter(model).await?;
        }
        self.drafter = Some(drafter);
        Ok(self)
    }

    /// Up to `count` tokens that the drafter would try after the history, 63 at most. None without a drafter, and where
    /// the text gives no hint. A drafter that is a model has none before a step with it has chosen the last token of
    /// the history.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn draft(&mut self, count: usize) -> Result<Vec<u32>> {
        platform::wait("drafting", self.draft_by(count, Wait::Thread))
    }

    /// As [`draft`](Self::draft), without blocking the thread longer than a submit takes; needs no particular executor.
    ///
    /// # Errors
    /// As [`draft`](Self::draft).
    pub async fn draft_async(&mut self, count: usize) -> Result<Vec<u32>> {
        self.draft_by(count, Wait::Task).await
    }

    async fn draft_by(&mut self, count: usize, wait: Wait) -> Result<Vec<u32>> {
        let history = self.history.tokens();
        let count = count.min(MOST_DRAFTED);
        match &self.drafter {
            Some(drafter) if drafter.model().is_some() && count > 0 => self.engine.draft(history, count, wait).await,
            Some(drafter) if drafter.model().is_none() => {
                let vocab_size = self.config.vocab_size;
                // A picture's place in the text may be of ids past the vocabulary.
                Ok(look_up(history, count).into_iter().take_while(|token| (*token as usize) < vocab_size).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Counts of drafted and accepted tokens so far; zeros without a drafter.
    pub fn draft_stats(&self) -> DraftStats {
        self.drafted
    }

    /// At least one token that follows the history, and at most `most`, none of them after a stop token.
    pub(super) async fn step_drafted(
        &mut self,
        drafter: &Drafter,
        most: usize,
        opts: &SampleOpts,
        wait: Wait,
    ) -> Result<Vec<u32>> {
        let known = self.history.len();
        let room = (self.capacity - known).min(self.engine.chunk(Outputs::Each)).min(most);
        let count = drafter.tokens().min(room.saturating_sub(1));
        let drafted = if known - self.history.cached() == 1 { self.draft_by(count, wait).await? } else { Vec::new() };
        let end = known + drafted.len();
        let span = tracing::trace_span!("step", position = known, tokens = end - self.history.cached());
        self.engine.reserve(end)?;
        self.will_write(end);
        let mut chosen = if drafted.is_empty() {
            let step = self.engine.step(self.history.run(known), self.history.tokens(), opts, wait);
            vec![step.instrument(span).await?]
        } else {
            let chosen = self.engine.verify(self.history.tokens(), &drafted, opts, wait).instrument(span).await?;
            self.drafted.runs += 1;
            self.drafted.drafted += drafted.len() as u64;
            self.drafted.accepted += chosen.len() as u64 - 1;
            chosen
        };
        self.history.wrote(end);
        if let Some(last) = chosen.iter().position(|token| self.is_stop(*token)) {
            chosen.truncate(last + 1);
        }
        chosen.iter().for_each(|token| self.history.push(*token));
        // The rows of drafted tokens that were wrong are written again.
        self.rewind_rows(self.history.len() - 1)?;
        Ok(chosen)
    }
}
