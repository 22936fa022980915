//! How a generator comes to be.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    GemmaGenerator,
    advance::Lookahead,
    checkpoints::{CHECKPOINTS, Checkpoints},
    fallback::on_gpu,
    history::History,
};
use crate::{
    Error, Result,
    checkpoint::load_from_path,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{
        CancelToken, DraftStats, Engine, FlowHook, MemoryPlan, ModelGraphs, PlanPolicy, Profiles, ReferenceEngine,
        engine::EngineOptions,
    },
    profile::CompileProfile,
    runtime::{Capabilities, Device, GpuOptions, OnProgress, Opened},
    weights::{Quantise, QuantisedLoader, WeightLoader},
};

/// Where a table is kept of which each token reads one row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TablePlacement {
    /// On the device, unless a [`memory_budget`](GeneratorOptions::memory_budget) leaves no room for it there.
    #[default]
    Auto,
    /// On the device.
    Device,
    /// On the host, in the file: rows travel with the tokens of a run. As the host must know a token to look up its
    /// row, no step begins before the last one is read.
    Host,
}

/// Tokens of a run that a deterministic generator computes rows with: what any device does in bounded time.
const ALIGNED_CHUNK: usize = 16;

/// How to load a model for generation.
#[derive(Default)]
pub struct GeneratorOptions {
    /// Most tokens the context may hold; default and upper limit: the model's own `max_position_embeddings`.
    pub context: Option<usize>,
    /// Most tokens of one prefill submit; a power of two. Default: 128.
    pub prefill_chunk: Option<usize>,
    /// About how long one submit of a run may keep the device: an application that draws on the same device gets its
    /// own submits in between. A run that takes longer goes to the device in several submits of consecutive dispatches,
    /// each when the one before is done; the values are the same to the bit. A dispatch is never cut: fewer tokens of a
    /// prompt are run at once where one would take longer. The largest dispatch of a single token, mostly the head's
    /// product, is the least that can be had. A lower [`GpuOptions::max_binding`] makes several dispatches of it. The
    /// first run of a plan is cut by what the slowest device would take, later ones by what was measured. Steps run
    /// ahead only where two fit. An answer is cancelled between two slices, and async ways to generate wait for none of
    /// them; steps of several generators, with a drafter, and with hooks beside others wait for all slices of a step.
    /// Uploads while loading and the drafter's own runs are not cut. No effect on the reference. Default: no bound, one
    /// submit a run.
    pub submit_time: Option<Duration>,
    /// Conversations that shall run at once, each with a context of that length: [`MemoryPlan`] counts their caches,
    /// and what steps of all together take ([`GemmaGenerator::decode_batch`]). More can be opened as long as there is
    /// memory. Default: 1.
    pub conversations: Option<usize>,
    /// Most bytes of device memory that loading and running may take, as [`MemoryPlan::peak`] counts them; a model that
    /// needs more is refused before anything is allocated. The caches are then made at once for the whole context and
    /// never grow. No effect on the reference. Default: no limit.
    pub memory_budget: Option<u64>,
    /// Where the context does not fit the budget or the device's limits, take the longest that does
    /// ([`GemmaGenerator::max_context`] tells) instead of refusing. Default: no.
    pub shorten_context: bool,
    /// How to open the GPU.
    pub gpu: GpuOptions,
    /// How runs of several tokens and whole sequences are compiled. Default: the preset.
    pub prefill_profile: CompileProfile,
    /// How runs of one token are compiled. Its `precision.kv` must be that of `prefill_profile`. Default: the preset.
    pub decode_profile: CompileProfile,
    /// Packs f32, f16 and bf16 matrices as they are loaded ([`QuantisedLoader`] says which). Default: they stay as they
    /// are.
    pub quantise: Option<Quantise>,
    /// Where the tables are kept that each layer has of its own (Gemma 3n, Gemma 4's E-series). No effect on other
    /// families.
    pub per_layer_tables: TablePlacement,
    /// The same tokens give the same logits, to the bit, on one device with one driver: whatever was cached before,
    /// however a text came about, in one prompt or step by step, alone or [together](GemmaGenerator::decode_batch) with
    /// others. Without it numbers of different kernels meet, and where two tokens are as likely up to rounding either
    /// may come. Costs speed: prompts go in runs of 16 tokens and of one, too few for cooperative matrices, steps
    /// together one after the other, and every 16th step takes a run of so many. The bits are those of the plans for
    /// steps too ([`GemmaGenerator::with_decode_cache`]), of the context's length where it is no power of two, and of
    /// the profiles. Default: no.
    pub deterministic: bool,
    /// Checkpoints ([`GemmaGenerator::checkpoint`]) that a generator keeps, each of which may come to hold a copy of
    /// the sliding layers' caches ([`MemoryPlan::sliding_cache`]), which no plan counts. Default: 2; none under a
    /// memory budget.
    pub checkpoints: Option<usize>,
    /// Load progress.
    pub on_progress: Option<OnProgress>,
    /// Ends loading with [`Error::Cancelled`] when it is cancelled.
    pub cancel: Option<CancelToken>,
    /// Changes the flow; see [`with_flow`](Self::with_flow).
    pub flow: Option<FlowHook>,
}

impl GeneratorOptions {
    /// Most tokens that the context may hold, before a device is looked at.
    pub(in crate::generate) fn capacity(&self, config: &GemmaConfig) -> Result<usize> {
        if let Some(found) = self.prefill_chunk.filter(|c| !c.is_power_of_two()) {
            let option = "GeneratorOptions::prefill_chunk";
            let expected = "a power of two".to_string();
            return Err(Error::Option { option, found, expected });
        }
        if self.conversations == Some(0) {
            let option = "GeneratorOptions::conversations";
            let expected = "at least 1".to_string();
            return Err(Error::Option { option, found: 0, expected });
        }
        let limit = config.max_position_embeddings;
        match self.context.unwrap_or(limit) {
            capacity if (1..=limit).contains(&capacity) => Ok(capacity),
            capacity => Err(Error::ContextFull { needed: capacity, capacity: limit }),
        }
    }

    /// The model whose weights `loader` gives, as these options change them.
    pub(in crate::generate) fn model(&self, config: &GemmaConfig, loader: &mut dyn WeightLoader) -> Result<ModelGraphs> {
        let flow = self.flow.clone();
        let model = match self.quantise {
            Some(to) => ModelGraphs::new(config.clone(), &mut QuantisedLoader::new(loader, to), flow)?,
            None => ModelGraphs::new(config.clone(), loader, flow)?,
        };
        model.tell_unused()?;
        Ok(model)
    }

    /// The model with its tables where these options want them.
    pub(in crate::generate) fn placed(
        &self,
        device: &Capabilities,
        model: ModelGraphs,
        profiles: &Profiles,
        context: usize,
    ) -> Result<ModelGraphs> {
        let host = match self.per_layer_tables {
            TablePlacement::Device => false,
            TablePlacement::Host => true,
            TablePlacement::Auto if self.memory_budget.is_none() => false,
            TablePlacement::Auto => !MemoryPlan::of(device, &model, profiles, context, self)?.fits(),
        };
        Ok(if host { model.with_host_tables() } else { model })
    }

    /// The context that the device has room for.
    fn fitting(&self, device: &Capabilities, model: &ModelGraphs, profiles: &Profiles, context: usize) -> Result<usize> {
        // Caches that may never grow to the model's own limit are no reason to refuse it.
        if self.context.is_none() && self.memory_budget.is_none() && !self.shorten_context {
            return Ok(context);
        }
        let plan = MemoryPlan::of(device, model, profiles, context, self)?;
        tracing::debug!(%plan, "planned memory");
        if self.shorten_context && !plan.fits() && plan.longest_context > 0 {
            return Ok(plan.longest_context);
        }
        plan.check().map(|()| context)
    }

    /// Changes the flow of every graph that the generator builds, before it chooses the head. Weights that stages add
    /// of their own travel with the model's; a layer that is left out has neither weights on the device nor a cache.
    pub fn with_flow(mut self, f: impl for<'a> Fn(GemmaFlow<'a>) -> GemmaFlow<'a> + Send + Sync + 'static) -> Self {
        self.flow = Some(Arc::new(f));
        self
    }

    /// The defaults with the profiles of the file [`GEMMA_PROFILE_FILE`](crate::profile::GEMMA_PROFILE_FILE) beside the
    /// weights, or with the presets where there is none.
    ///
    /// # Errors
    /// As [`CompileProfile::near_weights`].
    pub fn near_weights(weights: impl AsRef<Path>) -> Result<Self> {
        let [prefill_profile, decode_profile] = [false, true].map(|decode| CompileProfile::near_weights(&weights, decode));
        Ok(Self { prefill_profile: prefill_profile?, decode_profile: decode_profile?, ..Self::default() })
    }
}

impl GemmaGenerator {
    /// Takes all weights of the loader and puts them on the device.
    ///
    /// # Errors
    /// A weight that is missing or misshapen, a device that cannot be opened or is too small.
    pub fn from_loader(config: GemmaConfig, loader: &mut dyn WeightLoader, device: Device) -> Result<Self> {
        Self::with_options(config, loader, device, GeneratorOptions::default())
    }

    /// As [`from_loader`](Self::from_loader), compiled as the file
    /// [`GEMMA_PROFILE_FILE`](crate::profile::GEMMA_PROFILE_FILE) beside the weights says; as the presets say where
    /// there is none.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options), and [`Error::Profile`] for a file that cannot be understood.
    pub fn from_loader_at(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: Device,
        weights_path: impl AsRef<Path>,
    ) -> Result<Self> {
        Self::with_options(config, loader, device, GeneratorOptions::near_weights(weights_path)?)
    }

    /// As [`from_loader_at`](Self::from_loader_at), from a file or folder.
    ///
    /// # Errors
    /// As [`from_loader_at`](Self::from_loader_at), and what is wrong with the files.
    pub fn from_path(config: GemmaConfig, path: impl AsRef<Path>, device: Device) -> Result<Self> {
        let path = path.as_ref();
        Self::from_loader_at(config, load_from_path(path)?.as_mut(), device, path)
    }

    /// As [`from_path`](Self::from_path); `include_mtp` asks for the layers for multi-token prediction too.
    ///
    /// # Errors
    /// As [`from_path`](Self::from_path); [`Error::Unsupported`] with `include_mtp`: no family that this version runs
    /// has such layers.
    pub fn from_path_with_mtp(config: GemmaConfig, path: impl AsRef<Path>, device: Device, include_mtp: bool) -> Result<Self> {
        if include_mtp {
            Err(Error::Unsupported("multi-token prediction (include_mtp = true)".into()))
        } else {
            Self::from_path(config, path, device)
        }
    }

    /// As [`from_loader`](Self::from_loader), with options.
    ///
    /// # Errors
    /// As [`from_loader`](Self::from_loader), [`Error::Option`] or [`Error::ContextFull`] for options out of their
    /// range. [`Error::DoesNotFit`] where the context that was asked for exceeds a limit of the device or the budget.
    /// An error for a profile that asks for something that the device or model does not do
    /// ([`with_compile_profiles`](Self::with_compile_profiles)).
    pub fn with_options(
        config: GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: Device,
        options: GeneratorOptions,
    ) -> Result<Self> {
        let chunk = options.prefill_chunk;
        let mut capacity = options.capacity(&config)?;
        let profiles = Profiles::new(options.prefill_profile.clone(), options.decode_profile.clone())?;
        let model = options.model(&config, loader)?;
        let config = model.config.clone();
        let window = model.window()?;
        let mut reserved = 0;
        let mut engine = match device.open(&options.gpu)? {
            Opened::Gpu(context) => {
                let model = options.placed(context.capabilities(), model, &profiles, capacity)?;
                capacity = options.fitting(context.capabilities(), &model, &profiles, capacity)?;
                reserved = options.memory_budget.map_or(0, |_| capacity);
                let cancel = options.cancel.clone();
                let on_progress = stoppable(options.on_progress, options.cancel);
                let submit_time = options.submit_time;
                let untimed = options.deterministic;
                let how = EngineOptions { chunk, submit_time, untimed, cancel, on_progress };
                on_gpu(&device, context, Arc::new(model), profiles, how)?
            }
            Opened::Reference => {
                let host = options.per_layer_tables == TablePlacement::Host;
                let model = if host { model.with_host_tables() } else { model };
                ReferenceEngine::new(Arc::new(model), profiles, chunk)?.into()
            }
        };
        let policy = engine.policy();
        engine.set_policy(PlanPolicy { most: capacity, ..policy });
        if reserved > 0 {
            engine.reserve(reserved)?;
        }
        let stop = config.eos_token_ids.clone();
        let chunk = options.deterministic.then(|| ALIGNED_CHUNK.min(engine.largest_chunk()));
        let history = History::new(window, engine.largest_chunk(), chunk);
        let drafter = None;
        let drafted = DraftStats::default();
        let submit_time = options.submit_time;
        let (lookahead, checkpoints) =
            (Lookahead::default(), Checkpoints::new(options.checkpoints.unwrap_or(if reserved > 0 { 0 } else { CHECKPOINTS })));
        Ok(Self { config, engine, history, capacity, submit_time, reserved, stop, drafter, drafted, lookahead, checkpoints })
    }

    /// Another generator on the same weights, pipelines and graphs, with the same settings and an empty history. No
    /// weight travels; it makes its own caches. The two may run at the same time on two threads, in any order; dropping
    /// one gives its memory back, and the weights go with the last.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory) where
    /// [`with_decode_cache`](Self::with_decode_cache) or its like reserved a cache and there is no memory for another.
    pub fn share_weights(&self) -> Result<Self> {
        let mut engine = self.engine.another();
        if self.reserved > 0 {
            engine.reserve(self.reserved)?;
        }
        Ok(self.beside(engine, self.history.fresh(), self.checkpoints.fresh()))
    }

    /// A generator that goes on from the same history, with a copy of the caches that is made on the device: nothing
    /// crosses the host, and nothing is computed again. Otherwise as [`share_weights`](Self::share_weights).
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory) for the copy of the caches;
    /// [`DeviceError::Lost`](crate::error::DeviceError::Lost).
    pub fn fork(&self) -> Result<Self> {
        Ok(self.beside(self.engine.fork()?, self.history.fork(), self.checkpoints.clone()))
    }

    /// A generator with the same weights, read again from their files, the same settings and the same history on a
    /// device that is opened anew or is another: what is left to do after
    /// [`DeviceError::Lost`](crate::error::DeviceError::Lost). Its rows are computed again when they are needed, and
    /// others share its weights through [`share_weights`](Self::share_weights).
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub fn recovered(&self, device: Device, gpu: &GpuOptions) -> Result<Self> {
        self.recovered_with(device, gpu, None, None)
    }

    /// As [`recovered`](Self::recovered), with reports and an end as [`GeneratorOptions::on_progress`] and
    /// [`GeneratorOptions::cancel`].
    ///
    /// # Errors
    /// As [`recovered`](Self::recovered), and [`Error::Cancelled`].
    pub fn recovered_with(
        &self,
        device: Device,
        gpu: &GpuOptions,
        on_progress: Option<OnProgress>,
        cancel: Option<CancelToken>,
    ) -> Result<Self> {
        let mut recovered = self.reloaded(device, gpu, on_progress, cancel)?;
        if self.reserved > 0 {
            recovered.engine.reserve(self.reserved)?;
        }
        Ok(recovered)
    }

    /// As [`recovered`](Self::recovered), without the cache that was reserved.
    pub(crate) fn reloaded(
        &self,
        device: Device,
        gpu: &GpuOptions,
        on_progress: Option<OnProgress>,
        cancel: Option<CancelToken>,
    ) -> Result<Self> {
        let on_progress = stoppable(on_progress, cancel.clone());
        let model = self.engine.model().clone();
        let profiles = self.engine.profiles().clone();
        let chunk = Some(self.engine.largest_chunk());
        let mut engine = match device.open(gpu)? {
            Opened::Gpu(context) => {
                let submit_time = self.submit_time;
                let untimed = self.history.is_aligned();
                on_gpu(&device, context, model, profiles, EngineOptions { chunk, submit_time, untimed, cancel, on_progress })?
            }
            Opened::Reference => ReferenceEngine::new(model, profiles, chunk)?.into(),
        };
        engine.set_policy(self.engine.policy());
        if let Some(drafter) = self.drafter.as_ref().and_then(|drafter| drafter.model()) {
            engine.set_drafter(drafter)?;
        }
        Ok(self.beside(engine, self.history.uncached(), self.checkpoints.fresh()))
    }

    /// The same generator without a cache, also where one was reserved: for what only others descend from.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn without_cache(&self) -> Self {
        self.beside(self.engine.another(), self.history.uncached(), self.checkpoints.fresh())
    }

    /// As [`share_weights`](Self::share_weights), with the history of another generator, whose rows are computed again
    /// when they are needed.
    ///
    /// # Errors
    /// As [`share_weights`](Self::share_weights).
    #[cfg(feature = "tokenizer")]
    pub(crate) fn going_on_as(&self, other: &Self) -> Result<Self> {
        let mut new = self.share_weights()?;
        new.history = other.history.uncached();
        Ok(new)
    }

    fn beside(&self, engine: Engine, history: History, checkpoints: Checkpoints) -> Self {
        let config = self.config.clone();
        let stop = self.stop.clone();
        let drafter = self.drafter.clone();
        let capacity = self.capacity;
        let reserved = self.reserved;
        let drafted = DraftStats::default();
        let submit_time = self.submit_time;
        let lookahead = Lookahead::default();
        Self { config, engine, history, capacity, submit_time, reserved, stop, drafter, drafted, lookahead, checkpoints }
    }
}

/// Progress that also ends when `cancel` does.
fn stoppable(on_progress: Option<OnProgress>, cancel: Option<CancelToken>) -> Option<OnProgress> {
    let Some(cancel) = cancel else { return on_progress };
    let mut on_progress = on_progress.unwrap_or_else(|| Box::new(|_| true));
    Some(Box::new(move |progress| !cancel.is_cancelled() && on_progress(progress)))
}
