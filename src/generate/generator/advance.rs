//! Generating, one piece of work at a time: what all ways to generate are made of.

use super::{GemmaGenerator, hooked::Look};
use crate::{
    Error, Result,
    generate::{Outputs, SampleOpts, Sampled},
    platform,
    runtime::Wait,
};

/// The work under way between two calls.
#[derive(Debug, Default)]
pub(super) struct Lookahead {
    /// How the step that was begun, if one was, chooses its token.
    begun: Option<SampleOpts>,
    /// The step with hooks that was begun.
    pub(super) look: Option<Look>,
    /// Where the run ends that was begun for its rows and of which slices are left.
    rows: Option<usize>,
    /// True if the token chosen last was not the one that the device predicted: one step is then made alone. Where the
    /// device rarely predicts right, little is run in vain.
    mispredicted: bool,
    /// Whether the step after the one that was begun is under way too, or why it could not be begun; `None` if that
    /// was not tried.
    next: Option<Result<bool>>,
    /// Why the step after the token that came last could not be begun.
    failed: Option<Error>,
}

impl GemmaGenerator {
    /// Does the next piece of work, which is one of three:
    ///
    /// - submit a slice of a run over tokens of the prompt that have no rows yet;
    /// - begin a step, or submit its next slice;
    /// - wait for the step that was begun and return its token, while the step after it runs. With a drafter several
    ///   tokens may come at once.
    ///
    /// Returned tokens are in the history, none of them after a stop token. At most `most`, which is not 0, will still
    /// be asked for.
    ///
    /// # Errors
    /// As [`step_cached`](Self::step_cached). A step that was begun is dropped; history and rows stay usable.
    pub(crate) fn advance(&mut self, opts: &SampleOpts, most: usize) -> Result<Vec<u32>> {
        platform::wait("a step", self.advance_by(opts, most, Wait::Thread))
    }

    /// As [`advance`](Self::advance). Without a drafter it never waits where what is [pending](Self::settled) is done.
    pub(crate) async fn advance_by(&mut self, opts: &SampleOpts, most: usize, wait: Wait) -> Result<Vec<u32>> {
        let outcome = self.piece_of_work(opts, most, wait).await;
        if outcome.is_err() {
            self.stop_ahead();
        }
        outcome
    }

    async fn piece_of_work(&mut self, opts: &SampleOpts, most: usize, wait: Wait) -> Result<Vec<u32>> {
        self.engine.cancel_token().check("a run of the model")?;
        if let Some(failed) = self.lookahead.failed.take() {
            return Err(failed);
        }
        if self.lookahead.begun.is_some_and(|begun| begun == *opts) {
            if self.engine.slices_left() {
                return self.engine.go_on().map(|()| Vec::new());
            }
            return self.finish_step(opts, most).map(|token| vec![token]);
        }
        if !self.ready_in_part(opts)? {
            return Ok(Vec::new());
        }
        if let Some(drafter) = self.drafter.clone() {
            return self.step_drafted(&drafter, most, opts, wait).await;
        }
        self.will_write(self.history.len());
        self.engine.begin(self.history.run(self.history.len()), opts)?;
        self.lookahead.begun = Some(*opts);
        Ok(Vec::new())
    }

    /// Runs the next part of the tokens that have no rows yet. Returns `true` if one run is left, which ends with the
    /// last token. A step that was begun is dropped.
    pub(crate) fn ready_in_part(&mut self, opts: &SampleOpts) -> Result<bool> {
        self.check_step("step_cached", opts)?;
        if self.lookahead.begun.is_some() || self.lookahead.look.is_some() {
            self.stop_ahead();
        }
        if let Some(end) = self.lookahead.rows.take() {
            self.engine.go_on()?;
            self.wrote_in_part(end);
            return Ok(false);
        }
        // The low-level pair leaves a full cache; the last row is then computed again for its logits.
        self.rewind_rows(self.history.len() - 1)?;
        self.engine.reserve(self.history.len())?;
        let Some(end) = self.next_fill() else { return Ok(true) };
        self.begin_rows(end).map(|()| false)
    }

    /// As [`ready_in_part`](Self::ready_in_part), up to the run of the last token alone.
    pub(crate) fn ready_but_for_the_last(&mut self, opts: &SampleOpts) -> Result<bool> {
        if !self.ready_in_part(opts)? {
            return Ok(false);
        }
        let cached = self.history.cached();
        let last = self.history.len() - 1;
        if cached >= last {
            return Ok(true);
        }
        let end = self.history.whole_end(last.min(cached + self.engine.chunk(Outputs::Nothing)));
        self.begin_rows(end).map(|()| false)
    }

    fn begin_rows(&mut self, end: usize) -> Result<()> {
        let _span = self.prefill_span(end).entered();
        self.will_write(end);
        self.engine.begin_rows(self.history.run(end))?;
        self.wrote_in_part(end);
        Ok(())
    }

    /// Counts the rows up to `end`, once all slices of their run are submitted.
    fn wrote_in_part(&mut self, end: usize) {
        self.lookahead.rows = self.engine.slices_left().then_some(end);
        if self.lookahead.rows.is_none() {
            self.history.wrote(end);
        }
    }

    /// Where the next run ends that is wanted for its rows alone; `None` where one run is left, which ends with the
    /// last token.
    pub(super) fn next_fill(&mut self) -> Option<usize> {
        if self.history.is_aligned() {
            return self.history.next_aligned_end();
        }
        let left = self.history.len() - self.history.cached();
        let end = self.history.cached() + self.engine.chunk(Outputs::Nothing);
        (left > self.engine.chunk(Outputs::Last)).then(|| self.history.whole_end(end))
    }

    fn finish_step(&mut self, opts: &SampleOpts, most: usize) -> Result<u32> {
        let _span = self.step_span().entered();
        self.look_ahead(opts, most);
        let Sampled { token, predicted, .. } = self.engine.finish(self.history.tokens(), opts)?;
        self.history.wrote(self.history.len());
        self.history.push(token);
        let next = self.lookahead.next.take();
        let begun = (matches!(next, Some(Ok(true))) && predicted).then_some(*opts);
        let failed = next.and_then(Result::err);
        self.lookahead = Lookahead { begun, mispredicted: !predicted, failed, ..Lookahead::default() };
        Ok(token)
    }

    /// Begins the step after the one that was begun, if at least two of the tokens still asked for, which are `most`,
    /// would come of them. A task does so before it waits, so that the device has work meanwhile.
    pub(crate) fn look_ahead(&mut self, opts: &SampleOpts, most: usize) {
        let begun = self.lookahead.begun.is_some_and(|begun| begun == *opts) && !self.engine.slices_left();
        if begun && most > 1 && self.lookahead.next.is_none() && !self.lookahead.mispredicted {
            self.lookahead.next = Some(self.begin_next(opts));
        }
    }

    /// Begins the step after the one that was begun last, if the device can and there is room.
    fn begin_next(&mut self, opts: &SampleOpts) -> Result<bool> {
        let position = self.history.len();
        if self.check_room(position + 2).is_err() || self.history.chunk_is_full(position + 1) {
            return Ok(false);
        }
        self.will_write(position + 1);
        self.engine.begin_next(position, opts)
    }

    /// Drops what was begun: the next token will be another's.
    pub(crate) fn stop_ahead(&mut self) {
        self.lookahead = Lookahead::default();
        self.engine.forget();
    }

    /// No history.
    pub(super) fn clear(&mut self) {
        self.stop_ahead();
        (self.history, self.checkpoints) = (self.history.fresh(), self.checkpoints.fresh());
    }

    /// Takes the last `count` tokens back.
    pub(crate) fn take_back(&mut self, count: usize) {
        self.stop_ahead();
        (0..count).for_each(|_| self.history.pop());
        self.forget_marks(self.history.len());
    }

    /// [`step_cached`](Self::step_cached) without blocking the thread longer than a submit takes; needs no particular
    /// executor. Dropped before it is done, it leaves history and rows usable.
    ///
    /// # Errors
    /// As [`step_cached`](Self::step_cached).
    pub async fn step_async(&mut self, opts: &SampleOpts) -> Result<u32> {
        loop {
            self.engine.awaited(Wait::Task).await?;
            if let Some(token) = self.advance_by(opts, 1, Wait::Task).await?.first() {
                return Ok(*token);
            }
        }
    }

    /// Resolves when the next piece of work would not wait, or `cancel` is cancelled.
    #[cfg(feature = "tokenizer")]
    pub(crate) async fn settled(&mut self, cancel: &crate::generate::CancelToken) -> Result<()> {
        match self.engine.pending() {
            Some(pending) => pending.done(cancel).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
