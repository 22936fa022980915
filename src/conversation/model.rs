//! The handle on a model.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    Conversation, Event,
    memory::{beside, told},
    prefix_cache::PrefixCache,
    senses::{Senses, Towers},
};
use crate::{
    Result,
    checkpoint::load_with_projector,
    files::ModelPath,
    gemma::GemmaConfig,
    generate::{CancelToken, GemmaGenerator, GeneratorOptions, ModelStats, OnProgress, SampleOpts},
    platform,
    prompt::Prompt,
    runtime::{CounterSnapshot, Device, GpuContext, GpuOptions, Wait},
    text::{ChatFormat, ChatTemplate, Tokenizer},
    weights::WeightLoader,
};

/// Bytes of caches that are kept of prompts, unless [`Model::keep_prompts`] says otherwise.
const KEPT_PROMPTS: u64 = 256 << 20;

/// The work, as errors name it.
pub(super) const LOADING: &str = "loading a model";

/// A model on a device: weights, pipelines and tokenizer. Clones are the same model; the memory comes back when the
/// last clone and the last conversation are gone.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

struct Shared {
    /// The generator that all others of the model descend from.
    base: Mutex<GemmaGenerator>,
    prefix_cache: Mutex<PrefixCache>,
    /// Held by whoever recovers the model; never asked for while the base is locked.
    recovery: async_lock::Mutex<()>,
    config: GemmaConfig,
    tokenizer: Tokenizer,
    /// Sampling as the files of the model recommend it.
    recommended: Option<SampleOpts>,
    chat: ChatTemplate,
    gpu: GpuOptions,
    senses: Senses,
    /// How often the model was recovered; changes while the base is locked.
    generation: AtomicU64,
}

/// What a model has besides its weights.
pub(super) struct Parts {
    pub(super) config: GemmaConfig,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    recommended: Option<SampleOpts>,
    pub(super) senses: Senses,
}

impl Parts {
    /// Those that the files of a model have, with the towers of a projector that is given, and its weights.
    pub(super) fn near_weights(
        path: &ModelPath,
        projector: Option<&ModelPath>,
        towers: Towers,
    ) -> Result<(Box<dyn WeightLoader>, Self)> {
        // First, as its errors about a path are the clearest.
        let loader = load_with_projector(path, projector)?;
        let config = GemmaConfig::near_weights(path)?;
        let config = projector.map(|projector| config.with_projector(projector)).transpose()?.unwrap_or(config);
        let tokenizer = Tokenizer::near_weights(path)?;
        let chat = ChatTemplate::near_weights(&config, &tokenizer, path)?;
        let recommended = SampleOpts::recommended(path)?;
        let senses = Senses::new(towers, Some(projector.unwrap_or(path)));
        Ok((loader, Self { config, tokenizer, chat, recommended, senses }))
    }

    pub(super) async fn load(
        mut self,
        loader: &mut dyn WeightLoader,
        device: Device,
        options: GeneratorOptions,
    ) -> Result<Model> {
        let options = self.senses.with_room(options, &self.config);
        self.senses.follow(&options);
        let towers = self.towers_within(&device, &options).await?;
        let budget = options.memory_budget;
        let options = beside(options, towers);
        let gpu = options.gpu.clone();
        // A plan of memory does not count them.
        let kept = if options.memory_budget.is_some() { 0 } else { KEPT_PROMPTS };
        let loaded = GemmaGenerator::with_options_async(self.config, loader, device, options).await;
        let generator = loaded.map_err(|error| told(error, towers, budget))?;
        let config = generator.config().clone();
        let stop = self.chat.stop_tokens(&self.tokenizer);
        Ok(Model(Arc::new(Shared {
            base: Mutex::new(generator.with_stop_tokens(&stop).without_cache()),
            prefix_cache: Mutex::new(PrefixCache::new(kept)),
            recovery: async_lock::Mutex::new(()),
            config,
            tokenizer: self.tokenizer,
            recommended: self.recommended,
            chat: self.chat,
            gpu,
            senses: self.senses,
            generation: AtomicU64::new(0),
        })))
    }
}

impl Model {
    /// Loads a model: a folder with `config.json`, `tokenizer.json` and safetensors, or a GGUF file.
    ///
    /// A model that sees or hears loads its tower when the first picture is shown or the first sound heard (features
    /// `vision`, `audio`). Towers of a GGUF file lie in the projector's file beside it, which has `mmproj` in its name;
    /// [`open_with_projector`](Self::open_with_projector) takes it from elsewhere, or one of several. Where the tokens
    /// of a picture see each other, the caches of sliding layers have room for one of the model's own budget, unless
    /// [`GeneratorOptions::longest_picture`] says otherwise. A [`memory_budget`](GeneratorOptions::memory_budget)
    /// leaves room for the towers. For text alone [`open_with_towers`](Self::open_with_towers) leaves them out.
    ///
    /// # Errors
    /// As [`GemmaGenerator::from_path`], [`Tokenizer::near_weights`], [`ChatTemplate::near_weights`] and
    /// [`SampleOpts::recommended`]; [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn open(path: impl Into<ModelPath>, device: Device, options: GeneratorOptions) -> Result<Self> {
        Self::open_blocking(&path.into(), None, device, options, Towers::default())
    }

    /// As [`open`](Self::open), for where no thread may wait for a device, as in a browser: the future waits for it, and
    /// others of its thread have their turn meanwhile. Elsewhere the thread that polls it does the work. Needs no
    /// particular executor.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_async(path: impl Into<ModelPath>, device: Device, options: GeneratorOptions) -> Result<Self> {
        Self::open_with_towers_async(path, device, options, Towers::default()).await
    }

    /// As [`open`](Self::open), from parts: takes all weights of the loader. Turns are laid out in the built-in format
    /// of the family.
    ///
    /// # Errors
    /// As [`GemmaGenerator::with_options`].
    pub fn from_loader(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        tokenizer: Tokenizer,
        device: Device,
        options: GeneratorOptions,
    ) -> Result<Self> {
        let chat = ChatTemplate::built_in(&config);
        Self::with_template(config, loader, tokenizer, chat, device, options)
    }

    /// As [`from_loader`](Self::from_loader), with turns as a chat template has them.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader).
    pub fn with_template(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        tokenizer: Tokenizer,
        chat: ChatTemplate,
        device: Device,
        options: GeneratorOptions,
    ) -> Result<Self> {
        let senses = Senses::new(Towers::default(), None);
        let parts = Parts { config, tokenizer, chat, recommended: None, senses };
        platform::wait(LOADING, parts.load(loader, device, options))
    }

    /// A new conversation, with no history. Its cache comes when it is needed; under a memory budget at once.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory) under a memory budget.
    pub fn conversation(&self) -> Result<Conversation> {
        let base = self.base();
        Ok(Conversation::new(self.clone(), base.share_weights()?, self.0.generation.load(Relaxed)))
    }

    /// The configuration.
    pub fn config(&self) -> &GemmaConfig {
        &self.0.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Sampling as the model's maker recommends it, for [`AnswerOptions::sampling`](super::AnswerOptions::sampling);
    /// `None` where its files say nothing of it, and for a model from parts.
    pub fn recommended_sampling(&self) -> Option<SampleOpts> {
        self.0.recommended
    }

    /// The layout of turns.
    pub fn chat_template(&self) -> &ChatTemplate {
        &self.0.chat
    }

    /// The built-in format in which turns are laid out.
    ///
    /// # Errors
    /// As [`ChatTemplate::format`].
    pub fn format(&self) -> Result<ChatFormat> {
        self.0.chat.format()
    }

    /// Most tokens that a conversation may have.
    pub fn max_context(&self) -> usize {
        self.base().max_context()
    }

    /// Sizes of the model, without those of its conversations.
    pub fn stats(&self) -> ModelStats {
        self.base().stats()
    }

    /// The GPU that it runs on, to be shared with others; `None` on the reference.
    pub fn gpu(&self) -> Option<Arc<GpuContext>> {
        self.base().gpu()
    }

    /// Counts of the work given to the device so far, by all who share it; `None` on the reference.
    pub fn counters(&self) -> Option<CounterSnapshot> {
        self.base().counters()
    }

    /// The number that tells this model from others in a saved conversation.
    ///
    /// # Errors
    /// As [`GemmaGenerator::fingerprint`].
    pub fn fingerprint(&self) -> Result<u64> {
        self.base().fingerprint()
    }

    /// Sets the bytes of device memory that may hold the cached tokens of earlier conversations' first prompts. Later
    /// prompts that begin alike then need not compute them. The excess is freed at once; 0 keeps none. Default: 256
    /// MiB; none under a [`memory_budget`](GeneratorOptions::memory_budget).
    ///
    /// A prompt is found again where it differs from a kept one in at most the last
    /// [`prefill_chunk`](GeneratorOptions::prefill_chunk) tokens of the kept one, or where no layer slides.
    pub fn keep_prompts(&self, bytes: u64) {
        self.prefix_cache().set_budget(bytes);
    }

    /// The bytes that kept prompts take now; [`keep_prompts`](Self::keep_prompts) bounds them.
    pub fn kept_prompt_bytes(&self) -> u64 {
        self.prefix_cache().bytes()
    }

    /// Batched decode: one step of several conversations whose answers are under way. A conversation whose prompt is
    /// still being read takes at most one submit; all others share one pass ([`GemmaGenerator::decode_batch`]). Gives
    /// the events of each, in the order given. Conversations may come and go between steps. One without an answer under
    /// way gives none; one that fails keeps its answer open and does not disturb the others. One with
    /// [hooks](Conversation::with_hooks) takes its step alone, before the others.
    pub fn step(&self, conversations: &mut [&mut Conversation]) -> Vec<Result<Vec<Event>>> {
        let count = conversations.len();
        platform::wait_each("a step of several conversations", count, self.step_by(conversations, Wait::Thread))
    }

    /// As [`step`](Self::step), without blocking the thread longer than a submit takes; needs no particular executor.
    /// Dropped before it is done, it leaves the conversations usable.
    pub async fn step_async(&self, conversations: &mut [&mut Conversation]) -> Vec<Result<Vec<Event>>> {
        self.step_by(conversations, Wait::Task).await
    }

    async fn step_by(&self, conversations: &mut [&mut Conversation], wait: Wait) -> Vec<Result<Vec<Event>>> {
        let mut ready = Vec::with_capacity(conversations.len());
        for conversation in conversations.iter_mut() {
            ready.push(conversation.ready_to_step(wait).await);
        }
        let steps = |(_, ready): &(&mut &mut Conversation, &Result<bool>)| matches!(ready, Ok(true));
        let together = conversations.iter_mut().zip(&ready).filter(steps).map(|(conversation, _)| conversation);
        let (mut generators, opts): (Vec<_>, Vec<_>) = together.map(|conversation| conversation.for_step()).unzip();
        let mut tokens = GemmaGenerator::decode_batch_by(&mut generators, &opts, wait).await.into_iter();
        let told = |(conversation, ready): (&mut &mut Conversation, Result<bool>)| {
            if ready? && let Some(token) = tokens.next() {
                conversation.take_step(token)?;
            }
            Ok(conversation.events.drain(..).collect())
        };
        conversations.iter_mut().zip(ready).map(told).collect()
    }

    /// Loads the model again after its device was lost, on the same device opened anew or on another, from the files
    /// that it was opened from. Conversations follow when they are next asked for anything, and compute their rows
    /// again.
    ///
    /// Any number of threads that notice the loss may call this. One of them loads; those that come meanwhile wait for
    /// it and share the result, whatever device they named. If it fails, the next of them tries with its own. A later
    /// call loads once more, as it may be meant to move a working model. Towers are let go, and are loaded again with the next
    /// picture or sound. A thread that comes late can ask
    /// [`gpu`](Self::gpu) if the device is still [lost](GpuContext::check). All other calls continue while the model
    /// loads, with the model as it was.
    ///
    /// # Errors
    /// As [`Model::open`]; the model is then as it was.
    pub fn recover(&self, device: Device) -> Result<()> {
        self.recover_with(device, None, None)
    }

    /// As [`recover`](Self::recover), with reports and an end as [`GeneratorOptions::on_progress`] and
    /// [`GeneratorOptions::cancel`] when a model is opened. `on_progress` may ask the model anything, but not recover
    /// it. A call that waits for another's load reports nothing.
    ///
    /// # Errors
    /// As [`recover`](Self::recover), and [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn recover_with(&self, device: Device, on_progress: Option<OnProgress>, cancel: Option<CancelToken>) -> Result<()> {
        platform::wait("recovering a model", self.recover_async(device, on_progress, cancel))
    }

    /// As [`recover_with`](Self::recover_with), as a future like that of [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// As [`recover_with`](Self::recover_with).
    pub async fn recover_async(
        &self,
        device: Device,
        on_progress: Option<OnProgress>,
        cancel: Option<CancelToken>,
    ) -> Result<()> {
        let before = self.0.generation.load(Relaxed);
        let _recovery = self.0.recovery.lock().await;
        if self.0.generation.load(Relaxed) != before {
            return Ok(());
        }
        let was = self.base().without_cache();
        let recovered = was.reloaded(device, &self.0.gpu, on_progress, cancel).await?;
        let mut base = self.base();
        let replaced = std::mem::replace(&mut *base, recovered);
        let generation = self.0.generation.fetch_add(1, Relaxed) + 1;
        drop(base);
        self.prefix_cache().restart(generation);
        self.0.senses.forget();
        // Freeing a device's memory may take time, so it is done while nobody waits.
        drop((replaced, was));
        Ok(())
    }

    /// A generator with the history of `generator`, of the model as it is now, if that was of the model as it was.
    pub(super) fn moved_on(&self, generator: &GemmaGenerator, generation: u64) -> Result<Option<(GemmaGenerator, u64)>> {
        // Asked for with every piece of work.
        if self.0.generation.load(Relaxed) == generation {
            return Ok(None);
        }
        let base = self.base();
        Ok(Some((base.going_on_as(generator)?, self.0.generation.load(Relaxed))))
    }

    /// A generator with more rows of a prompt than `own`, from an earlier conversation.
    pub(super) fn further(&self, prompt: &Prompt, own: usize, generation: u64) -> Option<GemmaGenerator> {
        let found = self.prefix_cache().with_more(prompt, own, generation);
        // They are computed instead.
        found.inspect_err(|error| tracing::debug!(%error, "a kept prompt cannot be copied")).ok().flatten()
    }

    /// Offers the rows of a prompt to later conversations.
    pub(super) fn offer(&self, generator: &GemmaGenerator, generation: u64) {
        self.prefix_cache().offer(generator, generation);
    }

    /// The device and the recovery that it is of.
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(super) fn gpu_now(&self) -> (Option<Arc<GpuContext>>, u64) {
        let base = self.base();
        (base.gpu(), self.0.generation.load(Relaxed))
    }

    pub(super) fn senses(&self) -> &Senses {
        &self.0.senses
    }

    fn base(&self) -> MutexGuard<'_, GemmaGenerator> {
        self.0.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefix_cache(&self) -> MutexGuard<'_, PrefixCache> {
        self.0.prefix_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("arch", &self.0.config.arch).finish_non_exhaustive()
    }
}
