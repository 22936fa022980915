//! Vectors of texts.

use gemmaflow::{
    GemmaConfig,
    checkpoint::load_from_path,
    embed::{EmbedderOptions, EmbeddingTask, GemmaEmbedder},
    text::Tokenizer,
};
use wasm_bindgen::prelude::*;

use crate::{Cancel, Fault, files::FileEntry, options::Opening};

#[wasm_bindgen]
pub struct Embedder {
    embedder: GemmaEmbedder,
    tokenizer: Tokenizer,
}

#[wasm_bindgen]
impl Embedder {
    /// Opens the file or folder `path` among the files.
    pub async fn open(
        files: Vec<FileEntry>,
        path: String,
        options: JsValue,
        cancel: &Cancel,
        on_progress: js_sys::Function,
    ) -> Result<Embedder, Fault> {
        let opening = Opening::new(files, path, options, cancel, on_progress).await?;
        let path = &opening.path;
        let config = GemmaConfig::near_weights(path)?;
        let tokenizer = Tokenizer::near_weights(path)?;
        let mut loader = load_from_path(path)?;
        let how = EmbedderOptions {
            context: opening.options.context,
            on_progress: Some(opening.progress()),
            ..EmbedderOptions::near_weights(path)?
        };
        let embedder = GemmaEmbedder::with_options_async(config, loader.as_mut(), opening.device, how).await?;
        Ok(Self { embedder, tokenizer })
    }

    /// A vector of length 1 for each text, as the `task` wants it: `query`, `document`, or a name among the prompts of
    /// the checkpoint; as it stands without one.
    pub async fn embed(
        &self,
        texts: Vec<String>,
        task: Option<String>,
        cancel: &Cancel,
    ) -> Result<Vec<js_sys::Float32Array>, Fault> {
        let task = match task.as_deref() {
            None => EmbeddingTask::Plain,
            Some("query") => EmbeddingTask::Query,
            Some("document") => EmbeddingTask::document(),
            Some(name) => EmbeddingTask::Named(name.to_string()),
        };
        let embedder = self.embedder.clone().with_cancel(cancel.token());
        let vectors = embedder.embed_texts_async(&self.tokenizer, &task, &texts).await?;
        Ok(vectors.iter().map(|vector| js_sys::Float32Array::from(&vector[..])).collect())
    }

    /// Numbers of a vector.
    pub fn dimensions(&self) -> usize {
        self.embedder.dimensions()
    }
}
