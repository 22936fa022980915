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
mod tests {
    use super::*;

    #[test]
    fn the_ladder_of_a_decode_cache_has_powers_of_two() {
        let policy = PlanPolicy { decode: DecodePlans::Ladder(1), ..PlanPolicy::default() };
        let rows = [1, 2, 3, 4, 5, 8, 9, 64, 65].map(|end| policy.rows(1, end, 128));
        assert_eq!(rows, [1, 2, 4, 4, 8, 8, 16, 64, 128]);
        assert_eq!([1, 256, 257].map(|end| PlanPolicy::default().rows(1, end, 512)), [256, 256, 512]);
        let policy = PlanPolicy { most: 300, ..PlanPolicy::default() };
        assert_eq!([1, 256, 257, 300].map(|rows| policy.reserved(rows)), [256, 256, 300, 300], "no more than the context");
        let policy = PlanPolicy { decode: DecodePlans::Single(100), ..policy };
        assert_eq!([1, 64, 100].map(|end| policy.rows(1, end, 100)), [100; 3]);
    }

    #[test]
    fn runs_of_several_tokens_have_buckets_exact_plans_or_one() {
        let of = |prefill, tokens| PlanPolicy { prefill, ..PlanPolicy::default() }.tokens(tokens, 128);
        assert_eq!([1, 2, 4, 5, 17, 64, 65, 128].map(|t| of(PrefillPlans::Bucketed, t)), [1, 4, 4, 16, 64, 64, 128, 128]);
        assert_eq!([1, 2, 5, 127].map(|t| of(PrefillPlans::Exact(3), t)), [1, 2, 5, 127]);
        assert_eq!([1, 2, 5, 127].map(|t| of(PrefillPlans::Single(500), t)), [1, 128, 128, 128]);
        let single = PlanPolicy { prefill: PrefillPlans::Single(20), ..PlanPolicy::default() };
        assert_eq!(
            (single.chunk(128), single.chunk(16), single.rows(7, 30, 1024), single.rows(1, 30, 1024)),
            (64, 16, 1024, 256)
        );
    }
}
