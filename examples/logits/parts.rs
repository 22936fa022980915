//! A prompt of token ids, pictures and sounds, from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    gemma::GemmaConfig,
    generate::GemmaGenerator,
    hearing::AudioEncoder,
    image::{Image, ImageLimits, PanAndScan},
    prompt::Prompt,
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
    /// The token ids of the words before the picture, then of those before each crop.
    #[serde(default)]
    words: Vec<Vec<u32>>,
}

/// A prompt, and what its soft tokens were made of.
pub struct LaidOut {
    pub prompt: Prompt,
    pub vision: Option<VisionEncoder>,
    /// Pictures and crops, each with the most soft tokens that it may have.
    pub pictures: Vec<(Image, usize)>,
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
        let asked =
            self.parts.iter().filter_map(|part| if let Part::Image(picture) = part { picture.max_soft_tokens } else { None });
        asked.fold(stock, usize::max)
    }

    /// The prompt, its pictures and sounds encoded on the generator's device by the towers of the checkpoint at `model`.
    pub fn lay_out(&self, generator: &GemmaGenerator, model: &Path) -> Result<LaidOut> {
        let has = |kind: fn(&Part) -> bool| self.parts.iter().any(kind);
        let hearing = has(|part| matches!(part, Part::Audio { .. }))
            .then(|| AudioEncoder::from_path(generator.config(), model, generator.gpu()))
            .transpose()?;
        let vision = has(|part| matches!(part, Part::Image(_)))
            .then(|| VisionEncoder::from_path(generator.config(), model, generator.gpu()))
            .transpose()?;
        let clips = self.clips()?;
        // They are a batch, as in transformers.
        let mut soft = hearing.as_ref().map_or(Ok(Vec::new()), |hearing| hearing.encode_together(&clips))?.into_iter();
        let mut laid_out = LaidOut { prompt: Prompt::new(), vision: None, pictures: Vec::new(), hearing: None, clips };
        for part in &self.parts {
            match (part, &vision, &hearing) {
                (Part::Tokens { tokens }, ..) => laid_out.prompt.push(tokens),
                (Part::Image(picture), Some(vision), _) => self.push_picture(picture, vision, &mut laid_out)?,
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
        let mut words = picture.words.iter();
        for image in images {
            let budget = picture.max_soft_tokens.unwrap_or(encoder.max_soft_tokens());
            laid_out.prompt.push(words.next().map_or(&[][..], Vec::as_slice));
            laid_out.prompt.push(encoder.lay_out(encoder.encode_within(&image, budget)?));
            laid_out.pictures.push((image, budget));
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
