//! Files of pictures and sounds.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use gemmaflow::{
    audio::{Audio, AudioLimits},
    conversation::{Model, Towers},
    error::{AudioError, ImageError},
    gemma::GemmaConfig,
    generate::GeneratorOptions,
    image::{Image, ImageLimits},
    runtime::Device,
    text::Part,
};

/// Where the towers of a GGUF model come from.
#[derive(Args)]
pub struct Projector {
    /// Towers for a .gguf file: llama.cpp's mmproj file of the same model, or OWNER/NAME/FILE.gguf on the hub [default: the
    /// one beside the model]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
}

impl Projector {
    fn local(&self) -> Result<Option<PathBuf>> {
        self.mmproj.as_deref().map(super::common::local).transpose()
    }

    /// The model at `path`, with these towers.
    pub fn open(&self, path: &Path, device: Device, options: GeneratorOptions) -> Result<Model> {
        Ok(match self.local()? {
            Some(mmproj) => Model::open_with_projector(path, mmproj, device, options, Towers::Lazy)?,
            None => Model::open(path, device, options)?,
        })
    }

    /// Its configuration.
    pub fn config(&self, path: &Path) -> Result<GemmaConfig> {
        let config = GemmaConfig::near_weights(path)?;
        Ok(match self.local()? {
            Some(mmproj) => config.with_projector(mmproj)?,
            None => config,
        })
    }
}

/// What a file holds.
pub enum Media {
    Picture(Image),
    Clip(Audio),
}

impl Media {
    /// Reads a file, whose bytes say what it is.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        match Image::from_bytes(&bytes, &ImageLimits::default()) {
            Err(ImageError::Unknown { .. }) => {}
            picture => return Ok(Media::Picture(picture?)),
        }
        match Audio::from_bytes(&bytes, &AudioLimits::default()) {
            Err(AudioError::Container { found }) => {
                bail!("the file begins with {found}, expected a picture (PNG, JPEG, WebP) or a clip (WAV, FLAC, MP3, Ogg)")
            }
            clip => Ok(Media::Clip(clip?)),
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
