//! Checkpoints: the tensors of safetensors and GGUF files as the weights of a model.
//!
//! Keys are Hugging Face's names without the prefix of the class that saved them, whatever the file calls its tensors
//! (docs/gemma.md).

mod gguf;
mod hugging_face;

pub use gguf::GgufLoader;
pub use hugging_face::SafetensorsLoader;
#[cfg(feature = "hub")]
pub(crate) use hugging_face::index_shards;

use crate::{
    Result,
    files::ModelPath,
    gemma::{GemmaArch, GemmaConfig},
    weights::{WeightLoader, is_gguf},
};

/// Opens the towers for pictures and sounds of a checkpoint in safetensors files, or of a projector's GGUF file
/// (`mmproj`): that file itself, or the text model's that it lies beside. Keys are Hugging Face's names without the
/// prefix `model.`, as the released models have them: `vision_tower.`, `audio_tower.`, `embed_vision.`, … Values and
/// shapes are Hugging Face's too.
///
/// # Errors
/// As [`SafetensorsLoader::open`] and [`GgufLoader::from_file`]; [`Error::Unsupported`](crate::Error::Unsupported) for
/// a GGUF file of a text model without a projector beside it, [`Error::Config`](crate::Error::Config) for projectors of
/// another model, and where several lie there.
pub fn load_towers_from_path(path: impl Into<ModelPath>) -> Result<Box<dyn WeightLoader>> {
    match &path.into() {
        path if is_gguf(path) => Ok(Box::new(gguf::open_projector(path)?)),
        path => Ok(Box::new(SafetensorsLoader::open_towers(path)?)),
    }
}

/// Opens a checkpoint: a folder, a safetensors file, a `model.safetensors.index.json`, or a GGUF file, whatever it is
/// called ([`is_gguf`]).
///
/// # Errors
/// As [`SafetensorsLoader::open`] and [`GgufLoader::from_file`].
pub fn load_from_path(path: impl Into<ModelPath>) -> Result<Box<dyn WeightLoader>> {
    load_with_projector(&path.into(), None)
}

/// As [`load_from_path`], with the projector of a GGUF file, or the one beside it: Gemma 3n's embeds ids of the text.
///
/// # Errors
/// As [`load_from_path`], and those of a projector that is given.
pub(crate) fn load_with_projector(path: &ModelPath, projector: Option<&ModelPath>) -> Result<Box<dyn WeightLoader>> {
    if !is_gguf(path) {
        return Ok(Box::new(SafetensorsLoader::open(path)?));
    }
    let mut loader = GgufLoader::from_file(path)?;
    if loader.arch_hint().and_then(GemmaArch::of_architecture) == Some(GemmaArch::Gemma3n) {
        // One beside the model that cannot be taken is refused when a picture is shown.
        let beside = || GemmaConfig::projector_beside(path).ok().flatten();
        if let Some(projector) = projector.cloned().or_else(beside) {
            loader.add_embedders(&projector)?;
        }
    }
    Ok(Box::new(loader))
}
