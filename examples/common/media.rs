//! Files of pictures and sounds, and folders of frames.

#[path = "frames.rs"]
mod frames;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use gemmaflow::{
    audio::{Audio, AudioLimits},
    conversation::{Model, Towers},
    error::{AudioError, ImageError},
    gemma::GemmaConfig,
    generate::GeneratorOptions,
    image::{Image, ImageLimits, PanAndScan},
    runtime::Device,
    text::Part,
};

/// Where the towers of a GGUF model come from.
#[derive(Args)]
pub struct Projector {
    /// Towers for a .gguf file: llama.cpp's mmproj file of the same model, or OWNER/NAME/FILE.gguf on the hub [default:
    /// the one beside the model; with a model of the hub the one of its repository, which is fetched too]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Fetch no projector with a model of the hub
    #[arg(long, conflicts_with = "mmproj")]
    no_mmproj: bool,
}

/// A model on this machine.
pub struct ModelFiles {
    pub path: PathBuf,
    /// Its towers, where they are not looked for beside it.
    projector: Option<PathBuf>,
}

impl Projector {
    /// The files of `model`, fetched if need be.
    pub fn files(&self, model: &Path) -> Result<ModelFiles> {
        if let Some(mmproj) = &self.mmproj {
            return Ok(ModelFiles { path: super::common::local(model)?, projector: Some(super::common::local(mmproj)?) });
        }
        if self.no_mmproj {
            return Ok(ModelFiles { path: super::common::local(model)?, projector: None });
        }
        let (path, projector) = super::common::local_with_projector(model)?;
        let files = ModelFiles { path, projector };
        // Nobody has named it, and text needs none.
        if files.projector.is_some()
            && let Err(error) = files.config()
        {
            eprintln!("pictures and sounds cannot be taken: {error}");
            return Ok(ModelFiles { projector: None, ..files });
        }
        Ok(files)
    }
}

impl ModelFiles {
    /// Opens the model.
    pub fn open(&self, device: Device, options: GeneratorOptions) -> Result<Model> {
        Ok(match &self.projector {
            Some(projector) => Model::open_with_projector(&self.path, projector, device, options, Towers::Lazy)?,
            None => Model::open(&self.path, device, options)?,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> Result<GemmaConfig> {
        let config = GemmaConfig::near_weights(&self.path)?;
        Ok(match &self.projector {
            Some(projector) => config.with_projector(projector)?,
            None => config,
        })
    }
}

/// What a file or a folder holds.
pub enum Media {
    Picture(Image),
    Clip(Audio),
    /// Frames with their times.
    Video(Vec<(Duration, Image)>),
}

/// A number of frames per second, as an argument.
pub fn frames_per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0, such as 1 or 0.5".to_string())
}

/// How pictures are shown.
#[derive(Clone, Copy)]
pub enum Shown {
    /// As the model's processor does.
    Whole,
    /// With at most so many soft tokens.
    Within(usize),
    /// With crops of those that are wide or tall (Gemma 3).
    WithCrops,
}

impl Shown {
    /// As a command line asks for; crops have no budget.
    pub fn asked(budget: Option<usize>, crops: bool) -> Self {
        match budget {
            Some(budget) => Self::Within(budget),
            None if crops => Self::WithCrops,
            None => Self::Whole,
        }
    }
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

    /// The pictures of a folder as frames of a video, `fps` of them in a second. Of many, some at equal distances are
    /// taken, and stderr says so.
    pub fn open_video(folder: &Path, fps: f64) -> Result<Self> {
        let pictures = frames::pictures(folder)?;
        let mut video = Vec::new();
        for at in frames::shown(pictures.len()) {
            let path = pictures[at].display();
            let bytes = std::fs::read(&pictures[at]).with_context(|| path.to_string())?;
            let image = Image::from_bytes(&bytes, &ImageLimits::default()).map_err(|error| anyhow!("{path}: {error}"))?;
            let time = Duration::try_from_secs_f64(at as f64 / fps)
                .with_context(|| format!("{path} is frame {at}, of which --fps {fps} makes no time; give a larger --fps"))?;
            video.push((time, image));
        }
        if video.len() < pictures.len() {
            let [shown, all] = [video.len(), pictures.len()];
            eprintln!("{}: {shown} of {all} frames are shown, at equal distances", folder.display());
        }
        Ok(Media::Video(video))
    }

    /// A few words about it.
    pub fn described(&self) -> String {
        match self {
            Media::Picture(image) => format!("a picture of {} × {}", image.width(), image.height()),
            Media::Clip(audio) => format!("a clip of {:.1} s", audio.seconds()),
            Media::Video(frames) => format!("a video of {} frames", frames.len()),
        }
    }
}

/// Files and videos as parts of one message. Its clips are heard together.
pub fn parts(files: &[Media], model: &Model, shown: Shown) -> Result<Vec<Part>> {
    let clip = |file: &Media| if let Media::Clip(audio) = file { Some(audio.clone()) } else { None };
    let clips: Vec<Audio> = files.iter().filter_map(clip).collect();
    let sounds = if clips.is_empty() { Vec::new() } else { model.sounds(&clips)? };
    let mut sounds = sounds.into_iter();
    let mut parts = Vec::new();
    for file in files {
        match (file, shown) {
            (Media::Picture(image), Shown::Whole) => parts.push(model.picture(image)?),
            (Media::Picture(image), Shown::Within(budget)) => parts.push(model.picture_within(image, budget)?),
            (Media::Picture(image), Shown::WithCrops) => {
                parts.extend(model.picture_with_crops(image, &PanAndScan::default())?);
            }
            (Media::Clip(_), _) => parts.extend(sounds.next()),
            (Media::Video(frames), Shown::Within(budget)) => parts.push(model.video_within(frames, budget)?),
            (Media::Video(frames), Shown::Whole | Shown::WithCrops) => parts.push(model.video(frames)?),
        }
    }
    Ok(parts)
}
