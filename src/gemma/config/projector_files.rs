//! The projector's file beside a text model's, by the habit of llama.cpp's users.

use super::{AudioConfig, GemmaConfig, VisionConfig, json::named, projector};
use crate::{Error, Result, files::ModelPath, weights::is_gguf};

/// True for the name of a projector's file: `mmproj-model-f16.gguf`, `gemma-3-4b-it.mmproj-Q8_0.gguf`, …
pub(crate) fn is_projector_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("mmproj") && name.ends_with(".gguf")
}

/// The configuration of the text model at `text` with the towers of the projector that lies beside it, if one does. One
/// that cannot be taken is no reason to refuse the text model: pictures and sounds are refused.
pub(super) fn settle(config: GemmaConfig, text: &ModelPath) -> GemmaConfig {
    match beside(&config, text).and_then(|found| found.map(|path| projector::add(&config, &path)).transpose()) {
        Ok(found) => found.unwrap_or(config),
        Err(error) => {
            let mut config = config;
            config.multimodal.vision = Some(VisionConfig::Unsupported(error.to_string()));
            config.multimodal.audio_tower = Some(AudioConfig::Unsupported(error.to_string()));
            config
        }
    }
}

/// The projector for the text model of `config` that lies beside its file; `None` where there is none, and for a family
/// without projectors.
///
/// # Errors
/// [`Error::Config`] where several fit, with their names. Where none fits, what is wrong with one that lies there.
pub(super) fn beside(config: &GemmaConfig, text: &ModelPath) -> Result<Option<ModelPath>> {
    if !projector::has_some(config.arch) {
        return Ok(None);
    }
    let mut fitting = Vec::new();
    let mut first_wrong = None;
    for path in candidates(text) {
        match fits(config, &path) {
            Ok(true) => fitting.push(path),
            Ok(false) => {}
            Err(error) => first_wrong = first_wrong.or(Some(error)),
        }
    }
    match (fitting.pop(), first_wrong) {
        (Some(only), _) if fitting.is_empty() => Ok(Some(only)),
        (Some(last), _) => {
            fitting.push(last);
            let name = |path: &ModelPath| path.as_path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let names = fitting.iter().map(name).collect::<Vec<_>>().join(", ");
            let advice = "keep one of them there, or name the one to take (Model::open_with_projector)";
            Err(Error::Config(format!("{} projectors lie beside the model ({names}); {advice}", fitting.len())))
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}

/// GGUF files beside `text` with the word in their names, in the order of these. A folder that cannot be listed has
/// none.
fn candidates(text: &ModelPath) -> Vec<ModelPath> {
    let is_named = |path: &ModelPath| is_projector_name(&path.as_path().file_name().unwrap_or_default().to_string_lossy());
    let entries = text.folder().entries().unwrap_or_default();
    let mut found: Vec<ModelPath> = entries.into_iter().filter(|path| is_named(path) && is_gguf(path)).collect();
    found.sort_by(|a, b| a.as_path().cmp(b.as_path()));
    found
}

/// True for a projector's file; false for a text model's with such a name.
fn fits(config: &GemmaConfig, path: &ModelPath) -> Result<bool> {
    let files = projector::open(path)?;
    if !projector::is_projector(&files) {
        return Ok(false);
    }
    projector::check(&files, config).map_err(|error| named(path, error))?;
    Ok(true)
}
