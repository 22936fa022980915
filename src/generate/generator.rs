//! One sequence being continued.

use std::{ops::ControlFlow, path::Path};

use super::{Engine, Model, ModelStats, SampleOpts, Want, reference_engine::ReferenceEngine, sample_token};
use crate::{
    Error, Result,
    gemma::{GemmaConfig, LayerKind},
    runtime::{CounterSnapshot, Device, GpuEngine, GpuOptions, Opened, UploadProgress},
    weights::{WeightLoader, load_from_path},
};

/// Called while weights travel to the device; `false` cancels.
pub type OnProgress = Box<dyn FnMut(UploadProgress) -> bool + Send>;

/// How to load a model for generation.
#[derive(Default)]
pub struct GeneratorOptions {
    /// Most tokens the context may hold; default and upper limit: the model's own `max_position_embeddings`.
    pub context: Option<usize>,
    /// Most tokens of one prefill submit; a power of two. Default: 128.
    pub prefill_chunk: Option<usize>,
    /// How to open the GPU.
    pub gpu: GpuOptions,
    /// Load progress.
    pub on_progress: Option<OnProgress>,
}

/// A model that continues one token sequence, with its cache on the device.
///
/// After [`step_cached`](Self::step_cached) the cache holds `tokens().len() − 1` rows, after
/// [`prefill_get_last_logits`](Self::prefill_get_last_logits) and [`decode_get_logits`](Self::decode_get_logits)
/// `tokens().len()`; the two may be mixed freely. An error leaves history and cache usable.
pub struct GemmaGenerator {
    config: GemmaConfig,
    engine: Box<dyn Engine>,
    tokens: Vec<u32>,
    /// Rows of the cache that belong to the first tokens of the history.
    cached: usize,
    /// The oldest position that every sliding layer's ring still holds.
    ring_floor: usize,
    capacity: usize,
    stop: Vec<u32>,
}

const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<GemmaGenerator>();
};

impl GemmaGenerator {
    /// Takes all weights of the loader and puts them on the device.
    ///
    /// # Errors
    /// A weight that is missing or misshapen, a device that cannot be opened or is too small.
    pub fn from_loader(config: GemmaConfig, loader: &mut dyn WeightLoader, device: Device) -> Result<Self> {
        Self::with_options(config, loader, device, GeneratorOptions::default())
    }

    /// As [`from_loader`](Self::from_loader), from a file or folder.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader), and what is wrong with the files.
    pub fn from_path(config: GemmaConfig, path: impl AsRef<Path>, device: Device) -> Result<Self> {
        Self::from_loader(config, load_from_path(path.as_ref())?.as_mut(), device)
    }

    /// As [`from_loader`](Self::from_loader), with options.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader), and [`Error::Builder`] for options without meaning.
    pub fn with_options(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: Device,
        options: GeneratorOptions,
    ) -> Result<Self> {
        let chunk = options.prefill_chunk;
        if chunk.is_some_and(|c| !c.is_power_of_two()) {
            return Err(Error::Builder(format!("prefill_chunk is {}, expected a power of two", chunk.unwrap_or(0))));
        }
        let limit = config.max_position_embeddings;
        let capacity = options.context.unwrap_or(limit);
        if capacity == 0 || capacity > limit {
            return Err(Error::ContextFull { needed: capacity, capacity: limit });
        }
        let model = Model::new(config.clone(), loader)?;
        let engine: Box<dyn Engine> = match device.open(&options.gpu)? {
            Opened::Gpu(context) => Box::new(GpuEngine::new(context, model, chunk, options.on_progress)?),
            Opened::Reference => Box::new(ReferenceEngine::new(model, chunk)?),
        };
        let stop = config.eos_token_ids.clone();
        Ok(Self { config, engine, tokens: Vec::new(), cached: 0, ring_floor: 0, capacity, stop })
    }

    /// Buckets from 1 row on, each a power of two, and a cache that holds `max_past` rows from the start.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when the model has no such context; [`Error::OutOfMemory`].
    pub fn with_decode_cache(mut self, max_past: usize) -> Result<Self> {
        if max_past > self.config.max_position_embeddings {
            return Err(Error::ContextFull { needed: max_past, capacity: self.config.max_position_embeddings });
        }
        self.engine.set_smallest_bucket(1);
        self.engine.reserve(max_past)?;
        self.capacity = self.capacity.min(max_past);
        Ok(self)
    }

    /// Adds tokens that end generation to those of the configuration.
    pub fn with_stop_tokens(mut self, stop: &[u32]) -> Self {
        self.stop.extend(stop);
        self
    }

    /// The configuration.
    pub fn config(&self) -> &GemmaConfig {
        &self.config
    }

    /// The history: prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Most tokens that the history may hold.
    pub fn max_context(&self) -> usize {
        self.capacity
    }

    /// Rows of the history that are in the cache.
    pub fn cached_rows(&self) -> usize {
        self.cached
    }

    /// Whether `token` ends generation.
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop.contains(&token)
    }

    /// Sizes of the loaded model.
    pub fn stats(&self) -> ModelStats {
        self.engine.stats()
    }

    /// What the device has been asked for so far, by all who share it; `None` on the reference.
    pub fn counters(&self) -> Option<CounterSnapshot> {
        self.engine.counters()
    }

    /// Replaces the history. The cache keeps the rows of the common prefix, unless a sliding layer's ring has moved on past
    /// what they need: then all is computed anew. The rows of the rest are computed when a token or logits are asked for.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::ContextFull`]; the history stays as it was.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check_tokens(tokens, 0)?;
        self.check_room(tokens.len())?;
        let common = self.tokens[..self.cached].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.tokens = tokens.to_vec();
        // At least the last token is run again: its logits are wanted, and the cache does not hold them.
        self.rewind(common.min(tokens.len() - 1));
        Ok(())
    }

    /// Keeps the first `rows` rows of the cache, or none where a ring has overwritten what the next token would read.
    fn rewind(&mut self, rows: usize) {
        let window = match self.config.layer_types.contains(&LayerKind::Sliding) {
            true => self.config.sliding_window.unwrap_or(0),
            false => 0,
        };
        let held = rows + 1 >= self.ring_floor + window || self.ring_floor == 0 || window == 0;
        self.cached = if held { rows } else { 0 };
        if self.cached == 0 {
            self.ring_floor = 0;
        }
    }

    /// The next token, everything recomputed from the history without caches: what the cached paths are measured against.
    ///
    /// # Errors
    /// [`Error::EmptyHistory`], [`Error::ContextFull`], [`Error::Sampling`], and what the device says.
    pub fn step(&mut self, opts: &SampleOpts) -> Result<u32> {
        self.check_step("step", opts)?;
        let logits = self.engine.recompute(&self.tokens, Want::Last)?;
        let token = sample_token(&logits, opts, self.tokens.len())?;
        self.tokens.push(token);
        Ok(token)
    }

    /// The next token, with the cache.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_cached(&mut self, opts: &SampleOpts) -> Result<u32> {
        self.check_step("step_cached", opts)?;
        // The low-level pair leaves a full cache; the last row is then computed again for its logits.
        self.rewind(self.cached.min(self.tokens.len() - 1));
        let last = self.fill_all_but_the_last_chunk()?;
        let sampled = self.engine.run_and_sample(&self.tokens[last..], last, opts)?;
        self.wrote(self.tokens.len());
        self.tokens.push(sampled.token);
        Ok(sampled.token)
    }

    /// Up to `n` tokens by [`step`](Self::step); ends after a stop token, which is part of the result and the history.
    ///
    /// # Errors
    /// As [`step`](Self::step); tokens generated before the error are in the history.
    pub fn generate(&mut self, n: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n && !new.last().is_some_and(|t| self.is_stop(*t)) {
            new.push(self.step(opts)?);
        }
        Ok(new)
    }

    /// Up to `n` tokens by [`step_cached`](Self::step_cached); ends as [`generate`](Self::generate) does.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_cached(&mut self, n: usize, opts: &SampleOpts) -> Result<Vec<u32>> {
        self.generate_cached_with(n, opts, |_| ControlFlow::Continue(()))
    }

    /// As [`generate_cached`](Self::generate_cached), and hands each token over as it comes; `Break` ends generation.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_cached_with(
        &mut self,
        n: usize,
        opts: &SampleOpts,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let mut new = Vec::new();
        while new.len() < n {
            let token = self.step_cached(opts)?;
            new.push(token);
            if on_token(token).is_break() || self.is_stop(token) {
                break;
            }
        }
        Ok(new)
    }

    /// Replaces the history and returns the logits `[V]` of its last token; all rows are then in the cache.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), and what the device says.
    pub fn prefill_get_last_logits(&mut self, context: &[u32]) -> Result<Vec<f32>> {
        self.prefill(context)?;
        let last = self.fill_all_but_the_last_chunk()?;
        let logits = self.engine.run(&self.tokens[last..], last, Want::Last)?;
        self.wrote(self.tokens.len());
        Ok(logits)
    }

    /// Appends `token` and returns the logits `[V]` that follow it: one decode step.
    ///
    /// # Errors
    /// [`Error::EmptyHistory`], [`Error::TokenOutOfRange`], [`Error::ContextFull`]; the history is then as it was.
    pub fn decode_get_logits(&mut self, token: u32) -> Result<Vec<f32>> {
        if self.tokens.is_empty() {
            return Err(Error::EmptyHistory("decode_get_logits"));
        }
        self.check_tokens(&[token], self.tokens.len())?;
        self.check_room(self.tokens.len() + 1)?;
        self.tokens.push(token);
        let run = |this: &mut Self| {
            let last = this.fill_all_but_the_last_chunk()?;
            let logits = this.engine.run(&this.tokens[last..], last, Want::Last)?;
            this.wrote(this.tokens.len());
            Ok(logits)
        };
        run(self).inspect_err(|_| {
            self.tokens.pop();
            self.cached = self.cached.min(self.tokens.len());
        })
    }

    /// Replaces the history and returns the logits `[T, V]` of every token, in chunks through the cache.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill), and what the device says.
    pub fn all_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.prefill(tokens)?;
        self.rewind(0);
        let mut logits = Vec::with_capacity(tokens.len() * self.config.vocab_size);
        while self.cached < self.tokens.len() {
            let end = self.tokens.len().min(self.cached + self.engine.chunk(Want::All));
            logits.extend(self.engine.run(&self.tokens[self.cached..end], self.cached, Want::All)?);
            self.wrote(end);
        }
        Ok(logits)
    }

    /// The logits `[T, V]` of a sequence in one pass without caches; the history stays as it is.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::ContextFull`], and a limit of the device that a pass of this
    /// length exceeds: [`all_logits`](Self::all_logits) works in chunks.
    pub fn recompute_all_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check_tokens(tokens, 0)?;
        self.check_room(tokens.len())?;
        self.engine.recompute(tokens, Want::All)
    }

    /// Computes rows until one run is left that ends with the last token; returns where it starts.
    fn fill_all_but_the_last_chunk(&mut self) -> Result<usize> {
        self.engine.reserve(self.tokens.len())?;
        while self.tokens.len() - self.cached > self.engine.chunk(Want::Last) {
            let end = self.cached + self.engine.chunk(Want::Nothing);
            self.engine.run(&self.tokens[self.cached..end], self.cached, Want::Nothing)?;
            self.wrote(end);
        }
        Ok(self.cached)
    }

    /// Notes that the cache now holds the rows before `end`.
    fn wrote(&mut self, end: usize) {
        self.cached = end;
        let ring = self.config.sliding_window.unwrap_or(0) + self.engine.largest_chunk();
        self.ring_floor = self.ring_floor.max(end.saturating_sub(ring));
    }

    fn check_step(&self, name: &'static str, opts: &SampleOpts) -> Result<()> {
        opts.validate()?;
        if self.tokens.is_empty() {
            return Err(Error::EmptyHistory(name));
        }
        self.check_room(self.tokens.len() + 1)
    }

    fn check_room(&self, needed: usize) -> Result<()> {
        match needed > self.capacity {
            true => Err(Error::ContextFull { needed, capacity: self.capacity }),
            false => Ok(()),
        }
    }

    fn check_tokens(&self, tokens: &[u32], first: usize) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        match tokens.iter().position(|t| *t as usize >= vocab_size) {
            Some(i) => Err(Error::TokenOutOfRange { token: tokens[i], index: first + i, vocab_size }),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for GemmaGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GemmaGenerator")
            .field("arch", &self.config.arch)
            .field("tokens", &self.tokens.len())
            .field("cached", &self.cached)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
