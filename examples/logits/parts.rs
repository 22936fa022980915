//! A prompt of token ids, pictures, videos and sounds, from a file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    gemma::GemmaConfig,
    generate::GemmaGenerator,
    hearing::AudioEncoder,
    image::{Image, ImageLimits, PanAndScan},
    internals::text::words_before_frame,
    prompt::{Modality, Prompt, SoftTokens},
    vision::{TowerOptions, VisionEncoder},
};
use serde::Deserialize;

use crate::common;

/// The parts, and the folder that their files are named from.
pub struct Parts {
    parts: Vec<Part>,
    folder: PathBuf,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Tokens { tokens: Vec<u32> },
    Image(Picture),
    Video(Film),
    Audio { audio: PathBuf },
}

/// A picture with HF's `image_options`.
#[derive(Deserialize)]
struct Picture {
    image: PathBuf,
    max_soft_tokens: Option<usize>,
    #[serde(default)]
    do_pan_and_scan: Option<bool>,
    pan_and_scan_min_crop_size: Option<usize>,
    pan_and_scan_max_num_crops: Option<usize>,
    pan_and_scan_min_ratio_to_activate: Option<f64>,
    /// The token ids of the words before the picture, then of those before each crop.
    #[serde(default)]
    words: Vec<Vec<u32>>,
}

/// A video of Gemma 4.
#[derive(Deserialize)]
struct Film {
    video: Vec<Frame>,
    max_soft_tokens: Option<usize>,
    /// The token ids before each frame, in place of its time.
    words: Option<Vec<Vec<u32>>>,
}

#[derive(Deserialize)]
struct Frame {
    image: PathBuf,
    /// Its time from the beginning.
    seconds: Option<f64>,
}

/// Most soft tokens of a frame, as Gemma 4's processor has it.
const FRAME_TOKENS: usize = 70;

/// A prompt, and what its soft tokens were made of.
pub struct LaidOut {
    pub prompt: Prompt,
    pub vision: Option<VisionEncoder>,
    /// Pictures and crops, each with the most soft tokens that it may have.
    pub pictures: Vec<(Image, usize)>,
    /// Frames of videos, in the same way.
    pub frames: Vec<(Image, usize)>,
    pub hearing: Option<AudioEncoder>,
    pub clips: Vec<Audio>,
}

impl Parts {
    pub fn read(path: &Path) -> Result<Self> {
        let json = common::text::read_text(path).map_err(|e| anyhow!("--parts: {e}"))?;
        let parts =
            serde_json::from_str(&json).with_context(|| format!("--parts: {} is no JSON array of parts", path.display()))?;
        Ok(Self { parts, folder: path.parent().unwrap_or(Path::new("")).to_path_buf() })
    }

    /// Most soft tokens of a picture.
    pub fn longest_picture(&self, config: &GemmaConfig) -> usize {
        let stock = config.multimodal.vision.as_ref().map_or(0, |vision| vision.max_soft_tokens());
        let asked = self.parts.iter().filter_map(|part| match part {
            Part::Image(picture) => picture.max_soft_tokens,
            Part::Video(film) => film.max_soft_tokens,
            _ => None,
        });
        asked.fold(stock, usize::max)
    }

    /// The prompt, its pictures, frames and sounds encoded on the generator's device by the towers of the checkpoint at
    /// `model`.
    pub fn lay_out(&self, generator: &GemmaGenerator, model: &Path) -> Result<LaidOut> {
        let has = |kind: fn(&Part) -> bool| self.parts.iter().any(kind);
        let options = TowerOptions::beside(generator.prefill_profile());
        let hearing = has(|part| matches!(part, Part::Audio { .. }))
            .then(|| AudioEncoder::from_path_with(generator.config(), model, generator.gpu(), options.clone()))
            .transpose()?;
        let vision = has(|part| matches!(part, Part::Image(_) | Part::Video(_)))
            .then(|| VisionEncoder::from_path_with(generator.config(), model, generator.gpu(), options.clone()))
            .transpose()?;
        let clips = self.clips()?;
        // They are a batch, as in transformers.
        let mut soft = hearing.as_ref().map_or(Ok(Vec::new()), |hearing| hearing.encode_together(&clips))?.into_iter();
        let mut laid_out =
            LaidOut { prompt: Prompt::new(), vision: None, pictures: Vec::new(), frames: Vec::new(), hearing: None, clips };
        for part in &self.parts {
            match (part, &vision, &hearing) {
                (Part::Tokens { tokens }, ..) => laid_out.prompt.push(tokens),
                (Part::Image(picture), Some(vision), _) => self.push_picture(picture, vision, &mut laid_out)?,
                (Part::Video(film), Some(vision), _) => {
                    let Some(id) = generator.config().multimodal.video else {
                        bail!("--parts: a video, which this model does not take; give its frames as pictures, or use Gemma 4")
                    };
                    let words = film.words(model)?;
                    self.push_film(film, &words, id, vision, &mut laid_out)?;
                }
                (Part::Audio { .. }, _, Some(hearing)) => {
                    soft.next().into_iter().for_each(|soft| laid_out.prompt.push(hearing.lay_out(soft)));
                }
                _ => {}
            }
        }
        Ok(LaidOut { vision, hearing, ..laid_out })
    }

    fn clips(&self) -> Result<Vec<Audio>> {
        let file = |part: &Part| if let Part::Audio { audio } = part { Some(self.folder.join(audio)) } else { None };
        let read = |path: PathBuf| -> Result<Audio> {
            let bytes = std::fs::read(&path).with_context(|| format!("--parts: {}", path.display()))?;
            Audio::from_bytes(&bytes, &AudioLimits::default()).with_context(|| path.display().to_string())
        };
        self.parts.iter().filter_map(file).map(read).collect()
    }

    /// The picture and its crops, each laid out behind its words.
    fn push_picture(&self, picture: &Picture, encoder: &VisionEncoder, laid_out: &mut LaidOut) -> Result<()> {
        let mut images = vec![self.image(&picture.image)?];
        if picture.do_pan_and_scan == Some(true) {
            let stock = PanAndScan::default();
            let options = PanAndScan {
                min_crop_size: picture.pan_and_scan_min_crop_size.unwrap_or(stock.min_crop_size),
                max_crops: picture.pan_and_scan_max_num_crops.unwrap_or(stock.max_crops),
                min_ratio: picture.pan_and_scan_min_ratio_to_activate.unwrap_or(stock.min_ratio),
            };
            images.extend(options.crops(&images[0]));
        }
        let mut words = picture.words.iter();
        for image in images {
            let budget = picture.max_soft_tokens.unwrap_or(encoder.max_soft_tokens());
            laid_out.prompt.push(words.next().map_or(&[][..], Vec::as_slice));
            laid_out.prompt.push(encoder.lay_out(encoder.encode_within(&image, budget)?));
            laid_out.pictures.push((image, budget));
        }
        Ok(())
    }

    /// The frames, each laid out behind its words, with soft tokens of the id `id`.
    fn push_film(&self, film: &Film, words: &[Vec<u32>], id: u32, encoder: &VisionEncoder, laid_out: &mut LaidOut) -> Result<()> {
        let budget = film.max_soft_tokens.unwrap_or(FRAME_TOKENS);
        for (frame, words) in film.video.iter().zip(words) {
            let image = self.image(&frame.image)?;
            let soft = encoder.encode_within(&image, budget)?;
            let soft = SoftTokens::new(Modality::Image, id, soft.width(), soft.values().to_vec())?;
            laid_out.prompt.push(words);
            laid_out.prompt.push(encoder.lay_out(soft));
            laid_out.frames.push((image, budget));
        }
        Ok(())
    }

    fn image(&self, file: &Path) -> Result<Image> {
        let path = self.folder.join(file);
        let bytes = std::fs::read(&path).with_context(|| format!("--parts: {}", path.display()))?;
        Image::from_bytes(&bytes, &ImageLimits::default()).with_context(|| path.display().to_string())
    }
}

impl Film {
    /// The ids before each frame: those given, or its time as the tokenizer of the model at `model` reads it.
    fn words(&self, model: &Path) -> Result<Vec<Vec<u32>>> {
        let frames = self.video.len();
        if let Some(words) = &self.words {
            if words.len() != frames {
                bail!("--parts: a video of {frames} frames has {} \"words\", expected the ids before each frame", words.len());
            }
            return Ok(words.clone());
        }
        let tokenizer = common::tokenizer(model).context("--parts: a video without \"words\" has times, which are text")?;
        let mut words = Vec::new();
        for (at, frame) in self.video.iter().enumerate() {
            let Some(time) = frame.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
                bail!("--parts: frame {at} of a video has no \"seconds\" from 0; give them, or give the video \"words\"")
            };
            words.push(tokenizer.encode(&words_before_frame(at, time), false)?);
        }
        Ok(words)
    }
}

/// The first `tokens` tokens of a prompt whose pictures lie within them.
pub fn beginning(prompt: &Prompt, tokens: usize) -> Prompt {
    let mut beginning = Prompt::new();
    let mut text = 0;
    for (start, soft) in prompt.soft_tokens() {
        beginning.push(&prompt.tokens()[text..start]);
        beginning.push(soft.clone());
        text = start + soft.len();
    }
    beginning.push(&prompt.tokens()[text..tokens.min(prompt.len())]);
    beginning
}
