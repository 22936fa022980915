//! Tensors of one file under the file's own names: what is no checkpoint, such as an adapter.

use std::sync::Arc;

use super::{ReadOptions, Tensor, kind::GGUF, safetensors, source::FileSource};
use crate::{Error, Result, files::ModelPath};

/// Tensors by their names; of an element type that [`DType`](crate::quant::DType) lacks the type's name.
pub(crate) type Tensors = Vec<(String, Result<Tensor, String>)>;

/// The tensors of a safetensors file, read at their positions: nothing is mapped.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] where the header lies.
pub(crate) fn safetensors_file(path: &ModelPath) -> Result<Tensors> {
    let file = Arc::new(FileSource::open(path)?);
    let entries = safetensors::read(&file, &ReadOptions::default().limits)?;
    Ok(entries.into_iter().map(|entry| entry.stored(&file)).collect())
}

/// True if a file begins as a GGUF file does.
///
/// # Errors
/// [`Error::Io`] where it cannot be read.
pub(crate) fn is_gguf_file(path: &ModelPath) -> Result<bool> {
    let first = path.first_bytes(GGUF.len()).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    Ok(first.is_some_and(|first| first == GGUF))
}
