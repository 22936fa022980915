//! GGUF files, as llama.cpp's converter and quantiser write them (versions 2 and 3, little-endian).
//!
//! Reading the header costs its bytes and a small multiple; tensors are read as they are asked for. Everything in a
//! file is checked before it is used: a file can be refused, but not make the reader panic, wait or take more memory
//! than it is worth.

mod cursor;
mod files;
mod header;
mod metadata;
mod siblings;

pub(crate) use files::{GgufFiles, GgufPart};
pub(crate) use header::{Entry as GgufEntry, row_bytes};
pub(crate) use metadata::Metadata as GgufMetadata;
