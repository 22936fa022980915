//! Logits of prompts and of single steps.

use tracing::Instrument;

use super::GemmaGenerator;
use crate::{
    Error, Result,
    error::PromptError,
    generate::Outputs,
    platform,
    prompt::{Prompt, check_tokens},
    runtime::Wait,
};

/// The work that may not block, as errors name it.
const LOGITS: &str = "a run of the model";

impl GemmaGenerator {
    /// Replaces the history and returns the logits `[V]` of its last token; all rows are then in the cache.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), and what the device says.
    pub fn prefill_get_last_logits(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.prefill(prompt)?;
        self.last_logits_blocking()
    }

    fn last_logits_blocking(&mut self) -> Result<Vec<f32>> {
        platform::wait(LOGITS, self.last_logits(Wait::Thread))
    }

    /// As [`prefill_get_last_logits`](Self::prefill_get_last_logits), without blocking the thread longer than a submit
    /// takes; needs no particular executor. Dropped before it is done, it leaves history and rows usable.
    ///
    /// # Errors
    /// As [`prefill_get_last_logits`](Self::prefill_get_last_logits).
    pub async fn prefill_get_last_logits_async(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.prefill(prompt)?;
        self.last_logits(Wait::Task).await
    }

    /// Appends `token` and returns the logits `[V]` that follow it: one decode step.
    ///
    /// # Errors
    /// [`PromptError::EmptyHistory`], [`PromptError::TokenOutOfRange`], [`Error::ContextFull`], [`Error::Cancelled`], and
    /// what the device says; the history is then as it was.
    pub fn decode_get_logits(&mut self, token: u32) -> Result<Vec<f32>> {
        platform::wait(LOGITS, self.logits_after(token, Wait::Thread))
    }

    /// As [`decode_get_logits`](Self::decode_get_logits), without blocking the thread longer than a submit takes; needs
    /// no particular executor. Dropped before it is done, it leaves the token in the history, and rows usable.
    ///
    /// # Errors
    /// As [`decode_get_logits`](Self::decode_get_logits).
    pub async fn decode_get_logits_async(&mut self, token: u32) -> Result<Vec<f32>> {
        self.logits_after(token, Wait::Task).await
    }

    async fn logits_after(&mut self, token: u32, wait: Wait) -> Result<Vec<f32>> {
        if self.history.len() == 0 {
            return Err(Error::Prompt(PromptError::EmptyHistory("decode_get_logits")));
        }
        check_tokens(&[token], self.history.len(), self.config.vocab_size)?;
        self.check_room(self.history.len() + 1)?;
        self.stop_ahead();
        self.history.push(token);
        let logits = self.last_logits(wait).await;
        logits.inspect_err(|_| self.history.pop())
    }

    /// Replaces the history and returns the logits `[T, V]` of every token, in chunks through the cache.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), and what the device says.
    pub fn all_logits(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.prefill(prompt)?;
        self.logits_of_each_blocking()
    }

    fn logits_of_each_blocking(&mut self) -> Result<Vec<f32>> {
        platform::wait(LOGITS, self.logits_of_each(Wait::Thread))
    }

    /// As [`all_logits`](Self::all_logits), without blocking the thread longer than a submit takes; needs no particular
    /// executor. Dropped before it is done, it leaves history and rows usable.
    ///
    /// # Errors
    /// As [`all_logits`](Self::all_logits).
    pub async fn all_logits_async(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.prefill(prompt)?;
        self.logits_of_each(Wait::Task).await
    }

    async fn logits_of_each(&mut self, wait: Wait) -> Result<Vec<f32>> {
        let cut = CutOtherwise(self);
        let own = &mut *cut.0;
        own.history.rewind(0);
        let mut logits = Vec::with_capacity(own.history.len() * own.config.vocab_size);
        while own.history.cached() < own.history.len() {
            let end = own.history.len().min(own.history.cached() + own.engine.chunk(Outputs::All));
            logits.append(&mut own.run(own.history.whole_end(end), Outputs::All, wait).await?);
        }
        Ok(logits)
    }

    /// The logits `[T, V]` of a sequence in one pass without caches; the history stays as it is. Where so many rows are
    /// more than the device binds, or more than 256 MiB, they come in chunks, through caches that live as long as this
    /// call.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), and what the device says.
    pub fn recompute_all_logits(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.recompute_blocking(prompt.into())
    }

    fn recompute_blocking(&mut self, prompt: Prompt) -> Result<Vec<f32>> {
        platform::wait(LOGITS, self.recompute(prompt, Wait::Thread))
    }

    /// As [`recompute_all_logits`](Self::recompute_all_logits), without blocking the thread longer than a submit takes;
    /// needs no particular executor. Dropped before it is done, it leaves the history as it is too.
    ///
    /// # Errors
    /// As [`recompute_all_logits`](Self::recompute_all_logits).
    pub async fn recompute_all_logits_async(&mut self, prompt: impl Into<Prompt>) -> Result<Vec<f32>> {
        self.recompute(prompt.into(), Wait::Task).await
    }

    async fn recompute(&mut self, prompt: Prompt, wait: Wait) -> Result<Vec<f32>> {
        self.check_prompt(&prompt)?;
        self.stop_ahead();
        let mut apart = self.history.fresh();
        apart.replace(prompt);
        if apart.len() <= self.engine.rows_at_once() {
            return self.engine.recompute(apart.whole_run(), Outputs::All, wait).await;
        }
        // Caches of its own: those of the history stay as they are.
        let mut engine = self.engine.another();
        *engine.cancel_token() = self.engine.cancel_token().clone();
        engine.reserve(apart.len())?;
        let mut logits = Vec::with_capacity(apart.len() * self.config.vocab_size);
        while apart.cached() < apart.len() {
            let end = apart.whole_end(apart.len().min(apart.cached() + engine.chunk(Outputs::All)));
            logits.append(&mut engine.run(apart.run(end), Outputs::All, wait).await?);
            apart.wrote(end);
        }
        Ok(logits)
    }

    async fn last_logits(&mut self, wait: Wait) -> Result<Vec<f32>> {
        self.fill_all_but_the_last_chunk(wait).await?;
        self.run(self.history.len(), Outputs::Last, wait).await
    }

    /// Computes rows until one run is left that ends with the last token.
    pub(super) async fn fill_all_but_the_last_chunk(&mut self, wait: Wait) -> Result<()> {
        self.engine.reserve(self.history.len())?;
        while let Some(end) = self.next_fill() {
            self.run(end, Outputs::Nothing, wait).await?;
        }
        Ok(())
    }

    /// Runs the tokens from the cached ones up to `end`.
    async fn run(&mut self, end: usize, want: Outputs, wait: Wait) -> Result<Vec<f32>> {
        let span = if want == Outputs::Nothing { self.prefill_span(end) } else { tracing::Span::none() };
        self.will_write(end);
        let logits = self.engine.run(self.history.run(end), want, wait).instrument(span).await?;
        self.history.wrote(end);
        Ok(logits)
    }
}

/// A generator whose runs are not cut at multiples of a chunk. Where its history is aligned, no row of them stays, be
/// they done, failed or given up.
struct CutOtherwise<'a>(&'a mut GemmaGenerator);

impl Drop for CutOtherwise<'_> {
    fn drop(&mut self) {
        if self.0.history.is_aligned() {
            self.0.history.rewind(0);
        }
    }
}
