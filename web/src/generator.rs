//! A model by the ids of tokens: without a tokenizer, and with its logits.

use gemmaflow::{
    GemmaConfig, GemmaGenerator, SampleOpts,
    audio::{Audio, AudioLimits},
    checkpoint::{load_from_path, load_towers_from_path},
    files::ModelPath,
    generate::{CancelToken, GeneratorOptions},
    hearing::AudioEncoder,
    image::{Image, ImageLimits},
    prompt::{Prompt, SoftTokens},
    vision::{TowerOptions, VisionEncoder},
};
use wasm_bindgen::prelude::*;

use crate::{Cancel, Fault, files::FileEntry, options::Opening};

/// Prompts are ids as transformers has them: each soft token of a picture or sound has its placeholder there.
#[wasm_bindgen]
pub struct Generator {
    generator: GemmaGenerator,
    path: ModelPath,
    /// Loaded for the first picture.
    vision: Option<VisionEncoder>,
    /// Loaded for the first sound.
    hearing: Option<AudioEncoder>,
}

#[wasm_bindgen]
impl Generator {
    /// Opens the file or folder `path` among the files.
    pub async fn open(
        files: Vec<FileEntry>,
        path: String,
        options: JsValue,
        cancel: &Cancel,
        on_progress: js_sys::Function,
    ) -> Result<Generator, Fault> {
        let opening = Opening::new(files, path, options, cancel, on_progress).await?;
        let config = GemmaConfig::near_weights(&opening.path)?;
        let longest_picture = config.multimodal.vision.as_ref().map(|vision| vision.max_soft_tokens()).filter(|most| *most > 0);
        let mut loader = load_from_path(&opening.path)?;
        let how = GeneratorOptions { longest_picture, ..opening.generator() };
        let generator = GemmaGenerator::with_options_async(config, loader.as_mut(), opening.device, how).await?;
        Ok(Self { generator, path: opening.path, vision: None, hearing: None })
    }

    /// Up to `count` of the likeliest tokens after a prompt, as `generate_cached` gives them. `pictures` and `sounds` are
    /// encoded files.
    pub async fn generate(
        &mut self,
        prompt: Vec<u32>,
        count: usize,
        pictures: Vec<js_sys::Uint8Array>,
        sounds: Vec<js_sys::Uint8Array>,
        cancel: &Cancel,
    ) -> Result<Vec<u32>, Fault> {
        let prompt = self.prompt(&prompt, Media { pictures, sounds }, cancel.token()).await?;
        self.generator.prefill(prompt)?;
        Ok(self.generator.generate_cached_async(count, &SampleOpts::greedy()).await?)
    }

    /// The logits after a prompt, and after each of the tokens `next` that follow it, row by row.
    pub async fn logits(
        &mut self,
        prompt: Vec<u32>,
        next: Vec<u32>,
        pictures: Vec<js_sys::Uint8Array>,
        sounds: Vec<js_sys::Uint8Array>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Fault> {
        let prompt = self.prompt(&prompt, Media { pictures, sounds }, cancel.token()).await?;
        let mut rows = self.generator.prefill_get_last_logits_async(prompt).await?;
        for token in next {
            rows.extend(self.generator.decode_get_logits_async(token).await?);
        }
        Ok(rows)
    }
}

impl Generator {
    /// The ids with the soft tokens of each picture and sound in the place of its placeholders. `cancel` ends this, and
    /// from now on what the generator does.
    async fn prompt(&mut self, ids: &[u32], media: Media, cancel: CancelToken) -> Result<Prompt, Fault> {
        self.generator.set_cancel(cancel.clone());
        let mut pictures = Vec::new();
        for picture in media.pictures {
            let image = Image::from_bytes(&picture.to_vec(), &ImageLimits::default())?;
            pictures.push(self.vision().await?.with_cancel(cancel.clone()).encode_async(&image).await?);
        }
        let mut sounds = Vec::new();
        for sound in media.sounds {
            let clip = Audio::from_bytes(&sound.to_vec(), &AudioLimits::default())?;
            sounds.push(self.hearing().await?.with_cancel(cancel.clone()).encode_async(&clip).await?);
        }
        let config = &self.generator.config().multimodal;
        let kinds = [config.image.as_ref().map(|ids| ids.soft), config.audio.as_ref().map(|ids| ids.soft)];
        placed(ids, kinds, [pictures, sounds])
    }

    async fn vision(&mut self) -> Result<VisionEncoder, Fault> {
        if let Some(vision) = &self.vision {
            return Ok(vision.clone());
        }
        let mut loader = load_towers_from_path(&self.path)?;
        let gpu = self.generator.gpu();
        let config = self.generator.config();
        let made = VisionEncoder::from_loader_async(config, loader.as_mut(), gpu, TowerOptions::default()).await?;
        Ok(self.vision.insert(made).clone())
    }

    async fn hearing(&mut self) -> Result<AudioEncoder, Fault> {
        if let Some(hearing) = &self.hearing {
            return Ok(hearing.clone());
        }
        let mut loader = load_towers_from_path(&self.path)?;
        let gpu = self.generator.gpu();
        let config = self.generator.config();
        let made = AudioEncoder::from_loader_async(config, loader.as_mut(), gpu, TowerOptions::default()).await?;
        Ok(self.hearing.insert(made).clone())
    }
}

/// Encoded files.
struct Media {
    pictures: Vec<js_sys::Uint8Array>,
    sounds: Vec<js_sys::Uint8Array>,
}

/// The ids with soft tokens in the place of their placeholders: of each of `kinds` those of `media`, in order.
fn placed(ids: &[u32], kinds: [Option<u32>; 2], media: [Vec<SoftTokens>; 2]) -> Result<Prompt, Fault> {
    let mut media = media.map(Vec::into_iter);
    let mut prompt = Prompt::new();
    let mut rest = ids;
    let place =
        |ids: &[u32]| ids.iter().enumerate().find_map(|(at, id)| Some((at, kinds.iter().position(|kind| *kind == Some(*id))?)));
    while let Some((begin, kind)) = place(rest) {
        let soft = media[kind].next().ok_or_else(|| Fault::input("the prompt has more places than pictures or sounds"))?;
        let run = rest[begin..].iter().take_while(|id| **id == rest[begin]).count();
        if run != soft.len() {
            let problem = format!("a picture or sound has {} soft tokens, its place in the prompt {run}", soft.len());
            return Err(Fault::input(problem));
        }
        prompt = prompt.then(&rest[..begin]).then(soft);
        rest = &rest[begin + run..];
    }
    if media.iter().any(|left| left.len() > 0) {
        return Err(Fault::input("the prompt has fewer places than pictures or sounds"));
    }
    Ok(prompt.then(rest))
}
