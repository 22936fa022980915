//! Steps in which a caller has a say.

use super::GemmaGenerator;
use crate::{
    Result,
    generate::{
        Chosen, LogitChanges, LogitsView, SHORT_LIST, SampleHooks, SampleOpts, ShortList,
        hooks::{choose_from_list, choose_from_whole_row, list_logprobs},
    },
    runtime::Wait,
};

/// Most tokens whose logits are read beside the list; with more of them the whole row is.
const MOST_NAMED: usize = 64;

/// A step with hooks that was begun.
#[derive(Debug)]
pub(super) struct Look {
    opts: SampleOpts,
    /// The changes of processors to its logits.
    changes: LogitChanges,
}

/// The temperature that a list's sum is at. A greedy step has none; at 1 the sum gives log-probabilities.
fn temperature(opts: &SampleOpts) -> f32 {
    if opts.is_greedy() { 1.0 } else { opts.on_device(0).temperature }
}

impl GemmaGenerator {
    /// The next token, with the cache and with hooks: as [`step_cached`](Self::step_cached), but processors change the
    /// logits, a sampler may choose, and log-probabilities are told. Processors work while the device does.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`CallbackError::Hook`](crate::error::CallbackError::Hook) where a processor or the
    /// sampler fails or panics, [`SamplingError::NoTokenAllowed`](crate::error::SamplingError::NoTokenAllowed),
    /// [`SamplingError::BrokenLogits`](crate::error::SamplingError::BrokenLogits), and
    /// [`Error::Option`](crate::Error::Option) for more than 64 log-probabilities. History and caches stay usable.
    pub fn step_hooked(&mut self, opts: &SampleOpts, hooks: &mut SampleHooks) -> Result<Chosen> {
        self.stop_ahead(); // It may have been begun with other hooks.
        loop {
            if let Some(chosen) = self.advance_hooked(opts, hooks)? {
                return Ok(chosen);
            }
        }
    }

    /// As [`step_hooked`](Self::step_hooked), without blocking the thread longer than a submit takes; needs no particular
    /// executor. Dropped before it is done, it leaves history and rows usable.
    ///
    /// # Errors
    /// As [`step_hooked`](Self::step_hooked).
    pub async fn step_hooked_async(&mut self, opts: &SampleOpts, hooks: &mut SampleHooks) -> Result<Chosen> {
        self.stop_ahead(); // It may have been begun with other hooks.
        loop {
            self.engine.awaited(Wait::Task).await?;
            if let Some(chosen) = self.advance_hooked(opts, hooks)? {
                return Ok(chosen);
            }
        }
    }

    /// As [`advance`](Self::advance), with hooks, which are those that a step was begun with.
    ///
    /// # Errors
    /// As [`step_hooked`](Self::step_hooked).
    pub(crate) fn advance_hooked(&mut self, opts: &SampleOpts, hooks: &mut SampleHooks) -> Result<Option<Chosen>> {
        let outcome = self.piece_of_hooked_work(opts, hooks);
        if outcome.is_err() {
            self.stop_ahead();
        }
        outcome
    }

    /// Returns `true` if a step with hooks was begun.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn looks_ahead(&self) -> bool {
        self.lookahead.look.is_some()
    }

    fn piece_of_hooked_work(&mut self, opts: &SampleOpts, hooks: &mut SampleHooks) -> Result<Option<Chosen>> {
        self.engine.cancel_token().check("a run of the model")?;
        self.check_step("step_hooked", opts)?;
        hooks.validate()?;
        if self.lookahead.look.as_ref().is_some_and(|look| look.opts == *opts) {
            if self.engine.slices_left() {
                return self.engine.go_on().map(|()| None);
            }
            return self.finish_look(hooks);
        }
        if self.ready_in_part(opts)? {
            self.begin_view(opts, hooks)?;
        }
        Ok(None)
    }

    /// Processors work while the device does.
    fn begin_view(&mut self, opts: &SampleOpts, hooks: &mut SampleHooks) -> Result<()> {
        self.will_write(self.history.len());
        self.engine.begin_view(self.history.run(self.history.len()), temperature(opts))?;
        let changes = hooks.changes(self.history.tokens(), self.config.vocab_size)?;
        self.lookahead.look = Some(Look { opts: *opts, changes });
        Ok(())
    }

    fn finish_look(&mut self, hooks: &mut SampleHooks) -> Result<Option<Chosen>> {
        let Some(Look { opts, changes }) = self.lookahead.look.take() else { return Ok(None) };
        let _span = self.step_span().entered();
        let whole = hooks.has_sampler() || opts.penalises() || (hooks.logprobs().is_some() && temperature(&opts) != 1.0);
        let named = if whole { None } else { changes.named(MOST_NAMED) };
        let looked = self.engine.view_logits(named.as_deref().unwrap_or_default())?;
        self.history.wrote(self.history.len());
        let chosen = self.chosen(looked, named, &changes, &opts, hooks)?;
        self.history.push(chosen.token);
        Ok(Some(chosen))
    }

    /// Up to `n` tokens by [`step_hooked`](Self::step_hooked), each handed over as it comes. `Break`, a stop token and
    /// a full context end generation.
    ///
    /// # Errors
    /// As [`step_hooked`](Self::step_hooked), [`Error::ContextFull`](crate::Error::ContextFull) where the history
    /// leaves no room for the first token. Tokens generated before the error are in the history.
    pub fn generate_hooked(
        &mut self,
        n: usize,
        opts: &SampleOpts,
        hooks: &mut SampleHooks,
        mut on_token: impl FnMut(&Chosen) -> std::ops::ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n && !self.ends_with(&new) {
            let chosen = self.step_hooked(opts, hooks)?;
            new.push(chosen.token);
            if on_token(&chosen).is_break() {
                break;
            }
        }
        Ok(new)
    }

    /// Chooses from what was looked at, or from the whole row where that does not decide.
    fn chosen(
        &mut self,
        looked: LogitsView,
        named: Option<Vec<u32>>,
        changes: &LogitChanges,
        opts: &SampleOpts,
        hooks: &mut SampleHooks,
    ) -> Result<Chosen> {
        let tokens = self.history.len();
        let row = match (looked, named) {
            (LogitsView::Full(row), _) => row,
            (LogitsView::List { .. }, None) => self.engine.full_logits()?,
            (LogitsView::List { list, logits }, Some(named)) => {
                list.check(tokens).or_else(|error| if opts.is_greedy() && !list.total.is_nan() { Ok(()) } else { Err(error) })?;
                let named: Vec<(u32, f32)> = named.into_iter().zip(logits).collect();
                if let Some(token) = choose_from_list(&list, &named, changes, opts, tokens) {
                    let top = hooks.logprobs();
                    let (logprob, top) = top.map_or((None, Vec::new()), |top| list_logprobs(&list, &named, token, top));
                    return Ok(Chosen { token, logprob, top });
                }
                self.engine.full_logits()?
            }
        };
        let token = choose_from_whole_row(&row, changes, hooks, opts, self.history.tokens())?;
        let (logprob, top) = match hooks.logprobs() {
            Some(top) => {
                let list = ShortList::of_row(&row, 1.0, SHORT_LIST);
                list_logprobs(&list, &[(token, row[token as usize])], token, top)
            }
            None => (None, Vec::new()),
        };
        Ok(Chosen { token, logprob, top })
    }
}
