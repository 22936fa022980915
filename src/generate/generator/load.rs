//! How a generator comes to be.

use std::sync::Arc;

use super::{
    GemmaGenerator, GeneratorOptions, TablePlacement,
    advance::Lookahead,
    checkpoints::{CHECKPOINTS, Checkpoints},
    fallback::on_gpu,
    history::History,
};
use crate::{
    Error, Result,
    checkpoint::load_from_path,
    files::ModelPath,
    gemma::{BidirectionalPictures, GemmaConfig},
    generate::{ALIGNED_CHUNK, CancelToken, DraftStats, Engine, PlanPolicy, Profiles, ReferenceEngine, engine::EngineOptions},
    platform,
    runtime::{Device, GpuOptions, OnProgress, Opened},
    weights::WeightLoader,
};

/// The work, as errors name it.
const LOADING: &str = "loading a model";

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
        weights_path: impl Into<ModelPath>,
    ) -> Result<Self> {
        Self::with_options(config, loader, device, GeneratorOptions::near_weights(weights_path)?)
    }

    /// As [`from_loader_at`](Self::from_loader_at), from a file or folder.
    ///
    /// # Errors
    /// As [`from_loader_at`](Self::from_loader_at), and what is wrong with the files.
    pub fn from_path(config: GemmaConfig, path: impl Into<ModelPath>, device: Device) -> Result<Self> {
        Self::from_files(config, &path.into(), device)
    }

    fn from_files(config: GemmaConfig, path: &ModelPath, device: Device) -> Result<Self> {
        Self::from_loader_at(config, load_from_path(path)?.as_mut(), device, path)
    }

    /// As [`from_path`](Self::from_path); `include_mtp` asks for the layers for multi-token prediction too.
    ///
    /// # Errors
    /// As [`from_path`](Self::from_path); [`Error::Unsupported`] with `include_mtp`: no family that this version runs
    /// has such layers.
    pub fn from_path_with_mtp(
        config: GemmaConfig,
        path: impl Into<ModelPath>,
        device: Device,
        include_mtp: bool,
    ) -> Result<Self> {
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
        platform::wait(LOADING, Self::with_options_async(config, loader, device, options))
    }

    /// As [`with_options`](Self::with_options), for where no thread may wait for a device, as in a browser: the future
    /// waits for it, whenever some megabytes of weights were passed on, and others of its thread have their turn.
    /// Elsewhere the thread that polls it does the work. Needs no particular executor.
    ///
    /// # Errors
    /// As [`with_options`](Self::with_options).
    pub async fn with_options_async(
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
        let mut engine = match device.open_async(&options.gpu).await? {
            Opened::Gpu(context) => {
                let model = options.placed(context.capabilities(), model, &profiles, capacity)?;
                capacity = options.fitting(context.capabilities(), &model, &profiles, capacity)?;
                reserved = options.memory_budget.map_or(0, |_| capacity);
                let cancel = options.cancel.clone();
                let on_progress = stoppable(options.on_progress, options.cancel);
                let submit_time = options.submit_time;
                let untimed = options.deterministic;
                let how = EngineOptions { chunk, submit_time, untimed, cancel, on_progress };
                on_gpu(&device, context, Arc::new(model), profiles, how).await?
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
        let longest = engine.model().longest_run(engine.largest_chunk());
        let whole_pictures = config.bidirectional_pictures != BidirectionalPictures::Never;
        let history = History::new(window, longest, chunk, whole_pictures);
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
        let mut recovered = platform::wait(LOADING, self.reloaded(device, gpu, on_progress, cancel))?;
        if self.reserved > 0 {
            recovered.engine.reserve(self.reserved)?;
        }
        Ok(recovered)
    }

    /// As [`recovered`](Self::recovered), without the cache that was reserved, as a future like that of
    /// [`with_options_async`](Self::with_options_async).
    pub(crate) async fn reloaded(
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
        let mut engine = match device.open_async(gpu).await? {
            Opened::Gpu(context) => {
                let submit_time = self.submit_time;
                let untimed = self.history.is_aligned();
                let how = EngineOptions { chunk, submit_time, untimed, cancel, on_progress };
                on_gpu(&device, context, model, profiles, how).await?
            }
            Opened::Reference => ReferenceEngine::new(model, profiles, chunk)?.into(),
        };
        engine.set_policy(self.engine.policy());
        if let Some(drafter) = self.drafter.as_ref().and_then(|drafter| drafter.model()) {
            engine.set_drafter(drafter).await?;
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
