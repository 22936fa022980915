//! The towers of an embedder, each loaded when a picture is first shown or a sound first heard.

use std::sync::Arc;

use super::{EmbedderOptions, GemmaEmbedder};
#[cfg(all(feature = "audio", feature = "tokenizer"))]
use crate::audio::Audio;
#[cfg(feature = "audio")]
use crate::hearing::AudioEncoder;
#[cfg(all(feature = "tokenizer", feature = "vision"))]
use crate::image::Image;
#[cfg(feature = "tokenizer")]
use crate::text::Part;
#[cfg(feature = "vision")]
use crate::vision::VisionEncoder;
use crate::{
    Error, Result,
    checkpoint::load_towers_from_path,
    files::ModelPath,
    gemma::GemmaConfig,
    platform,
    runtime::{Capabilities, GpuContext},
    tower::{Slot, TowerMemory, TowerOptions},
    weights::WeightLoader,
};

/// What an embedder has of its towers.
pub(super) struct Towers {
    /// The files.
    path: Option<ModelPath>,
    #[cfg(feature = "vision")]
    vision: Slot<VisionEncoder>,
    #[cfg(feature = "audio")]
    hearing: Slot<AudioEncoder>,
}

impl Towers {
    pub(super) fn new(path: Option<ModelPath>) -> Self {
        Self {
            path,
            #[cfg(feature = "vision")]
            vision: Slot::default(),
            #[cfg(feature = "audio")]
            hearing: Slot::default(),
        }
    }
}

/// Most bytes that the towers take on a device like `device`, as far as there are files of towers that this build
/// computes.
pub(super) fn memory(config: &GemmaConfig, device: &Capabilities, options: &EmbedderOptions) -> u64 {
    let Some(path) = &options.towers else { return 0 };
    // The first picture or sound is refused with the error.
    let told = |error: &Error| tracing::debug!(%error, "no tower in the plan of memory");
    let peak = |planned: Result<TowerMemory>| planned.inspect_err(told).map_or(0, |memory| memory.peak());
    let mut bytes = 0;
    #[cfg(feature = "vision")]
    if config.multimodal.vision.is_some() {
        let plan =
            |loader: &mut dyn WeightLoader| VisionEncoder::memory_plan(config, loader, device, None, &TowerOptions::default());
        bytes += peak(load_towers_from_path(path).and_then(|mut loader| plan(loader.as_mut())));
    }
    #[cfg(feature = "audio")]
    if config.multimodal.audio_tower.is_some() {
        let plan = |loader: &mut dyn WeightLoader| AudioEncoder::memory_plan(config, loader, device, &TowerOptions::default());
        bytes += peak(load_towers_from_path(path).and_then(|mut loader| plan(loader.as_mut())));
    }
    bytes
}

impl GemmaEmbedder {
    /// The weights of towers, which the configuration has where `has_tower`.
    fn tower_weights(&self, what: &str, has_tower: bool) -> Result<Box<dyn WeightLoader>> {
        let refuse = |problem: &str| Err(Error::Unsupported(format!("{what} with {problem}")));
        match &self.model.towers.path {
            _ if !has_tower => refuse("a model whose configuration has no tower for them; EmbeddingGemma 2 has one"),
            Some(path) => load_towers_from_path(path),
            None => refuse(
                "an embedder that knows no files of towers; name the checkpoint (EmbedderOptions::towers), or give it the \
                 soft tokens of an encoder",
            ),
        }
    }

    fn gpu(&self) -> (Option<Arc<GpuContext>>, u64) {
        (self.model.session.context().cloned(), 0)
    }
}

#[cfg(feature = "vision")]
impl GemmaEmbedder {
    /// A picture as a part of a text that [`embed_texts`](Self::embed_texts) takes, with as many soft tokens as the
    /// model's processor gives it. The first one loads the tower, on the embedder's device. A picture that was seen
    /// before runs no tower.
    ///
    /// # Errors
    /// As [`vision`](Self::vision) and [`VisionEncoder::encode`].
    #[cfg(feature = "tokenizer")]
    pub fn picture(&self, image: &Image) -> Result<Part> {
        self.vision()?.encode(image).map(Part::Soft)
    }

    /// The tower for pictures, which is loaded if it is not yet. Its soft tokens go into a
    /// [`Prompt`](crate::prompt::Prompt), between the ids that it [lays out](VisionEncoder::lay_out). It has the
    /// embedder's [cancel token](Self::with_cancel), and can be [waited for](VisionEncoder::encode_async) without
    /// blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that sees no pictures, or of which the tower is not computed, and where there
    /// are no files to load it from; what is wrong with the files, and errors of the device.
    pub fn vision(&self) -> Result<VisionEncoder> {
        platform::wait("loading a tower for pictures", self.vision_async())
    }

    /// As [`vision`](Self::vision), for where no thread may wait for a device, as in a browser: the future waits for it.
    /// Elsewhere the thread that polls it does the work.
    ///
    /// # Errors
    /// As [`vision`](Self::vision).
    pub async fn vision_async(&self) -> Result<VisionEncoder> {
        let config = self.config();
        let load = async |gpu| {
            let mut loader = self.tower_weights("pictures", config.multimodal.vision.is_some())?;
            VisionEncoder::from_loader_async(config, loader.as_mut(), gpu, TowerOptions::default()).await
        };
        let encoder = self.model.towers.vision.get_or_load(|| self.gpu(), load).await?;
        Ok(encoder.with_cancel(self.cancel.clone()))
    }
}

#[cfg(feature = "audio")]
impl GemmaEmbedder {
    /// A clip as a part of a text that [`embed_texts`](Self::embed_texts) takes. The first one loads the tower, on the
    /// embedder's device. A clip that was heard before runs no tower.
    ///
    /// # Errors
    /// As [`hearing`](Self::hearing) and [`AudioEncoder::encode`].
    #[cfg(feature = "tokenizer")]
    pub fn sound(&self, audio: &Audio) -> Result<Part> {
        self.hearing()?.encode(audio).map(Part::Soft)
    }

    /// The tower for sounds, which is loaded if it is not yet. Its soft tokens go into a
    /// [`Prompt`](crate::prompt::Prompt), between the ids that it [lays out](AudioEncoder::lay_out). It has the
    /// embedder's [cancel token](Self::with_cancel), and can be [waited for](AudioEncoder::encode_async) without
    /// blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that hears nothing, or of which the tower is not computed, and where there
    /// are no files to load it from; what is wrong with the files, and errors of the device.
    pub fn hearing(&self) -> Result<AudioEncoder> {
        platform::wait("loading a tower for sounds", self.hearing_async())
    }

    /// As [`hearing`](Self::hearing), for where no thread may wait for a device, as in a browser: the future waits for it.
    /// Elsewhere the thread that polls it does the work.
    ///
    /// # Errors
    /// As [`hearing`](Self::hearing).
    pub async fn hearing_async(&self) -> Result<AudioEncoder> {
        let config = self.config();
        let load = async |gpu| {
            let mut loader = self.tower_weights("sounds", config.multimodal.audio_tower.is_some())?;
            AudioEncoder::from_loader_async(config, loader.as_mut(), gpu, TowerOptions::default()).await
        };
        let encoder = self.model.towers.hearing.get_or_load(|| self.gpu(), load).await?;
        Ok(encoder.with_cancel(self.cancel.clone()))
    }
}
