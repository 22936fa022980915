//! Prompts and tokens.

use std::ops::ControlFlow;

use super::GemmaGenerator;
use crate::{
    Error, Result,
    error::PromptError,
    generate::{Outputs, SampleOpts, sample_token_after},
    platform,
    prompt::{Modality, Prompt, SoftTokens},
    runtime::Wait,
};

impl GemmaGenerator {
    /// Replaces the history; nothing runs until a token or logits are asked for. The cache keeps the rows of the common
    /// prefix. Where a sliding layer's ring has dropped what the first new token would read, and with it all that its
    /// rows could be computed from, everything is computed anew: position 0 is then the last one that needs nothing
    /// dropped. [`rows_computed`](Self::rows_computed) counts the rows.
    ///
    /// # Errors
    /// [`PromptError::Empty`], [`PromptError::TokenOutOfRange`], [`PromptError::SoftTokens`],
    /// [`PromptError::EndsWithSoftTokens`], [`PromptError::PictureTooLarge`], [`Error::ContextFull`]; the history stays as
    /// it was.
    pub fn prefill(&mut self, prompt: impl Into<Prompt>) -> Result<()> {
        self.replace(prompt.into())
    }

    fn replace(&mut self, prompt: Prompt) -> Result<()> {
        self.check_prompt(&prompt)?;
        self.stop_ahead();
        self.rewind_rows(self.history.common(&prompt))?;
        self.forget_marks(self.history.common_tokens(&prompt));
        self.history.replace(prompt);
        Ok(())
    }

    /// The next token, everything recomputed from the history without caches: what the cached paths are measured
    /// against.
    ///
    /// # Errors
    /// [`PromptError::EmptyHistory`], [`Error::ContextFull`],
    /// [`SamplingError::Options`](crate::error::SamplingError::Options),
    /// [`SamplingError::BrokenLogits`](crate::error::SamplingError::BrokenLogits), and errors of the device.
    pub fn step(&mut self, opts: &SampleOpts) -> Result<u32> {
        self.check_step("step", opts)?;
        self.stop_ahead();
        let recompute = self.engine.recompute(self.history.whole_run(), Outputs::Last, Wait::Thread);
        let logits = platform::wait("a step", recompute)?;
        let token = sample_token_after(&logits, opts, self.history.tokens())?;
        self.history.push(token);
        Ok(token)
    }

    /// The next token, with the cache.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_cached(&mut self, opts: &SampleOpts) -> Result<u32> {
        loop {
            if let Some(token) = self.advance(opts, 1)?.first() {
                return Ok(*token);
            }
        }
    }

    /// Up to `n` tokens by [`step`](Self::step). Ends after a stop token, which is part of the result and the history,
    /// and where the context is full: [`tokens`](Self::tokens) then has [`max_context`](Self::max_context) of them.
    ///
    /// # Errors
    /// As [`step`](Self::step), [`Error::ContextFull`] where the history leaves no room for the first token. Tokens
    /// generated before the error are in the history.
    pub fn generate(&mut self, n: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n && !self.ends_with(&new) {
            new.push(self.step(opts)?);
        }
        Ok(new)
    }

    /// Returns `true` if generation ends with the last of these new tokens: it is a stop token, or the context is full.
    pub(super) fn ends_with(&self, new: &[u32]) -> bool {
        new.last().is_some_and(|token| self.is_stop(*token) || self.is_full())
    }

    /// Returns `true` if the context has no room for another token.
    pub(crate) fn is_full(&self) -> bool {
        self.history.len() >= self.capacity
    }

    /// Up to `n` tokens by [`step_cached`](Self::step_cached); ends as [`generate`](Self::generate) does.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_cached(&mut self, n: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        self.generate_cached_with(n, opts, |_| ControlFlow::Continue(()))
    }

    /// As [`generate_cached`](Self::generate_cached), and hands each token over as it comes; `Break` ends generation.
    /// The next step is under way before a token is handed over, but with a repetition penalty and where a draw takes
    /// more than the device can tell (see [`SampleOpts`]).
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_cached_with(
        &mut self,
        n: usize,
        opts: &SampleOpts,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        self.generate_blocking(n, opts, &mut on_token)
    }

    /// Not generic, so that it is compiled with this crate and not again with each one that generates.
    fn generate_blocking(
        &mut self,
        n: usize,
        opts: &SampleOpts,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let generated = platform::wait("a step", self.generate_each(n, opts, on_token, Wait::Thread));
        self.stop_ahead();
        generated
    }

    /// As [`generate_cached`](Self::generate_cached), without blocking the thread longer than a submit takes; needs no
    /// particular executor. Dropped before it is done, it leaves the tokens so far in the history.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub async fn generate_cached_async(&mut self, n: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        let generated = self.generate_each(n, opts, &mut |_| ControlFlow::Continue(()), Wait::Task).await;
        self.stop_ahead();
        generated
    }

    /// Leaves steps under way where it ends before `n` tokens.
    async fn generate_each(
        &mut self,
        n: usize,
        opts: &SampleOpts,
        on_token: &mut (impl FnMut(u32) -> ControlFlow<()> + ?Sized),
        wait: Wait,
    ) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n && !self.ends_with(&new) {
            if wait == Wait::Task {
                self.look_ahead(opts, n - new.len());
            }
            self.engine.awaited(wait).await?;
            let tokens = self.advance_by(opts, n - new.len(), wait).await?;
            for (index, token) in tokens.iter().enumerate() {
                new.push(*token);
                if on_token(*token).is_break() || self.is_stop(*token) {
                    self.take_back(tokens.len() - index - 1);
                    return Ok(new);
                }
            }
        }
        Ok(new)
    }

    /// A run of the tokens up to `end` for their rows.
    pub(super) fn prefill_span(&self, end: usize) -> tracing::Span {
        let start = self.history.cached();
        tracing::debug_span!("prefill", tokens = self.history.len(), start, rows = end - start)
    }

    /// A step that runs the tokens without a row and chooses the one after them.
    pub(super) fn step_span(&self) -> tracing::Span {
        let position = self.history.len();
        let cached = self.history.cached();
        tracing::trace_span!("step", position, tokens = position - cached)
    }

    pub(super) fn check_step(&self, name: &'static str, opts: &SampleOpts) -> Result<()> {
        opts.validate()?;
        if self.history.len() == 0 {
            return Err(Error::Prompt(PromptError::EmptyHistory(name)));
        }
        self.check_room(self.history.len() + 1)
    }

    pub(super) fn check_room(&self, needed: usize) -> Result<()> {
        if needed > self.capacity { Err(Error::ContextFull { needed, capacity: self.capacity }) } else { Ok(()) }
    }

    /// What [`prefill`](Self::prefill) refuses.
    pub(super) fn check_prompt(&self, prompt: &Prompt) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::Prompt(PromptError::Empty));
        }
        prompt.check(self.config.vocab_size, self.config.hidden_size)?;
        prompt.soft_tokens().try_for_each(|(_, soft)| self.check_picture(soft))?;
        if prompt.soft_tokens().last().is_some_and(|(start, soft)| start + soft.len() == prompt.len()) {
            return Err(Error::Prompt(PromptError::EndsWithSoftTokens));
        }
        self.check_room(prompt.len())
    }

    fn check_picture(&self, soft: &SoftTokens) -> Result<()> {
        let most = self.engine.model().longest_picture();
        match (soft.modality(), most) {
            (Modality::Image, Some(most)) if soft.len() > most => {
                Err(Error::Prompt(PromptError::PictureTooLarge { tokens: soft.len(), most }))
            }
            _ => Ok(()),
        }
    }
}
