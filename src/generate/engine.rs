//! What the generator asks of a device.

use std::collections::BTreeMap;

use super::SampleOpts;
use crate::{
    Error, Result,
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    runtime::CounterSnapshot,
    weights::{WeightLoader, WeightMap},
};

/// Most tokens of one prefill submit, unless [`GeneratorOptions`](super::GeneratorOptions) say otherwise.
pub const PREFILL_CHUNK: usize = 128;

/// Rows of the smallest cache, unless [`with_decode_cache`](super::GemmaGenerator::with_decode_cache) says otherwise.
pub const SMALLEST_BUCKET: usize = 256;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Want {
    /// Rows in the cache alone.
    Nothing,
    /// Logits of the last token.
    Last,
    /// Logits of every token.
    All,
}

/// The outcome of a run that samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sampled {
    /// The token.
    pub(crate) token: u32,
    /// Bytes that crossed from the device for it.
    pub(crate) bytes_read: u64,
}

/// Sizes of a loaded model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelStats {
    /// Adapter, or the reference.
    pub device: String,
    /// Bytes of all weights as they lie on the device.
    pub weight_bytes: u64,
    /// Weights that exceed the largest binding and are split by rows; 0 on the reference.
    pub split_weights: usize,
    /// Bytes of weights that one decode step reads (all but the rows of the embedding that are not looked up).
    pub bytes_per_token: u64,
    /// Bytes of the caches now.
    pub cache_bytes: u64,
    /// Dispatches of one greedy decode step; 0 on the reference.
    pub dispatches_per_token: usize,
}

/// One loaded model on one device, with one set of caches.
pub(crate) trait Engine: Send {
    /// Runs `tokens` at the positions from `start` on, writes their cache rows, and returns logits: none, `[V]`, or `[T, V]`.
    /// Rows of earlier positions must be in the cache.
    fn run(&mut self, tokens: &[u32], start: usize, want: Want) -> Result<Vec<f32>>;

    /// As [`run`](Self::run) for the last token's logits, and chooses the next token from them.
    fn run_and_sample(&mut self, tokens: &[u32], start: usize, opts: &SampleOpts) -> Result<Sampled>;

    /// Runs a whole sequence without caches.
    fn recompute(&mut self, tokens: &[u32], want: Want) -> Result<Vec<f32>>;

    /// Makes the caches large enough for `rows` positions; `ladder` is the smallest bucket.
    fn reserve(&mut self, rows: usize) -> Result<()>;

    /// Uses buckets from `smallest` rows on.
    fn set_smallest_bucket(&mut self, smallest: usize);

    /// Most tokens that the next run for `want` should have: what the device does in a bounded time and can bind.
    fn chunk(&self, want: Want) -> usize;

    /// Most tokens that any run has.
    fn largest_chunk(&self) -> usize;

    /// Sizes.
    fn stats(&self) -> ModelStats;

    /// The device's totals; none on the reference.
    fn counters(&self) -> Option<CounterSnapshot>;
}

/// The graphs of a model.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) config: GemmaConfig,
    weights: WeightMap,
    built: BTreeMap<(bool, Want), BuiltModel>,
}

impl Model {
    /// Takes all that is left in the loader.
    pub(crate) fn new(config: GemmaConfig, loader: &mut dyn WeightLoader) -> Result<Self> {
        config.validate()?;
        let mut tensors = Vec::new();
        for key in loader.remaining_keys() {
            match loader.take(&key) {
                Ok(tensor) => tensors.push(tensor),
                // Of no use to a model; where one is needed, building names it.
                Err(Error::WeightType { .. }) => tracing::debug!(%key, "skipped: not a weight type"),
                Err(error) => return Err(error),
            }
        }
        Ok(Self { config, weights: WeightMap::from_tensors(tensors), built: BTreeMap::new() })
    }

    /// The graph for `want`, with caches or without.
    pub(crate) fn built(&mut self, resident: bool, want: Want) -> Result<&BuiltModel> {
        let key = (resident, want);
        if !self.built.contains_key(&key) {
            let config = self.config.clone();
            let flow = match resident {
                true => GemmaFlow::resident(&config),
                false => GemmaFlow::new(&config).dynamic_seq(),
            };
            let flow = match want {
                Want::Nothing => flow.hidden_only(),
                Want::Last => flow.last_token_logits(),
                Want::All => flow.lm_head(),
            };
            let built = flow.build(&mut self.weights.clone())?;
            self.built.insert(key, built);
        }
        Ok(&self.built[&key])
    }
}

/// The positions of `rows` tokens from `start` on.
pub(crate) fn positions(start: usize, rows: usize) -> Vec<i32> {
    (start..start + rows).map(|p| p as i32).collect()
}
