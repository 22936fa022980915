//! The adapter's file in a folder.

use super::refuse;
use crate::{Error, Result, files::ModelPath, text_file};

/// PEFT's file of weights.
pub(super) const PEFT: &str = "adapter_model.safetensors";

/// mlx-lm's file of weights.
pub(super) const MLX: &str = "adapters.safetensors";

/// The configuration of both.
pub(super) const CONFIG: &str = "adapter_config.json";

/// An adapter's file of weights.
pub(super) enum Found {
    Peft(ModelPath),
    Mlx(ModelPath),
    Gguf(ModelPath),
}

/// The adapter in a folder.
pub(super) fn in_folder(folder: &ModelPath) -> Result<Found> {
    let at = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    match (at(PEFT), at(MLX)) {
        (Some(peft), _) => return Ok(Found::Peft(peft)),
        (None, Some(mlx)) => return Ok(Found::Mlx(mlx)),
        (None, None) => {}
    }
    let mut files = folder.entries().map_err(|source| Error::Io { path: folder.to_path_buf(), source })?;
    files.retain(|path| path.has_extension("gguf"));
    if let [gguf] = &files[..] {
        return Ok(Found::Gguf(gguf.clone()));
    }
    if at("adapter_model.bin").is_some() {
        let problem = "adapter_model.bin is PyTorch's pickle, which is not read; save the adapter with safe_serialization=True";
        return Err(refuse(folder, problem));
    }
    Err(refuse(folder, format!("there is no {PEFT}, no {MLX} and not one GGUF file in it; name the adapter's folder or file")))
}

/// The configuration beside a file of weights.
pub(super) fn config_beside(weights: &ModelPath) -> Result<(ModelPath, String)> {
    let path = weights.with_file_name(CONFIG);
    if !path.is_file() {
        return Err(refuse(weights, format!("there is no {CONFIG} beside it, which says what the weights are scaled by")));
    }
    let text = text_file::read(&path)?;
    Ok((path, text))
}
