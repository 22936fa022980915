//! Which plans a generator prepares, and what they cost.
//!
//! On a GPU every run uses a *plan*: dispatches with their bind groups, bound to a number of new tokens and of cache
//! rows. A run of one token is a decode step, a longer one belongs to a prefill. Nothing has to be chosen: by default
//! the plans for 1, 4, 16, 64, … new tokens (up to the prefill chunk) and for 256, 512, … cache rows are made as they
//! are needed.

use super::GemmaGenerator;
use crate::{
    Error, Result,
    generate::{
        Profiles,
        policy::{DecodePlans, PrefillPlans},
    },
    profile::CompileProfile,
    runtime::CacheStats,
};

impl GemmaGenerator {
    /// Prefill plans for the exact number of new tokens, with no padding: the `capacity` plans used last are kept. For
    /// prompts of few lengths; each new length costs a compilation of the kernels for that number of tokens, and up to
    /// [`GeneratorOptions::prefill_chunk`](super::GeneratorOptions::prefill_chunk) lengths exist. A prompt above the
    /// chunk needs a second plan, for its chunks.
    ///
    /// The plans' memory, `prefill_cache_stats().bytes`, is at most `capacity` input blocks (8 + 8·H bytes a token and
    /// 2 KiB) and four times the activations of the longest run. On the reference, which makes no plans, this changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Option`] for 0, and for more than the model's `max_position_embeddings`.
    pub fn with_prefill_cache(mut self, capacity: usize) -> Result<Self> {
        self.check_option("with_prefill_cache: capacity", capacity)?;
        self.set_prefill(PrefillPlans::Exact(capacity));
        Ok(self)
    }

    /// One prefill plan of `capacity` tokens (rounded up to 4, 16, 64, …, at most the prefill chunk) for prompts of
    /// every length: shorter runs are padded, longer prompts go in several runs. Reserves caches of `capacity` rows, so
    /// that the plan stays. The plan that fills rows, the one that gives the last logits and the one for
    /// [`all_logits`](Self::all_logits) are three; a slow GPU gets a smaller one while the first runs show what it
    /// manages in bounded time.
    ///
    /// # Errors
    /// [`Error::Option`] for 0, and for more than the model's `max_position_embeddings`;
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory); [`Error::Unsupported`] with
    /// [`GeneratorOptions::deterministic`](super::GeneratorOptions::deterministic): the plan's size, and with it the
    /// order of sums, depends on the device's pace and on the longest history so far.
    pub fn with_dynamic_prefill_cache(mut self, capacity: usize) -> Result<Self> {
        self.check_option("with_dynamic_prefill_cache: capacity", capacity)?;
        if self.history.is_aligned() {
            return Err(Error::Unsupported(
                "with_dynamic_prefill_cache with GeneratorOptions::deterministic: a plan that does not follow from the tokens alone"
                    .into(),
            ));
        }
        self.set_prefill(PrefillPlans::Single(capacity));
        self.reserve(capacity)?;
        Ok(self)
    }

    /// Decode plans for 1, 2, 3–4, 5–8, … rows, each bound at its upper bound, and caches that hold `max_past` rows
    /// from the start; the context is at most `max_past` tokens. A step reads no more of the caches than its bucket
    /// has.
    ///
    /// A [deterministic](super::GeneratorOptions::deterministic) generator computes its rows again: their bits are
    /// those of its plans.
    ///
    /// All buckets share their pipelines; there are at most ⌈log₂ `max_past`⌉ + 1 of them, each with an input block (2
    /// KiB and 8·H bytes), and four times the activations of one token in all.
    ///
    /// # Errors
    /// [`Error::Option`] for 0, and for more than the model's `max_position_embeddings`;
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory).
    pub fn with_decode_cache(self, max_past: usize) -> Result<Self> {
        self.check_option("with_decode_cache: max_past", max_past)?;
        self.set_decode(DecodePlans::Ladder(1), max_past)
    }

    /// One decode plan at `capacity` rows for every length, and caches that hold `capacity` rows from the start; the
    /// context is at most `capacity` tokens.
    ///
    /// # Errors
    /// As [`with_decode_cache`](Self::with_decode_cache).
    pub fn with_dynamic_decode_cache(self, capacity: usize) -> Result<Self> {
        self.check_option("with_dynamic_decode_cache: capacity", capacity)?;
        self.set_decode(DecodePlans::Single(capacity), capacity)
    }

    /// Counts of the plans for runs of several tokens since the last `with_*_cache`; zeros on the reference.
    pub fn prefill_cache_stats(&self) -> CacheStats {
        self.engine.plan_stats().0
    }

    /// Counts of the plans for decode steps, runs of one token, since the last `with_*_cache`; zeros on the
    /// reference.
    pub fn decode_cache_stats(&self) -> CacheStats {
        self.engine.plan_stats().1
    }

    /// Compiles runs of several tokens and whole sequences as `prefill` says, and runs of one token as `decode` says.
    /// Plans and cached rows go; the history stays, and its rows are computed again with the next token.
    ///
    /// On the reference the table `backend.cpu` and `precision.kv` have an effect.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the two differ in `precision.kv`, as they share one cache, and where the device has
    /// no f16 and `precision.mixed` is `none`; [`GraphError::Unfused`](crate::error::GraphError::Unfused) as
    /// `fusion.assert_clean` asks; [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory).
    pub fn with_compile_profiles(mut self, prefill: CompileProfile, decode: CompileProfile) -> Result<Self> {
        self.engine.set_profiles(Profiles::new(prefill, decode)?)?;
        self.stop_ahead();
        (self.checkpoints, self.history) = (self.checkpoints.fresh(), self.history.uncached());
        if self.reserved > 0 {
            self.engine.reserve(self.reserved)?;
        }
        Ok(self)
    }

    /// How runs of several tokens and whole sequences are compiled.
    pub fn prefill_profile(&self) -> &CompileProfile {
        self.engine.profiles().prefill()
    }

    /// How runs of one token are compiled.
    pub fn decode_profile(&self) -> &CompileProfile {
        self.engine.profiles().decode()
    }

    fn set_prefill(&mut self, prefill: PrefillPlans) {
        self.stop_ahead();
        let policy = self.engine.policy();
        self.engine.set_policy(crate::generate::PlanPolicy { prefill, ..policy });
    }

    fn set_decode(mut self, decode: DecodePlans, rows: usize) -> Result<Self> {
        self.stop_ahead();
        let policy = self.engine.policy();
        self.engine.set_policy(crate::generate::PlanPolicy { decode, ..policy });
        if self.history.is_aligned() {
            // A plan's cache rows decide in how many parts attention is summed.
            self.stop_ahead();
            self.history.rewind(0);
            self.checkpoints = self.checkpoints.fresh();
        }
        self.reserve(rows)?;
        self.capacity = self.capacity.min(rows);
        Ok(self)
    }

    fn reserve(&mut self, rows: usize) -> Result<()> {
        self.engine.reserve(rows)?;
        self.reserved = self.reserved.max(rows);
        Ok(())
    }

    fn check_option(&self, option: &'static str, found: usize) -> Result<()> {
        let most = self.config.max_position_embeddings;
        if (1..=most).contains(&found) {
            Ok(())
        } else {
            Err(Error::Option { option, found, expected: format!("1 to {most}, the model's max_position_embeddings") })
        }
    }
}
