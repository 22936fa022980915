//! Which plan serves which run.
//!
//! A plan is bound to a number of new tokens and to a number of cache rows; a run uses a plan that has room for it.

use super::{Outputs, SMALLEST_BUCKET};

/// Plans kept for runs of several tokens, unless [`with_prefill_cache`](super::GemmaGenerator::with_prefill_cache) says
/// otherwise.
const PREFILL_PLANS: usize = 16;

/// Plans kept for single tokens: more than a ladder of powers of two has rungs.
const DECODE_PLANS: usize = 32;

/// The kinds of results, each of which has plans of its own.
const RESULTS: usize = [Outputs::Nothing, Outputs::Last, Outputs::All, Outputs::Each].len();

/// Plans for runs of several tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrefillPlans {
    /// One for each of 1, 4, 16, … tokens.
    Bucketed,
    /// One for each number of tokens, at most so many in all.
    Exact(usize),
    /// One for up to so many tokens.
    Single(usize),
}

/// Plans for single tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodePlans {
    /// One for each power of two of cache rows, from so many on.
    Ladder(usize),
    /// One for so many cache rows.
    Single(usize),
}

/// Both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanPolicy {
    pub(crate) prefill: PrefillPlans,
    pub(crate) decode: DecodePlans,
    /// Most rows that a history may come to.
    pub(crate) most: usize,
}

impl Default for PlanPolicy {
    fn default() -> Self {
        Self { prefill: PrefillPlans::Bucketed, decode: DecodePlans::Ladder(SMALLEST_BUCKET), most: usize::MAX }
    }
}

impl PlanPolicy {
    /// Cache rows to allocate where `rows` are needed.
    pub(crate) fn reserved(&self, rows: usize) -> usize {
        match self.decode {
            DecodePlans::Ladder(smallest) => rows.next_power_of_two().min(self.most.max(rows)).max(smallest),
            DecodePlans::Single(all) => rows.max(all),
        }
    }

    /// Cache rows of the plan for `tokens` new tokens, the last at position `end − 1`, where `held` rows are allocated.
    pub(crate) fn rows(&self, tokens: usize, end: usize, held: usize) -> usize {
        match self.prefill {
            PrefillPlans::Single(_) if tokens > 1 => held.max(self.reserved(end)),
            _ => self.reserved(end),
        }
    }

    /// Tokens of the plan for a run of `tokens`, where a run has at most `chunk`.
    pub(crate) fn tokens(&self, tokens: usize, chunk: usize) -> usize {
        match self.prefill {
            _ if tokens == 1 => 1,
            PrefillPlans::Bucketed => token_bucket(tokens).min(chunk.max(tokens)),
            PrefillPlans::Exact(_) => tokens,
            PrefillPlans::Single(_) => chunk.max(tokens),
        }
    }

    /// Most tokens of a run, where the device manages `chunk`.
    pub(crate) fn chunk(&self, chunk: usize) -> usize {
        match self.prefill {
            PrefillPlans::Single(most) => chunk.min(token_bucket(most)),
            PrefillPlans::Bucketed | PrefillPlans::Exact(_) => chunk,
        }
    }

    /// Most plans for runs of several tokens.
    pub(crate) fn prefill_capacity(&self) -> usize {
        match self.prefill {
            PrefillPlans::Bucketed => PREFILL_PLANS,
            PrefillPlans::Exact(capacity) => capacity,
            PrefillPlans::Single(_) => RESULTS,
        }
    }

    /// Most plans for single tokens.
    pub(crate) fn decode_capacity(&self) -> usize {
        match self.decode {
            DecodePlans::Ladder(_) => DECODE_PLANS,
            DecodePlans::Single(_) => RESULTS,
        }
    }
}

/// The bucket of a number of new tokens: 1, 4, 16, 64, …
pub(crate) fn token_bucket(tokens: usize) -> usize {
    1 << tokens.next_power_of_two().trailing_zeros().next_multiple_of(2)
}

#[cfg(test)]
mod tests;
