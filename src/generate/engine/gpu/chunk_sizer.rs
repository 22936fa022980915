//! How many tokens a prefill submit may have, so that it ends in a bounded time.

use std::time::Duration;

use crate::{plan::SLOWEST, platform::Instant};

/// Operating systems kill a GPU job that takes about two seconds.
const BUDGET: Duration = Duration::from_millis(500);

/// Nobody watches a software driver; long submits cost it less.
pub(super) const SOFTWARE_BUDGET: Duration = Duration::from_secs(5);

/// The largest bucket of new tokens that is at most `tokens`: 1, 4, 16, 64, …
pub(super) fn bucket_below(tokens: usize) -> usize {
    1 << (tokens.max(1).ilog2() / 2 * 2)
}

/// Chooses chunk sizes from the time that earlier chunks took.
#[derive(Debug)]
pub(super) struct ChunkSizer {
    largest: usize,
    chunk: usize,
    budget: Duration,
    /// Tokens with which no dispatch takes too long: it cannot be cut.
    bound: f64,
    running: Option<(Instant, usize)>,
}

impl ChunkSizer {
    /// For a model with `elements` weights; every chunk has at most `largest` tokens; the first ones fit `submit_time`.
    pub(super) fn new(largest: usize, elements: u64, software: bool, submit_time: Option<Duration>) -> Self {
        let budget = if software { SOFTWARE_BUDGET } else { BUDGET };
        let first = |time: Duration| SLOWEST as f64 * time.as_secs_f64() / (2 * elements).max(1) as f64;
        let bound = submit_time.map_or(f64::INFINITY, first);
        let mut pace = Self { largest, chunk: 1, budget, bound, running: None };
        pace.set(first(budget));
        pace
    }

    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    pub(super) fn largest(&self) -> usize {
        self.largest
    }

    /// The same with nothing running.
    pub(super) fn idle(&self) -> Self {
        Self { running: None, ..*self }
    }

    /// Notes that a submit of `tokens` has begun.
    pub(super) fn started(&mut self, tokens: usize) {
        self.running = Some((Instant::now(), tokens));
    }

    /// Notes that the submit begun last was found to be done.
    pub(super) fn finished(&mut self) {
        if let Some((start, tokens)) = self.running.take() {
            let a_token = start.elapsed().as_secs_f64() / tokens as f64;
            self.set(self.budget.as_secs_f64() / a_token.max(1e-9));
        }
    }

    /// Notes that no dispatch takes too long with at most so many tokens. A run in slices, which is not
    /// [`started`](Self::started), has no other bound.
    pub(super) fn bound(&mut self, tokens: f64) {
        self.bound = tokens;
        if self.running.is_none() {
            self.set(f64::INFINITY);
        }
    }

    fn set(&mut self, tokens: f64) {
        let tokens = tokens.min(self.bound).min(self.largest as f64) as usize;
        self.chunk = if tokens >= self.largest { self.largest } else { bucket_below(tokens) };
    }
}

#[cfg(test)]
mod tests;
