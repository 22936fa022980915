//! Sounds in conversations.

use super::Model;
use crate::{
    Result, audio::Audio, checkpoint::load_towers_from_path, generate::CancelToken, hearing::AudioEncoder, platform, text::Part,
};

/// The work, as errors name it.
const LOADING: &str = "loading a tower for sounds";

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
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a model that hears nothing, or of which the tower is not
    /// computed, and where there are no files to load it from. [`AudioError`](crate::error::AudioError) for a clip that
    /// cannot be taken, what is wrong with the files, and errors of the device.
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
        self.senses().hearing.put(encoder, generation);
    }

    /// The tower for sounds, which is loaded if it is not yet. Its soft tokens are [parts](Part) of a message. Encoding
    /// by it can be [waited for](AudioEncoder::encode_async) without blocking.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) as [`sound`](Self::sound); what is wrong with the files, and errors of the device.
    pub fn hearing(&self) -> Result<AudioEncoder> {
        platform::wait(LOADING, self.load_hearing(&CancelToken::new()))
    }

    /// As [`hearing`](Self::hearing), for what may be cancelled: its loading, and all that this handle encodes.
    ///
    /// # Errors
    /// As [`hearing`](Self::hearing), and [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn hearing_with_cancel(&self, cancel: &CancelToken) -> Result<AudioEncoder> {
        platform::wait(LOADING, self.hearing_async(cancel))
    }

    /// As [`hearing_with_cancel`](Self::hearing_with_cancel), as a future like that of [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// As [`hearing_with_cancel`](Self::hearing_with_cancel).
    pub async fn hearing_async(&self, cancel: &CancelToken) -> Result<AudioEncoder> {
        Ok(self.load_hearing(cancel).await?.with_cancel(cancel.clone()))
    }

    async fn load_hearing(&self, cancel: &CancelToken) -> Result<AudioEncoder> {
        let senses = self.senses();
        let has_tower = self.config().multimodal.audio_tower.is_some();
        let load = async |gpu| {
            let mut loader = load_towers_from_path(senses.files("sounds", has_tower)?)?;
            AudioEncoder::from_loader_async(self.config(), loader.as_mut(), gpu, senses.options(cancel)).await
        };
        senses.hearing.get_or_load(|| self.gpu_now(), load).await
    }
}
