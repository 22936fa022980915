//! Weights on disk: typed bytes by name, never widened as a whole.
//!
//! The only module that reads the headers of weight files; [`checkpoint`](crate::checkpoint) reads indices and gives
//! tensors a model's names. The two keys that [`WeightLoader::stored_head`] asks for are known here. Opening a
//! checkpoint reads headers; a weight's bytes are read when somebody reads the taken [`Tensor`], a tile at a time if
//! they like.
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

mod computed;
mod embedded;
mod foreign;
mod gguf;
mod head;
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

pub(crate) use computed::read_computed;
pub(crate) use embedded::{EmbedderWeights, embedded};
pub(crate) use foreign::NO_NUMBERS;
pub(crate) use gguf::{GgufEntry, GgufFiles, GgufMetadata, GgufPart, row_bytes};
pub use head::StoredHead;
pub(crate) use head::{EMBED_KEY, HEAD_KEY};
pub(crate) use kept::kept;
pub use kind::is_gguf;
pub(crate) use kind::is_index;
pub(crate) use loader::nearest;
pub use loader::{TensorInfo, WeightLoader, WeightMap};
pub use options::{FileLimits, ReadMode, ReadOptions};
pub use quantised::QuantisedLoader;
#[cfg(feature = "lora")]
pub(crate) use raw::{is_gguf_file, safetensors_file};
pub(crate) use safetensors::{Entry as SafetensorsEntry, read as read_safetensors};
pub(crate) use scheme::{Scheme, of_method as quantised_by, of_tensors as quantised_tensors};
pub(crate) use sentence_transformers::{SentenceModules, SentenceSettings, dense_files};
pub(crate) use source::FileSource;
pub(crate) use tensor::RANDOM;
pub use tensor::{RandomFill, Tensor, TensorSource};
#[cfg(feature = "lora")]
pub(crate) use transposed::transposed;
pub(crate) use transposed::transposed_each;

pub use crate::quant::Quantise;
