//! Files of pictures and sounds.

use std::path::Path;

use anyhow::{Context, Result};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    conversation::Model,
    error::{AudioError, ImageError},
    image::{Image, ImageLimits},
    text::Part,
};

/// What a file holds.
pub enum Media {
    Picture(Image),
    Clip(Audio),
}

impl Media {
    /// Reads a file, whose bytes say what it is.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(named)?;
        match Image::from_bytes(&bytes, &ImageLimits::default()) {
            Err(no_picture @ ImageError::Unknown { .. }) => match Audio::from_bytes(&bytes, &AudioLimits::default()) {
                Err(AudioError::Container { .. }) => Err(no_picture).with_context(named),
                clip => clip.map(Media::Clip).with_context(named),
            },
            picture => picture.map(Media::Picture).with_context(named),
        }
    }

    /// A part of a message; a picture has at most `budget` soft tokens, if one is given.
    pub fn part(&self, model: &Model, budget: Option<usize>) -> Result<Part> {
        Ok(match (self, budget) {
            (Media::Picture(image), Some(budget)) => model.picture_within(image, budget)?,
            (Media::Picture(image), None) => model.picture(image)?,
            (Media::Clip(audio), _) => model.sound(audio)?,
        })
    }

    /// A few words about it.
    pub fn described(&self) -> String {
        match self {
            Media::Picture(image) => format!("a picture of {} × {}", image.width(), image.height()),
            Media::Clip(audio) => format!("a clip of {:.1} s", audio.seconds()),
        }
    }
}
