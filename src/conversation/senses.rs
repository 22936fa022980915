//! The towers of a model, each loaded when a picture is first shown or a sound first heard.
// A build without towers has nothing to load.
#![cfg_attr(not(any(feature = "audio", feature = "vision")), allow(dead_code))]

#[cfg(any(feature = "audio", feature = "vision"))]
use std::sync::Arc;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Model, model::Parts};
use crate::{
    Error, Result,
    gemma::GemmaConfig,
    generate::GeneratorOptions,
    runtime::{Capabilities, Device},
    weights::is_gguf,
};
#[cfg(feature = "audio")]
use crate::{audio::Audio, hearing::AudioEncoder};
#[cfg(any(feature = "audio", feature = "vision"))]
use crate::{checkpoint::load_towers_from_path, runtime::GpuContext, text::Part, tower::TowerOptions};
#[cfg(feature = "vision")]
use crate::{
    gemma::VisionConfig,
    image::{Image, PanAndScan},
    vision::VisionEncoder,
};

/// What Gemma 3's processor writes around a picture and its crops. Templates drop the spaces around a text, but not
/// SentencePiece's sign for a space, which has the same tokens.
#[cfg(feature = "vision")]
const BEFORE_PICTURE: &str = "Here is the original image\u{2581}";
#[cfg(feature = "vision")]
const BEFORE_CROPS: &str = "\u{2581}and here are some crops to help you see better\u{2581}";
#[cfg(feature = "vision")]
const BETWEEN_CROPS: &str = "\u{2581}";

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
    path: Option<PathBuf>,
    /// About how long one submit of a tower may keep the device.
    pub(super) submit_time: Option<Duration>,
    #[cfg(feature = "vision")]
    vision: Slot<VisionEncoder>,
    #[cfg(feature = "audio")]
    hearing: Slot<AudioEncoder>,
}

/// A tower and the recovery of the model whose device it is on.
type Slot<E> = Mutex<Option<(E, u64)>>;

impl Senses {
    pub(super) fn new(towers: Towers, path: Option<&Path>) -> Self {
        Self {
            towers,
            path: path.map(Path::to_path_buf),
            submit_time: None,
            #[cfg(feature = "vision")]
            vision: Mutex::new(None),
            #[cfg(feature = "audio")]
            hearing: Mutex::new(None),
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
        Ok(VisionEncoder::memory_plan(config, loader.as_mut(), device, longest, &TowerOptions::default())?.peak())
    }

    #[cfg(feature = "audio")]
    fn hearing_memory(&self, config: &GemmaConfig, device: &Capabilities) -> Result<u64> {
        let mut loader = load_towers_from_path(self.files("sounds", true)?)?;
        Ok(AudioEncoder::memory_plan(config, loader.as_mut(), device, &TowerOptions::default())?.peak())
    }

    #[cfg(any(feature = "audio", feature = "vision"))]
    fn options(&self) -> TowerOptions {
        TowerOptions { submit_time: self.submit_time, ..TowerOptions::default() }
    }

    /// Lets the towers go that are held.
    pub(super) fn forget(&self) {
        // Freeing a device's memory may take time, so it is done while nobody waits.
        #[cfg(feature = "vision")]
        drop(held(&self.vision).take());
        #[cfg(feature = "audio")]
        drop(held(&self.hearing).take());
    }

    /// The files to load the tower for `what` from, which the configuration has where `has_tower`.
    fn files(&self, what: &str, has_tower: bool) -> Result<&Path> {
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

fn held<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Model {
    /// As [`open`](Self::open), with a choice of when the towers for pictures and sounds are loaded.
    ///
    /// # Errors
    /// As [`open`](Self::open); with [`Towers::AtLoad`] those of loading a tower that the model has.
    pub fn open_with_towers(path: impl AsRef<Path>, device: Device, options: GeneratorOptions, towers: Towers) -> Result<Self> {
        Self::open_files(path.as_ref(), None, device, options, towers)
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
        path: impl AsRef<Path>,
        projector: impl AsRef<Path>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        Self::open_files(path.as_ref(), Some(projector.as_ref()), device, options, towers)
    }

    fn open_files(
        path: &Path,
        projector: Option<&Path>,
        device: Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<Self> {
        let cancel = options.cancel.clone();
        let (mut loader, parts) = Parts::near_weights(path, projector, towers)?;
        let model = parts.load(loader.as_mut(), device, options)?;
        if towers == Towers::AtLoad {
            cancel.map_or(Ok(()), |cancel| cancel.check("loading a model"))?;
            model.load_towers()?;
        }
        Ok(model)
    }

    /// Loads the towers that the model has and this build computes.
    fn load_towers(&self) -> Result<()> {
        #[cfg(feature = "vision")]
        if self.config().multimodal.vision.is_some() {
            self.vision()?;
        }
        #[cfg(feature = "audio")]
        if self.config().multimodal.audio_tower.is_some() {
            self.hearing()?;
        }
        Ok(())
    }

    /// The tower of `slot`, or the one that `load` loads, on the device of the model as it is now.
    #[cfg(any(feature = "audio", feature = "vision"))]
    fn tower<E: Clone>(&self, slot: &Slot<E>, load: impl FnOnce(Option<Arc<GpuContext>>) -> Result<E>) -> Result<E> {
        let mut held = held(slot);
        let (gpu, generation) = self.gpu_now();
        if let Some((encoder, _)) = held.as_ref().filter(|(_, of)| *of == generation) {
            return Ok(encoder.clone());
        }
        // First, so that there is room for the new one.
        *held = None;
        Ok(held.insert((load(gpu)?, generation)).0.clone())
    }

    /// Lets the towers go. Their memory comes back when no encoding is under way; the next picture or sound loads its
    /// tower again. Soft tokens in messages stay.
    pub fn drop_towers(&self) {
        self.senses().forget();
    }
}

#[cfg(feature = "vision")]
impl Model {
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
        self.vision()?.encode(image).map(Part::Soft)
    }

    /// As [`picture`](Self::picture), with at most `budget` soft tokens; Gemma 3 has one number of them.
    ///
    /// Where a picture's tokens see each other, more than the model's own budget need room that
    /// [`GeneratorOptions::longest_picture`] makes.
    ///
    /// # Errors
    /// As [`picture`](Self::picture) and [`VisionEncoder::encode_within`].
    pub fn picture_within(&self, image: &Image, budget: usize) -> Result<Part> {
        self.vision()?.encode_within(image, budget).map(Part::Soft)
    }

    /// A wide or tall picture with crops of it, which Gemma 3 sees small things in (pan and scan): parts of a message,
    /// with the words that its processor writes around them. A picture that has no crops is one part, as
    /// [`picture`](Self::picture) gives it. Each crop has as many soft tokens as the picture.
    ///
    /// ```no_run
    /// # use gemmaflow::{conversation::Model, generate::GeneratorOptions, image::{Image, ImageLimits, PanAndScan}, runtime::Device};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let model = Model::open("models/gemma-3-4b-it", Device::Auto, GeneratorOptions::default())?;
    /// let street = Image::from_bytes(&std::fs::read("street.jpg")?, &ImageLimits::default())?;
    /// let mut parts = model.picture_with_crops(&street, &PanAndScan::default())?;
    /// parts.push("What do the signs say?".into());
    /// model.conversation()?.send(parts)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`picture`](Self::picture); [`Error::Unsupported`] for a model that is no Gemma 3.
    pub fn picture_with_crops(&self, image: &Image, options: &PanAndScan) -> Result<Vec<Part>> {
        if !matches!(self.config().multimodal.vision, None | Some(VisionConfig::Siglip(_))) {
            let problem = "crops of a picture with a model that is no Gemma 3; show the picture by Model::picture, or in \
                           Gemma 4 with more soft tokens by Model::picture_within";
            return Err(Error::Unsupported(problem.into()));
        }
        let picture = self.picture(image)?;
        let crops = options.crops(image).iter().map(|crop| self.picture(crop)).collect::<Result<Vec<_>>>()?;
        if crops.is_empty() {
            return Ok(vec![picture]);
        }
        let mut parts = vec![BEFORE_PICTURE.into(), picture];
        for (index, crop) in crops.into_iter().enumerate() {
            let words = if index == 0 { BEFORE_CROPS } else { BETWEEN_CROPS };
            parts.extend([words.into(), crop]);
        }
        Ok(parts)
    }

    /// Gives the model a tower: one from parts, or with other [options](crate::vision::TowerOptions). It must be on the
    /// [device](Self::gpu) of the model. [`recover`](Self::recover) lets it go.
    pub fn set_vision(&self, encoder: VisionEncoder) {
        let (_, generation) = self.gpu_now();
        let replaced = held(&self.senses().vision).replace((encoder, generation));
        drop(replaced);
    }

    /// The tower for pictures, which is loaded if it is not yet. Its soft tokens are [parts](Part) of a message.
    /// Encoding by it can be [cancelled](VisionEncoder::with_cancel) and [waited for](VisionEncoder::encode_async)
    /// without blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`] as [`picture`](Self::picture); what is wrong with the files, and errors of the device.
    pub fn vision(&self) -> Result<VisionEncoder> {
        let senses = self.senses();
        let has_tower = self.config().multimodal.vision.is_some();
        let load = |gpu| {
            let mut loader = load_towers_from_path(senses.files("pictures", has_tower)?)?;
            VisionEncoder::from_loader(self.config(), loader.as_mut(), gpu, senses.options())
        };
        self.tower(&senses.vision, load)
    }
}

#[cfg(feature = "audio")]
impl Model {
    /// A clip as a part of a message. The first one loads the tower, on the model's device. A clip that was heard before
    /// runs no tower.
    ///
    /// ```no_run
    /// # use gemmaflow::{audio::{Audio, AudioLimits}, conversation::Model, generate::GeneratorOptions, runtime::Device};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let model = Model::open("models/gemma-4-e4b-it", Device::Auto, GeneratorOptions::default())?;
    /// let clip = Audio::from_bytes(&std::fs::read("memo.mp3")?, &AudioLimits::default())?;
    /// let mut conversation = model.conversation()?;
    /// conversation.send(["Write down what is said.".into(), model.sound(&clip)?])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that hears nothing, or of which the tower is not computed, and where there are
    /// no files to load it from. [`AudioError`](crate::error::AudioError) for a clip that cannot be taken, what is wrong
    /// with the files, and errors of the device.
    pub fn sound(&self, audio: &Audio) -> Result<Part> {
        self.hearing()?.encode(audio).map(Part::Soft)
    }

    /// Clips of one message as its parts. Gemma 3n hears the silence after a clip up to the end of the longest one
    /// beside it, as in transformers. In other models each is that of [`sound`](Self::sound).
    ///
    /// # Errors
    /// As [`sound`](Self::sound).
    pub fn sounds(&self, clips: &[Audio]) -> Result<Vec<Part>> {
        Ok(self.hearing()?.encode_together(clips)?.into_iter().map(Part::Soft).collect())
    }

    /// Gives the model a tower for sounds: one from parts, or with other [options](crate::hearing::TowerOptions). It must
    /// be on the [device](Self::gpu) of the model. [`recover`](Self::recover) lets it go.
    pub fn set_hearing(&self, encoder: AudioEncoder) {
        let (_, generation) = self.gpu_now();
        let replaced = held(&self.senses().hearing).replace((encoder, generation));
        drop(replaced);
    }

    /// The tower for sounds, which is loaded if it is not yet. Its soft tokens are [parts](Part) of a message. Encoding
    /// by it can be [cancelled](AudioEncoder::with_cancel) and [waited for](AudioEncoder::encode_async) without
    /// blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`] as [`sound`](Self::sound); what is wrong with the files, and errors of the device.
    pub fn hearing(&self) -> Result<AudioEncoder> {
        let senses = self.senses();
        let has_tower = self.config().multimodal.audio_tower.is_some();
        let load = |gpu| {
            let mut loader = load_towers_from_path(senses.files("sounds", has_tower)?)?;
            AudioEncoder::from_loader(self.config(), loader.as_mut(), gpu, senses.options())
        };
        self.tower(&senses.hearing, load)
    }
}
