//! Videos in conversations: frames that the application has decoded.

use std::time::Duration;

use super::Model;
use crate::{
    Error, Result,
    error::PromptError,
    image::Image,
    text::{Part, VideoFrame},
};

/// Most soft tokens of a frame, as Gemma 4's processor has it.
const FRAME_TOKENS: usize = 70;

impl Model {
    /// A video as a part of a message, for Gemma 4: its frames, each with its time from the beginning. Each has at most
    /// 70 soft tokens, as in transformers. Which frames, and how many, is the caller's choice; the processor of
    /// transformers takes 32 at equal distances. A sound is a part of its own ([`sound`](Self::sound)).
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use gemmaflow::{conversation::Model, generate::GeneratorOptions, image::{Image, ImageLimits}, runtime::Device};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let model = Model::open("models/gemma-4-e4b-it", Device::Auto, GeneratorOptions::default())?;
    /// let mut frames = Vec::new();
    /// for second in 0..32 {
    ///     let file = std::fs::read(format!("frames/{second}.png"))?;
    ///     frames.push((Duration::from_secs(second), Image::from_bytes(&file, &ImageLimits::default())?));
    /// }
    /// model.conversation()?.send([model.video(&frames)?, "What happens?".into()])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`picture`](Self::picture); [`Error::Unsupported`] for a model that takes no videos, and
    /// [`PromptError::SoftTokens`] for no frames.
    pub fn video(&self, frames: &[(Duration, Image)]) -> Result<Part> {
        self.video_within(frames, FRAME_TOKENS)
    }

    /// As [`video`](Self::video), with at most `budget` soft tokens of each frame.
    ///
    /// # Errors
    /// As [`video`](Self::video) and [`picture_within`](Self::picture_within).
    pub fn video_within(&self, frames: &[(Duration, Image)], budget: usize) -> Result<Part> {
        let Some(id) = self.config().multimodal.video else {
            let problem = "videos with a model that takes none; show frames as pictures by Model::picture, or use Gemma 4";
            return Err(Error::Unsupported(problem.into()));
        };
        if frames.is_empty() {
            return Err(Error::Prompt(PromptError::SoftTokens("a video without frames; give at least one".into())));
        }
        let vision = self.vision()?;
        let frame = |(at, image): &(Duration, Image)| {
            let soft = vision.encode_within(image, budget)?.standing_as(id);
            Ok(VideoFrame { at: *at, soft })
        };
        frames.iter().map(frame).collect::<Result<_>>().map(Part::Video)
    }
}
