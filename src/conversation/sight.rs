//! The vision tower of a model, loaded when a picture is first shown.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Model, model::Parts};
use crate::{
    Error, Result, gemma::GemmaConfig, generate::GeneratorOptions, image::Image, runtime::Device, text::Part,
    vision::VisionEncoder, weights::is_gguf,
};

/// When a model's tower for pictures is loaded, from the files that the model was opened from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Towers {
    /// Never: pictures are refused, and the caches have no room for them.
    Never,
    /// When a picture is first shown.
    #[default]
    Lazy,
    /// With the model.
    AtLoad,
}

/// What a model has of its tower.
pub(super) struct Sight {
    towers: Towers,
    /// The files, for a model that was opened from some.
    path: Option<PathBuf>,
    held: Mutex<Option<Held>>,
}

struct Held {
    encoder: VisionEncoder,
    /// The recovery of the model whose device it is on.
    generation: u64,
}

impl Sight {
    pub(super) fn new(towers: Towers, path: Option<&Path>) -> Self {
        Self { towers, path: path.map(Path::to_path_buf), held: Mutex::new(None) }
    }

    /// The options with room for a picture of the model's own budget, unless they say how much there is to be.
    pub(super) fn with_room(&self, options: GeneratorOptions, config: &GemmaConfig) -> GeneratorOptions {
        let budget = config.multimodal.vision.as_ref().map(|vision| vision.max_soft_tokens());
        let room = budget.filter(|tokens| *tokens > 0 && self.towers != Towers::Never);
        GeneratorOptions { longest_picture: options.longest_picture.or(room), ..options }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the tower go that is held.
    pub(super) fn forget(&self) {
        let held = self.held().take();
        // Freeing a device's memory may take time, so it is done while nobody waits.
        drop(held);
    }
}

impl Model {
    /// As [`open`](Self::open), with a choice of when the tower for pictures is loaded.
    ///
    /// # Errors
    /// As [`open`](Self::open); with [`Towers::AtLoad`] as [`picture`](Self::picture).
    pub fn open_with_towers(path: impl AsRef<Path>, device: Device, options: GeneratorOptions, towers: Towers) -> Result<Self> {
        let cancel = options.cancel.clone();
        let (mut loader, mut parts) = Parts::near_weights(path.as_ref())?;
        parts.sight = Sight::new(towers, Some(path.as_ref()));
        let model = parts.load(loader.as_mut(), device, options)?;
        if towers == Towers::AtLoad {
            cancel.map_or(Ok(()), |cancel| cancel.check("loading a model"))?;
            model.encoder()?;
        }
        Ok(model)
    }

    /// A picture as a part of a message, with as many soft tokens as the model's processor gives it. The first one loads
    /// the tower, on the model's device. A picture that was seen before runs no tower.
    ///
    /// ```no_run
    /// # use gemmaflow::{conversation::Model, generate::GeneratorOptions, image::{Image, ImageLimits}, runtime::Device};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let model = Model::open("models/gemma-3-4b-it", Device::Auto, GeneratorOptions::default())?;
    /// let cat = Image::from_bytes(&std::fs::read("cat.jpg")?, &ImageLimits::default())?;
    /// let mut conversation = model.conversation()?;
    /// conversation.send([model.picture(&cat)?, "What is this?".into()])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that sees no pictures, or of which the tower is not computed, and where there
    /// are no files to load it from. [`ImageError`](crate::error::ImageError) for a picture that cannot be taken, what
    /// is wrong with the files, and errors of the device.
    pub fn picture(&self, image: &Image) -> Result<Part> {
        self.encoder()?.encode(image).map(Part::Soft)
    }

    /// As [`picture`](Self::picture), with at most `budget` soft tokens; Gemma 3 has one number of them.
    ///
    /// Where a picture's tokens see each other, more than the model's own budget need room that
    /// [`GeneratorOptions::longest_picture`] makes.
    ///
    /// # Errors
    /// As [`picture`](Self::picture) and [`VisionEncoder::encode_within`].
    pub fn picture_within(&self, image: &Image, budget: usize) -> Result<Part> {
        self.encoder()?.encode_within(image, budget).map(Part::Soft)
    }

    /// Gives the model a tower: one from parts, or with other [options](crate::vision::VisionOptions). It must be on the
    /// [device](Self::gpu) of the model. [`recover`](Self::recover) lets it go.
    pub fn set_vision(&self, encoder: VisionEncoder) {
        let (_, generation) = self.gpu_now();
        let replaced = self.sight().held().replace(Held { encoder, generation });
        drop(replaced);
    }

    /// Lets the tower go. Its memory comes back when no encoding is under way; the next picture loads it again. Soft
    /// tokens in messages stay.
    pub fn drop_towers(&self) {
        self.sight().forget();
    }

    /// The tower, on the device of the model as it is now.
    fn encoder(&self) -> Result<VisionEncoder> {
        let sight = self.sight();
        let mut held = sight.held();
        let (gpu, generation) = self.gpu_now();
        if let Some(now) = held.as_ref().filter(|held| held.generation == generation) {
            return Ok(now.encoder.clone());
        }
        *held = None;
        let encoder = VisionEncoder::from_path(self.config(), self.tower_files()?, gpu)?;
        Ok(held.insert(Held { encoder, generation }).encoder.clone())
    }

    /// The files to load a tower from.
    fn tower_files(&self) -> Result<&Path> {
        let Sight { towers, path, .. } = self.sight();
        match path {
            _ if *towers == Towers::Never => {
                let problem = "pictures with a model that was opened with Towers::Never; open it with Towers::Lazy";
                Err(Error::Unsupported(problem.into()))
            }
            Some(path) if self.config().multimodal.vision.is_none() && is_gguf(path) => {
                let problem = "pictures with a GGUF file, which has no tower; open the model's safetensors files";
                Err(Error::Unsupported(problem.into()))
            }
            Some(path) => Ok(path),
            None => {
                let problem = "pictures with a model from parts that has no tower on its device; give it one by \
                               Model::set_vision, after Model::recover anew";
                Err(Error::Unsupported(problem.into()))
            }
        }
    }
}
