//! The adapter's file in a folder.

use std::path::{Path, PathBuf};

use super::refuse;
use crate::{Error, Result, text_file};

/// PEFT's file of weights.
pub(super) const PEFT: &str = "adapter_model.safetensors";

/// mlx-lm's file of weights.
pub(super) const MLX: &str = "adapters.safetensors";

/// The configuration of both.
pub(super) const CONFIG: &str = "adapter_config.json";

/// An adapter's file of weights.
pub(super) enum Found {
    Peft(PathBuf),
    Mlx(PathBuf),
    Gguf(PathBuf),
}

/// The adapter in a folder.
pub(super) fn in_folder(folder: &Path) -> Result<Found> {
    let at = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    match (at(PEFT), at(MLX)) {
        (Some(peft), _) => return Ok(Found::Peft(peft)),
        (None, Some(mlx)) => return Ok(Found::Mlx(mlx)),
        (None, None) => {}
    }
    let io = |source| Error::Io { path: folder.to_path_buf(), source };
    let names = std::fs::read_dir(folder).map_err(io)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = names.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    files.retain(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")));
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
pub(super) fn config_beside(weights: &Path) -> Result<(PathBuf, String)> {
    let path = weights.with_file_name(CONFIG);
    if !path.exists() {
        return Err(refuse(weights, format!("there is no {CONFIG} beside it, which says what the weights are scaled by")));
    }
    let text = text_file::read(&path)?;
    Ok((path, text))
}
