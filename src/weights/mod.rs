//! Checkpoints on disk: typed bytes by name, never widened as a whole.
//!
//! The only module that knows file formats. Opening a checkpoint reads headers; a weight's bytes are read when somebody
//! reads the taken [`Tensor`], a tile at a time if they like.
//!
//! # Files that change
//! Files are read at an offset, a system call at a time ([`ReadMode::Positioned`]), and stay open as long as a tensor
//! of theirs lives. A file that was cut or written to since it was opened, as its length and its time of modification
//! tell, is [`Error::FileChanged`](crate::Error::FileChanged) for its next reader. Such readers are a generator on the
//! reference at its next run, one with tables on the host at its next token, and a recovery. The reference asks
//! although it holds matrices in memory after their first product. A file that was renamed, removed, or replaced by
//! renaming another over it is read on as it was. So put a new file beside the old one and rename it.
//!
//! [`ReadMode::Mapped`] asks for a memory map. A map shows the file as it is *now*: if another process cuts it, reading
//! the lost pages ends the process with a bus error, and if it is overwritten the weights change.

mod foreign;
mod gguf;
mod head;
mod header;
mod kept;
mod kind;
mod loader;
mod narrowed;
mod options;
mod quantised;
#[cfg(feature = "lora")]
mod raw;
mod safetensors;
mod scheme;
mod sentence_transformers;
mod source;
mod tensor;
mod transposed;

use std::path::Path;

pub(crate) use foreign::NO_NUMBERS;
pub use gguf::GgufLoader;
pub(crate) use gguf::{GgufFiles, Metadata as GgufMetadata};
pub use head::StoredHead;
pub(crate) use kept::kept;
pub use kind::is_gguf;
pub(crate) use loader::nearest;
pub use loader::{TensorInfo, WeightLoader, WeightMap};
pub use options::{FileLimits, ReadMode, ReadOptions};
pub use quantised::QuantisedLoader;
#[cfg(feature = "lora")]
pub(crate) use raw::{is_gguf_file, safetensors_file};
pub use safetensors::SafetensorsLoader;
#[cfg(feature = "hub")]
pub(crate) use safetensors::index_shards;
pub(crate) use scheme::{Scheme, of_method as quantised_by};
pub(crate) use sentence_transformers::{SentenceModules, SentenceSettings};
pub(crate) use tensor::RANDOM;
pub use tensor::{RandomFill, Tensor, TensorSource};
#[cfg(feature = "lora")]
pub(crate) use transposed::transposed;

use crate::Result;
pub use crate::quant::Quantise;

/// Opens a checkpoint: a folder, a safetensors file, a `model.safetensors.index.json`, or a GGUF file, whatever it is
/// called ([`is_gguf`]).
///
/// # Errors
/// As [`SafetensorsLoader::open`] and [`GgufLoader::from_file`].
pub fn load_from_path(path: impl AsRef<Path>) -> Result<Box<dyn WeightLoader>> {
    if is_gguf(path.as_ref()) { Ok(Box::new(GgufLoader::from_file(path)?)) } else { Ok(Box::new(SafetensorsLoader::open(path)?)) }
}
