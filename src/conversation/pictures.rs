//! Pictures in conversations.

use super::Model;
use crate::{
    Error, Result,
    checkpoint::load_towers_from_path,
    gemma::VisionConfig,
    generate::CancelToken,
    image::{Image, PanAndScan},
    platform,
    text::Part,
    vision::VisionEncoder,
};

/// The work, as errors name it.
const LOADING: &str = "loading a tower for pictures";

/// What Gemma 3's processor writes around a picture and its crops. Templates drop the spaces around a text, but not
/// SentencePiece's sign for a space, which has the same tokens.
const BEFORE_PICTURE: &str = "Here is the original image\u{2581}";
const BEFORE_CROPS: &str = "\u{2581}and here are some crops to help you see better\u{2581}";
const BETWEEN_CROPS: &str = "\u{2581}";

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
    /// [`GeneratorOptions::longest_picture`](crate::generate::GeneratorOptions::longest_picture) makes.
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
        self.senses().vision.put(encoder, generation);
    }

    /// The tower for pictures, which is loaded if it is not yet. Its soft tokens are [parts](Part) of a message.
    /// Encoding by it can be [waited for](VisionEncoder::encode_async) without blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`] as [`picture`](Self::picture); what is wrong with the files, and errors of the device.
    pub fn vision(&self) -> Result<VisionEncoder> {
        platform::wait(LOADING, self.load_vision(&CancelToken::new()))
    }

    /// As [`vision`](Self::vision), for what may be cancelled: its loading, and all that this handle encodes.
    ///
    /// # Errors
    /// As [`vision`](Self::vision), and [`Error::Cancelled`].
    pub fn vision_with_cancel(&self, cancel: &CancelToken) -> Result<VisionEncoder> {
        platform::wait(LOADING, self.vision_async(cancel))
    }

    /// As [`vision_with_cancel`](Self::vision_with_cancel), as a future like that of [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// As [`vision_with_cancel`](Self::vision_with_cancel).
    pub async fn vision_async(&self, cancel: &CancelToken) -> Result<VisionEncoder> {
        Ok(self.load_vision(cancel).await?.with_cancel(cancel.clone()))
    }

    async fn load_vision(&self, cancel: &CancelToken) -> Result<VisionEncoder> {
        let senses = self.senses();
        let has_tower = self.config().multimodal.vision.is_some();
        let load = async |gpu| {
            let mut loader = load_towers_from_path(senses.files("pictures", has_tower)?)?;
            VisionEncoder::from_loader_async(self.config(), loader.as_mut(), gpu, senses.options(cancel)).await
        };
        senses.vision.get_or_load(|| self.gpu_now(), load).await
    }
}
