//! A prompt of token ids, pictures and sounds, from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    gemma::GemmaConfig,
    generate::GemmaGenerator,
    hearing::AudioEncoder,
    image::{Image, ImageLimits, PanAndScan},
    prompt::{Prompt, SoftTokens},
    vision::VisionEncoder,
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
        let asked =
            self.parts.iter().filter_map(|part| if let Part::Image(picture) = part { picture.max_soft_tokens } else { None });
        asked.fold(stock, usize::max)
    }

    /// The prompt, its pictures and sounds encoded on the generator's device by the towers of the checkpoint at `model`.
    pub fn prompt(&self, generator: &GemmaGenerator, model: &Path) -> Result<Prompt> {
        let hearing =
            self.has_sounds().then(|| AudioEncoder::from_path(generator.config(), model, generator.gpu())).transpose()?;
        let mut clips = match &hearing {
            Some(hearing) => self.clips(hearing)?.into_iter(),
            None => Vec::new().into_iter(),
        };
        let has_pictures = self.parts.iter().any(|part| matches!(part, Part::Image(_)));
        let encoder = has_pictures.then(|| VisionEncoder::from_path(generator.config(), model, generator.gpu())).transpose()?;
        let mut prompt = Prompt::new();
        for part in &self.parts {
            match (part, &encoder) {
                (Part::Tokens { tokens }, _) => prompt.push(tokens),
                (Part::Image(picture), Some(encoder)) => self.push_picture(picture, encoder, &mut prompt)?,
                (Part::Image(_), None) => {}
                (Part::Audio { .. }, _) => {
                    let clip = hearing.as_ref().zip(clips.next());
                    clip.into_iter().for_each(|(hearing, soft)| prompt.push(hearing.lay_out(soft)));
                }
            }
        }
        Ok(prompt)
    }

    fn has_sounds(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Audio { .. }))
    }

    /// The soft tokens of all clips, in order. They are a batch, as in transformers.
    fn clips(&self, hearing: &AudioEncoder) -> Result<Vec<SoftTokens>> {
        let file = |part: &Part| if let Part::Audio { audio } = part { Some(self.folder.join(audio)) } else { None };
        let read = |path: PathBuf| -> Result<Audio> {
            let bytes = std::fs::read(&path).with_context(|| format!("--parts: {}", path.display()))?;
            Audio::from_bytes(&bytes, &AudioLimits::default()).with_context(|| path.display().to_string())
        };
        let clips = self.parts.iter().filter_map(file).map(read).collect::<Result<Vec<_>>>()?;
        Ok(hearing.encode_together(&clips)?)
    }

    /// The picture and its crops, each laid out. Between them Gemma 3's processor has words, which are parts of their own.
    fn push_picture(&self, picture: &Picture, encoder: &VisionEncoder, prompt: &mut Prompt) -> Result<()> {
        let path = self.folder.join(&picture.image);
        let bytes = std::fs::read(&path).with_context(|| format!("--parts: {}", path.display()))?;
        let image = Image::from_bytes(&bytes, &ImageLimits::default()).with_context(|| path.display().to_string())?;
        let mut images = vec![image];
        if picture.do_pan_and_scan == Some(true) {
            let stock = PanAndScan::default();
            let options = PanAndScan {
                min_crop_size: picture.pan_and_scan_min_crop_size.unwrap_or(stock.min_crop_size),
                max_crops: picture.pan_and_scan_max_num_crops.unwrap_or(stock.max_crops),
                min_ratio: picture.pan_and_scan_min_ratio_to_activate.unwrap_or(stock.min_ratio),
            };
            images.extend(options.crops(&images[0]));
        }
        for image in &images {
            let budget = picture.max_soft_tokens.unwrap_or(encoder.max_soft_tokens());
            prompt.push(encoder.lay_out(encoder.encode_within(image, budget)?));
        }
        Ok(())
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
