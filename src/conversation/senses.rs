//! The towers of a model, each loaded when a picture is first shown or a sound first heard.
// A build without towers has nothing to load.
#![cfg_attr(not(any(feature = "audio", feature = "vision")), allow(dead_code))]

use super::{
    Model,
    model::{LOADING, Parts},
};
#[cfg(feature = "audio")]
use crate::hearing::AudioEncoder;
#[cfg(feature = "vision")]
use crate::vision::VisionEncoder;
use crate::{
    Error, Result,
    files::ModelPath,
    gemma::GemmaConfig,
    generate::{CancelToken, GeneratorOptions},
    platform,
    runtime::{Capabilities, Device},
    weights::is_gguf,
};
#[cfg(any(feature = "audio", feature = "vision"))]
use crate::{
    checkpoint::load_towers_from_path,
    tower::{Slot, TowerOptions},
};

/// When a model's towers for pictures and sounds are loaded, from the files that the model was opened from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Towers {
    /// Never: pictures and sounds are refused, and the caches have no room for them.
    Never,
    /// When a picture is first shown, or a sound first heard.
    #[default]
    Lazy,
    /// With the model.
    AtLoad,
}

/// What a model has of its towers.
pub(super) struct Senses {
    towers: Towers,
    /// The files, for a model that was opened from some.
    path: Option<ModelPath>,
    /// The options of towers, which follow those of the text.
    #[cfg(any(feature = "audio", feature = "vision"))]
    stock: TowerOptions,
    #[cfg(feature = "vision")]
    pub(super) vision: Slot<VisionEncoder>,
    #[cfg(feature = "audio")]
    pub(super) hearing: Slot<AudioEncoder>,
}

impl Senses {
    pub(super) fn new(towers: Towers, path: Option<&ModelPath>) -> Self {
        Self {
            towers,
            path: path.cloned(),
            #[cfg(any(feature = "audio", feature = "vision"))]
            stock: TowerOptions::default(),
            #[cfg(feature = "vision")]
            vision: Slot::default(),
            #[cfg(feature = "audio")]
            hearing: Slot::default(),
        }
    }

    /// Makes towers as exact as the text, and bounds their submits as its own.
    #[cfg_attr(not(any(feature = "audio", feature = "vision")), allow(unused_variables))]
    pub(super) fn follow(&mut self, options: &GeneratorOptions) {
        #[cfg(any(feature = "audio", feature = "vision"))]
        {
            let stock =
                if options.deterministic { TowerOptions::exact() } else { TowerOptions::beside(&options.prefill_profile) };
            self.stock = TowerOptions { submit_time: options.submit_time, ..stock };
        }
    }

    /// The options with room for a picture of the model's own budget, unless they say how much there is to be. Of a
    /// model from parts under a budget of memory they are left as a plan has counted them.
    pub(super) fn with_room(&self, options: GeneratorOptions, config: &GemmaConfig) -> GeneratorOptions {
        let is_counted = options.memory_budget.is_none() || self.path.is_some();
        let sees = cfg!(feature = "vision") && self.towers != Towers::Never && is_counted;
        let budget = config.multimodal.vision.as_ref().map(|vision| vision.max_soft_tokens());
        let room = budget.filter(|tokens| *tokens > 0 && sees);
        GeneratorOptions { longest_picture: options.longest_picture.or(room), ..options }
    }

    /// Most bytes that the towers take on a device like `device`, as far as there are files of towers that this build
    /// computes.
    #[cfg_attr(not(feature = "vision"), allow(unused_mut, unused_variables))]
    pub(super) fn memory(&self, config: &GemmaConfig, device: &Capabilities, options: &GeneratorOptions) -> u64 {
        let mut planned: Vec<Result<u64>> = Vec::new();
        #[cfg(feature = "vision")]
        if let Some(vision) = &config.multimodal.vision {
            let longest = options.longest_picture.max(Some(vision.max_soft_tokens()));
            planned.push(self.vision_memory(config, device, longest));
        }
        #[cfg(feature = "audio")]
        if config.multimodal.audio_tower.is_some() {
            planned.push(self.hearing_memory(config, device));
        }
        // The first picture or sound is refused with the error.
        let told = |error: &Error| tracing::debug!(%error, "no tower in the plan of memory");
        planned.into_iter().filter_map(|bytes| bytes.inspect_err(told).ok()).sum()
    }

    #[cfg(feature = "vision")]
    fn vision_memory(&self, config: &GemmaConfig, device: &Capabilities, longest: Option<usize>) -> Result<u64> {
        let mut loader = load_towers_from_path(self.files("pictures", true)?)?;
        Ok(VisionEncoder::memory_plan(config, loader.as_mut(), device, longest, &self.stock)?.peak())
    }

    #[cfg(feature = "audio")]
    fn hearing_memory(&self, config: &GemmaConfig, device: &Capabilities) -> Result<u64> {
        let mut loader = load_towers_from_path(self.files("sounds", true)?)?;
        Ok(AudioEncoder::memory_plan(config, loader.as_mut(), device, &self.stock)?.peak())
    }

    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(super) fn options(&self, cancel: &CancelToken) -> TowerOptions {
        TowerOptions { cancel_load: Some(cancel.clone()), ..self.stock.clone() }
    }

    /// Lets the towers go that are held.
    pub(super) fn forget(&self) {
        #[cfg(feature = "vision")]
        self.vision.clear();
        #[cfg(feature = "audio")]
        self.hearing.clear();
    }

    /// The files to load the tower for `what` from, which the configuration has where `has_tower`.
    pub(super) fn files(&self, what: &str, has_tower: bool) -> Result<&ModelPath> {
        let refuse = |problem: &str| Err(Error::Unsupported(format!("{what} with {problem}")));
        match &self.path {
            _ if self.towers == Towers::Never => refuse("a model that was opened with Towers::Never; open it with Towers::Lazy"),
            Some(path) if !has_tower && is_gguf(path) => refuse(
                "a GGUF file and no projector for them; put the model's own, a file with mmproj in its name, beside it, or name \
                 it (Model::open_with_projector)",
            ),
            Some(path) => Ok(path),
            None => refuse(
                "a model from parts that has no tower on its device; give it one by Model::set_vision or Model::set_hearing, \
                 after Model::recover anew",
            ),
        }
    }
}

impl Model {
    /// As [`open`](Self::open), with a choice of when the towers for pictures and sounds are loaded.
    ///
    /// # Errors
    /// As [`open`](Self::open); with [`Towers::AtLoad`] those of loading a tower that the model has.
    pub fn open_with_towers(
        path: impl Into<ModelPath>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        Self::open_blocking(&path.into(), None, device, options, towers)
    }

    /// As [`open_with_towers`](Self::open_with_towers), as a future like that of [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// As [`open_with_towers`](Self::open_with_towers).
    pub async fn open_with_towers_async(
        path: impl Into<ModelPath>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        Self::open_files(&path.into(), None, device, options, towers).await
    }

    /// As [`open_with_towers`](Self::open_with_towers), with the file of a projector: llama.cpp's `mmproj` of the same
    /// model, which has the towers that a GGUF file lacks. No other is looked for.
    ///
    /// ```no_run
    /// # use gemmaflow::{conversation::{Model, Towers}, generate::GeneratorOptions, runtime::Device};
    /// # fn main() -> gemmaflow::Result<()> {
    /// let model = "models/gemma-3-4b-it-Q4_K_M.gguf";
    /// let projector = "models/mmproj-F16.gguf";
    /// let model = Model::open_with_projector(model, projector, Device::Auto, GeneratorOptions::default(), Towers::Lazy)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open_with_towers`](Self::open_with_towers) and [`GemmaConfig::with_projector`].
    pub fn open_with_projector(
        path: impl Into<ModelPath>,
        projector: impl Into<ModelPath>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        Self::open_blocking(&path.into(), Some(&projector.into()), device, options, towers)
    }

    /// Not generic, so that it is compiled with this crate and not again with each one that opens a model.
    pub(super) fn open_blocking(
        path: &ModelPath,
        projector: Option<&ModelPath>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        platform::wait(LOADING, Self::open_files(path, projector, device, options, towers))
    }

    async fn open_files(
        path: &ModelPath,
        projector: Option<&ModelPath>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        let cancel = options.cancel.clone().unwrap_or_default();
        let (mut loader, parts) = Parts::near_weights(path, projector, towers)?;
        let model = parts.load(loader.as_mut(), device, options).await?;
        if towers == Towers::AtLoad {
            model.load_towers(&cancel).await?;
        }
        Ok(model)
    }

    /// Loads the towers that the model has and this build computes, unless `cancel` is cancelled.
    #[cfg_attr(not(any(feature = "audio", feature = "vision")), allow(unused_variables))]
    async fn load_towers(&self, cancel: &CancelToken) -> Result<()> {
        #[cfg(feature = "vision")]
        if self.config().multimodal.vision.is_some() {
            self.vision_async(cancel).await?;
        }
        #[cfg(feature = "audio")]
        if self.config().multimodal.audio_tower.is_some() {
            self.hearing_async(cancel).await?;
        }
        Ok(())
    }

    /// Lets the towers go. Their memory comes back when no encoding is under way; the next picture or sound loads its
    /// tower again. Soft tokens in messages stay.
    pub fn drop_towers(&self) {
        self.senses().forget();
    }
}
