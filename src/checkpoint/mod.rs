//! Checkpoints: the tensors of safetensors and GGUF files as the weights of a model.
//!
//! Keys are Hugging Face's names without the prefix of the class that saved them, whatever the file calls its tensors
//! (docs/gemma.md).

mod gguf;
mod hugging_face;

use std::path::Path;

pub use gguf::GgufLoader;
pub use hugging_face::SafetensorsLoader;
#[cfg(feature = "hub")]
pub(crate) use hugging_face::index_shards;

use crate::{
    Result,
    weights::{WeightLoader, is_gguf},
};

/// Opens the towers for pictures and sounds of a checkpoint in safetensors files. Keys are Hugging Face's names without
/// the prefix `model.`, as the released models have them: `vision_tower.`, `audio_tower.`, `embed_vision.`, …
///
/// # Errors
/// As [`SafetensorsLoader::open`].
pub fn load_towers_from_path(path: impl AsRef<Path>) -> Result<Box<dyn WeightLoader>> {
    Ok(Box::new(SafetensorsLoader::open_towers(path)?))
}

/// Opens a checkpoint: a folder, a safetensors file, a `model.safetensors.index.json`, or a GGUF file, whatever it is
/// called ([`is_gguf`]).
///
/// # Errors
/// As [`SafetensorsLoader::open`] and [`GgufLoader::from_file`].
pub fn load_from_path(path: impl AsRef<Path>) -> Result<Box<dyn WeightLoader>> {
    if is_gguf(path.as_ref()) { Ok(Box::new(GgufLoader::from_file(path)?)) } else { Ok(Box::new(SafetensorsLoader::open(path)?)) }
}
