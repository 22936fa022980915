//! One sequence being continued.

mod advance;
mod batch;
mod checkpoints;
mod fallback;
mod history;
mod hooked;
mod load;
mod logits;
mod options;
mod plans;
mod saved;
mod speculate;
mod steps;
mod timing;

use std::{sync::Arc, time::Duration};

use advance::Lookahead;
use checkpoints::Checkpoints;
use history::History;
pub use options::{GeneratorOptions, TablePlacement};

use super::{CancelToken, DraftStats, Drafter, Engine, ModelStats};
use crate::{
    gemma::GemmaConfig,
    runtime::{CounterSnapshot, GpuContext, PipelineBlob},
};

/// A model that continues one token sequence, with its cache on the device.
///
/// After [`step_cached`](Self::step_cached) the cache holds `tokens().len() − 1` rows, after
/// [`prefill_get_last_logits`](Self::prefill_get_last_logits) and [`decode_get_logits`](Self::decode_get_logits)
/// `tokens().len()`; the two may be mixed freely. An error leaves history and cache usable.
///
/// Several sequences of one model share its weights: [`share_weights`](Self::share_weights) starts another one, and
/// [`fork`](Self::fork) continues the same one a second way.
pub struct GemmaGenerator {
    config: GemmaConfig,
    engine: Engine,
    history: History,
    /// Most tokens that the history may hold.
    capacity: usize,
    /// How long a submit may keep the device.
    submit_time: Option<Duration>,
    /// Rows of cache that were asked for in advance.
    reserved: usize,
    stop: Vec<u32>,
    drafter: Option<Drafter>,
    drafted: DraftStats,
    lookahead: Lookahead,
    checkpoints: Checkpoints,
}

impl GemmaGenerator {
    /// Adds tokens that end generation to those of the configuration.
    pub fn with_stop_tokens(mut self, stop: &[u32]) -> Self {
        self.stop.extend(stop);
        self
    }

    /// Ends the work of this generator when `cancel` is cancelled: the call under way, and each that comes later until
    /// another token is given, returns [`Error::Cancelled`](crate::Error::Cancelled), within a moment and whatever the
    /// device is at. History and rows stay usable; a run under way has written none. A fork, and a generator that
    /// shares the weights, begin without a token.
    ///
    /// Generators that take a [step together](Self::decode_batch) end it together.
    pub fn set_cancel(&mut self, cancel: CancelToken) {
        *self.engine.cancel_token() = cancel;
    }

    /// The configuration.
    pub fn config(&self) -> &GemmaConfig {
        &self.config
    }

    /// The history: prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        self.history.tokens()
    }

    /// The history with its soft tokens.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn prompt(&self) -> &crate::prompt::Prompt {
        self.history.prompt()
    }

    /// Most tokens that the history may hold.
    pub fn max_context(&self) -> usize {
        self.capacity
    }

    /// Rows of the history that are in the cache.
    pub fn cached_rows(&self) -> usize {
        self.history.cached()
    }

    /// Tokens that this generator has run with the cache so far, each of which is a row of K and V in every layer; what
    /// a common prefix or a [`fork`](Self::fork) saves is not in it.
    pub fn rows_computed(&self) -> u64 {
        self.history.computed()
    }

    /// Returns `true` if `token` ends generation.
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop.contains(&token)
    }

    /// Sizes of the loaded model.
    pub fn stats(&self) -> ModelStats {
        self.engine.stats()
    }

    /// The GPU that it runs on, to be shared with others; `None` on the reference.
    pub fn gpu(&self) -> Option<Arc<GpuContext>> {
        self.engine.context().cloned()
    }

    /// Counts of requests to the device so far, by all who share it; `None` on the reference.
    pub fn counters(&self) -> Option<CounterSnapshot> {
        self.engine.context().map(|context| context.counters().snapshot())
    }

    /// The pipelines compiled so far as bytes, to be kept and given back at the next start in
    /// [`GpuOptions::pipeline_cache`](crate::runtime::GpuOptions::pipeline_cache); `None` on the reference and where
    /// the driver hands out none. Ask after the first tokens: pipelines are compiled when they are first needed.
    pub fn pipeline_cache_bytes(&self) -> Option<Vec<u8>> {
        self.engine.context().and_then(|context| context.pipeline_cache_bytes())
    }

    /// The fate of the pipelines that were given at the start.
    pub fn pipeline_blob(&self) -> PipelineBlob {
        self.engine.context().map_or(PipelineBlob::None, |context| context.pipeline_blob().clone())
    }
}

impl std::fmt::Debug for GemmaGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GemmaGenerator")
            .field("arch", &self.config.arch)
            .field("tokens", &self.history.len())
            .field("cached", &self.history.cached())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
