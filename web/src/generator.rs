//! A model without a tokenizer, by the ids of tokens.

use std::sync::{Arc, Mutex, PoisonError};

use gemmaflow::{
    GemmaConfig, GemmaGenerator, SampleOpts,
    checkpoint::load_from_path,
    generate::{SampleHooks, Sampler},
};
use wasm_bindgen::prelude::*;

use crate::{
    Cancel, Fault,
    files::{self, FileEntry},
    options::{self, LoadOptions},
};

/// Goes on from ids, and tells logits.
#[wasm_bindgen]
pub struct Generator(GemmaGenerator);

#[wasm_bindgen]
impl Generator {
    /// Opens the file or folder `path` among the files.
    pub async fn open(files: Vec<FileEntry>, path: String, options: JsValue, cancel: &Cancel) -> Result<Generator, Fault> {
        let cancel = cancel.token();
        let path = files::at(files, path)?;
        let options: LoadOptions = options::read(&options)?;
        let device = options.open().await?;
        let config = GemmaConfig::near_weights(&path)?;
        let mut loader = load_from_path(&path)?;
        let how = options.generator(Some(cancel), None);
        Ok(Self(GemmaGenerator::with_options_async(config, loader.as_mut(), device, how).await?))
    }

    /// The `count` likeliest tokens after `prompt`, one after the other.
    pub async fn generate(&mut self, prompt: Vec<u32>, count: usize) -> Result<Vec<u32>, Fault> {
        self.0.prefill(&prompt[..])?;
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(self.0.step_async(&SampleOpts::greedy()).await?);
        }
        Ok(tokens)
    }

    /// The logits of the tokens after `prompt`, and of each of `next`, row by row.
    pub async fn logits(&mut self, prompt: Vec<u32>, next: Vec<u32>) -> Result<Vec<f32>, Fault> {
        self.0.prefill(&prompt[..])?;
        let rows = Arc::default();
        let mut hooks =
            SampleHooks::new().with_sampler(Forced { next: next.clone(), start: prompt.len(), rows: Arc::clone(&rows) });
        for _ in 0..=next.len() {
            self.0.step_hooked_async(&SampleOpts::greedy(), &mut hooks).await?;
        }
        Ok(std::mem::take(&mut rows.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Takes the tokens that are given, and keeps the rows that it saw.
struct Forced {
    next: Vec<u32>,
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
