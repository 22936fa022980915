//! A model by the ids of tokens: without a tokenizer, and with its logits.

use std::sync::{Arc, Mutex, PoisonError};

use gemmaflow::{
    GemmaConfig, GemmaGenerator, SampleOpts,
    checkpoint::{load_from_path, load_towers_from_path},
    files::ModelPath,
    generate::{CancelToken, GeneratorOptions, SampleHooks, Sampler},
    image::{Image, ImageLimits},
    prompt::Prompt,
    vision::{TowerOptions, VisionEncoder},
};
use wasm_bindgen::prelude::*;

use crate::{Cancel, Fault, files::FileEntry, options::Opening};

/// Prompts are ids as transformers has them: each soft token of a picture has its placeholder there.
#[wasm_bindgen]
pub struct Generator {
    generator: GemmaGenerator,
    path: ModelPath,
    /// Loaded for the first picture.
    vision: Option<VisionEncoder>,
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
        Ok(Self { generator, path: opening.path, vision: None })
    }

    /// The `count` likeliest tokens after a prompt, one after the other. `pictures` are encoded files.
    pub async fn generate(
        &mut self,
        prompt: Vec<u32>,
        count: usize,
        pictures: Vec<js_sys::Uint8Array>,
        cancel: &Cancel,
    ) -> Result<Vec<u32>, Fault> {
        self.begin(&prompt, &pictures, cancel.token()).await?;
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(self.generator.step_async(&SampleOpts::greedy()).await?);
        }
        Ok(tokens)
    }

    /// The logits after a prompt, and after each of the tokens `next` that follow it, row by row.
    pub async fn logits(
        &mut self,
        prompt: Vec<u32>,
        next: Vec<u32>,
        pictures: Vec<js_sys::Uint8Array>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, Fault> {
        self.begin(&prompt, &pictures, cancel.token()).await?;
        let rows: Arc<Mutex<Vec<f32>>> = Arc::default();
        let count = next.len();
        let mut hooks = SampleHooks::new().with_sampler(Forced { next, start: prompt.len(), rows: rows.clone() });
        for _ in 0..=count {
            self.generator.step_hooked_async(&SampleOpts::greedy(), &mut hooks).await?;
        }
        Ok(std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Generator {
    async fn begin(&mut self, ids: &[u32], pictures: &[js_sys::Uint8Array], cancel: CancelToken) -> Result<(), Fault> {
        let prompt = self.prompt(ids, pictures, &cancel).await?;
        self.generator.set_cancel(cancel);
        Ok(self.generator.prefill(prompt)?)
    }

    /// The ids with the soft tokens of each picture in the place of its placeholders.
    async fn prompt(&mut self, ids: &[u32], pictures: &[js_sys::Uint8Array], cancel: &CancelToken) -> Result<Prompt, Fault> {
        let mut prompt = Prompt::new();
        let mut rest = ids;
        for picture in pictures {
            let image = Image::from_bytes(&picture.to_vec(), &ImageLimits::default())?;
            let soft = self.vision().await?.with_cancel(cancel.clone()).encode_async(&image).await?;
            let place = rest.iter().position(|id| *id == soft.placeholder());
            let begin = place.ok_or_else(|| Fault::input("the prompt has fewer places than pictures"))?;
            let run = rest[begin..].iter().take_while(|id| **id == soft.placeholder()).count();
            if run != soft.len() {
                let problem = format!("a picture has {} soft tokens, its place in the prompt {run}", soft.len());
                return Err(Fault::input(problem));
            }
            prompt = prompt.then(&rest[..begin]).then(soft);
            rest = &rest[begin + run..];
        }
        let soft = self.generator.config().multimodal.image.map(|ids| ids.soft);
        if soft.is_some_and(|soft| rest.contains(&soft)) {
            return Err(Fault::input("the prompt has more places than pictures"));
        }
        Ok(prompt.then(rest))
    }

    async fn vision(&mut self) -> Result<VisionEncoder, Fault> {
        if let Some(vision) = &self.vision {
            return Ok(vision.clone());
        }
        let mut loader = load_towers_from_path(&self.path)?;
        let gpu = self.generator.gpu();
        let made =
            VisionEncoder::from_loader_async(self.generator.config(), loader.as_mut(), gpu, TowerOptions::default()).await?;
        Ok(self.vision.insert(made).clone())
    }
}

/// Takes the tokens that are given, and keeps the rows that it saw.
struct Forced {
    next: Vec<u32>,
    /// Tokens before them.
    start: usize,
    rows: Arc<Mutex<Vec<f32>>>,
}

impl Sampler for Forced {
    fn name(&self) -> &str {
        "the given tokens"
    }

    fn choose(&mut self, logits: &[f32], history: &[u32]) -> anyhow::Result<u32> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend(logits);
        Ok(self.next.get(history.len() - self.start).copied().unwrap_or(0))
    }
}
