//! A model on a device.

use std::{cell::OnceCell, rc::Rc};

use gemmaflow::guide::Guides;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{
    Cancel, Fault,
    conversation::Conversation,
    files::{self, FileEntry},
    options::{self, LoadOptions, Opening},
    to_js,
};

/// A model with its tokenizer.
#[wasm_bindgen]
pub struct Model {
    model: gemmaflow::Model,
    options: LoadOptions,
    /// Made for the first schema.
    guides: Rc<OnceCell<Guides>>,
}

#[wasm_bindgen]
impl Model {
    /// Opens the file or folder `path` among the files.
    pub async fn open(
        files: Vec<FileEntry>,
        path: String,
        options: JsValue,
        cancel: &Cancel,
        on_progress: js_sys::Function,
    ) -> Result<Model, Fault> {
        let opening = Opening::new(files, path, options, cancel, on_progress).await?;
        let generator = opening.generator();
        let Opening { path, device, options, .. } = opening;
        let model = gemmaflow::Model::open_with_towers_async(path, device, generator, options.towers()).await?;
        Ok(Self { model, options, guides: Rc::default() })
    }

    /// What it is and what it runs on.
    pub fn report(&self) -> Result<JsValue, Fault> {
        let config = self.model.config();
        let stats = self.model.stats();
        let mut features = Vec::new();
        features.extend(config.multimodal.vision.as_ref().map(|_| "vision"));
        features.extend(config.multimodal.audio_tower.as_ref().map(|_| "audio"));
        to_js(&json!({
            "architecture": format!("{:?}", config.arch),
            "adapter": stats.device,
            "gpu": options::adapter(self.model.gpu().as_ref()),
            "weightBytes": stats.weight_bytes,
            "bytesPerToken": stats.bytes_per_token,
            "context": self.model.max_context(),
            "features": features,
        }))
    }

    /// A conversation without a history.
    pub fn conversation(&self, options: JsValue) -> Result<Conversation, Fault> {
        Conversation::new(&self.model, self.guides.clone(), options::read(&options)?)
    }

    /// Loads the model anew after its device was lost.
    pub async fn recover(&self, cancel: &Cancel, on_progress: js_sys::Function) -> Result<(), Fault> {
        let model = self.model.clone();
        let options = self.options;
        let cancel = cancel.token();
        let device = options.open().await?;
        let report = options::progress(on_progress, cancel.clone());
        Ok(model.recover_async(device, Some(report), Some(cancel)).await?)
    }

    /// Destroys the device, as a driver that fails does. For tests of an application.
    #[wasm_bindgen(js_name = loseDevice)]
    pub fn lose_device(&self) {
        if let Some(gpu) = self.model.gpu() {
            gpu.device().destroy();
        }
    }
}

/// The bytes of device memory that a model takes, by part.
#[wasm_bindgen(js_name = memoryPlan)]
pub async fn memory_plan(files: Vec<FileEntry>, path: String, options: JsValue) -> Result<JsValue, Fault> {
    let path = files::at(files, path)?;
    let options: LoadOptions = options::read(&options)?;
    let device = options.open().await?;
    let plan = gemmaflow::Model::memory_plan(path, &device, options.generator(), options.towers())?;
    to_js(&json!({
        "device": plan.device,
        "context": plan.context,
        "weights": plan.weights,
        "caches": plan.full_cache.bytes + plan.sliding_cache.bytes,
        "scratch": plan.scratch,
        "towers": plan.towers,
        "loading": plan.loading,
        "peak": plan.peak(),
        "longestContext": plan.longest_context,
    }))
}
