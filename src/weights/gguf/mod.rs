//! GGUF files, as llama.cpp's converter and quantiser write them (versions 2 and 3, little-endian).
//!
//! Reading the header costs its bytes and a small multiple; tensors are read as they are asked for. Everything in a
//! file is checked before it is used: a file can be refused, but not make the reader panic, wait or take more memory
//! than it is worth.

mod cursor;
mod experts;
mod files;
mod fused;
mod header;
mod minus_one;
mod siblings;
mod value;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use files::GgufFiles;
pub(crate) use value::Metadata;

use self::{files::Part, header::Entry, minus_one::MinusOne};
use super::{
    ReadOptions, StoredHead, Tensor, TensorInfo, WeightLoader, WeightMap, foreign, narrowed::narrowed, source::FileSource,
};
use crate::{
    Error, Result,
    gemma::{GgufValues, gguf_key, gguf_stack},
    quant::DType,
};

/// The weights of a GGUF file, or of one in parts (`NAME-00001-of-00003.gguf` names them all).
///
/// Projections of query, key and value that are one matrix (`attn_qkv`) come as three, gate and up projections of
/// experts that are two stacks as one.
///
/// Keys are Hugging Face's names, as for every [`WeightLoader`], and so are the values: norms come without the 1 that
/// GGUF files have added. Tensors that have no such name, and all of families that this crate does not run, keep the
/// file's. Elements stay in the file's formats, packed or not, but for those norms, which are f32.
#[derive(Debug)]
pub struct GgufLoader {
    weights: WeightMap,
    /// Tensors for the prediction of several tokens.
    drafts: WeightMap,
    architecture: String,
    files: Vec<PathBuf>,
}

impl GgufLoader {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where a file cannot be opened; [`Error::Format`](crate::Error::Format) where it
    /// is truncated, its header lies, or its parts do not belong together.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file_with(path, ReadOptions::default())
    }

    /// As [`from_file`](Self::from_file), read as the [`ReadOptions`] or [`ReadMode`](super::ReadMode) say.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_file_with(path: impl AsRef<Path>, options: impl Into<ReadOptions>) -> Result<Self> {
        let files = GgufFiles::open(path.as_ref(), options.into())?;
        let architecture = files.architecture()?.to_string();
        let paths = files.parts.iter().map(|part| part.path.clone()).collect();
        let mut loader = Self { weights: WeightMap::default(), drafts: WeightMap::default(), architecture, files: paths };
        for Part { file, tensors, .. } in files.parts {
            for entry in tensors {
                let entries =
                    fused::split(entry, &files.metadata, &loader.architecture).map_err(|problem| file.format(problem))?;
                entries.into_iter().try_for_each(|entry| loader.add(&file, entry))?;
            }
        }
        experts::join(&mut loader.weights, &loader.architecture)
            .map_err(|problem| Error::Format { path: path.as_ref().to_path_buf(), problem })?;
        loader.weights.embed_by_head();
        Ok(loader)
    }

    /// Counts the tensors of drafters (prediction of several tokens, `nextn`) among the weights, or not. Default: not.
    pub fn include_mtp(mut self, include: bool) -> Self {
        if include {
            self.weights.append(&mut self.drafts)
        } else {
            self.drafts.append(&mut self.weights.split_off(is_draft))
        }
        self
    }

    /// The files that the weights lie in, in the order of their parts.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn add(&mut self, file: &Arc<FileSource>, entry: Entry) -> Result<()> {
        let (key, values) = gguf_key(&self.architecture, &entry.name);
        let stacked = match entry.shape[..] {
            [count, rows, columns] => gguf_stack(&self.architecture, &entry.name, count).zip(Some([rows, columns])),
            _ => None,
        };
        let Some((keys, [rows, columns])) = stacked else { return self.insert(file, entry, key, values) };
        // Of a stack every matrix is a weight of its own.
        let row = header::row_bytes(entry.dtype, columns).unwrap_or(0);
        for (at, key) in (0u64..).zip(keys) {
            let offset = entry.offset + at * rows as u64 * row;
            let matrix = Entry { name: entry.name.clone(), shape: vec![rows, columns], offset, ..entry };
            self.insert(file, matrix, key, values)?;
        }
        Ok(())
    }

    fn insert(&mut self, file: &Arc<FileSource>, entry: Entry, key: String, values: GgufValues) -> Result<()> {
        let Entry { name, shape, dtype, offset, .. } = entry;
        let weights = if is_draft(&key) { &mut self.drafts } else { &mut self.weights };
        if weights.contains(&key) {
            return Err(file.format(format!("tensor '{name}': there is already a weight '{key}'")));
        }
        let tensor = match dtype {
            Ok(dtype) => Tensor::new(&key, dtype, shape, file.clone(), offset),
            Err(header::F64) => narrowed(&key, shape, file.clone(), offset),
            Err(ggml_type) => {
                weights.insert_foreign(&key, foreign::of_ggml(ggml_type));
                return Ok(());
            }
        };
        weights.insert(match values {
            GgufValues::PlusOne => Tensor::new(key, DType::F32, tensor.shape().to_vec(), Arc::new(MinusOne(tensor)), 0),
            GgufValues::Same => tensor,
        });
        Ok(())
    }
}

fn is_draft(key: &str) -> bool {
    key.starts_with("nextn.") || key.contains(".nextn.")
}

impl GgufFiles {
    /// `general.architecture`.
    pub(crate) fn architecture(&self) -> Result<&str> {
        match self.metadata.text("general.architecture") {
            Ok(Some(name)) => Ok(name),
            Ok(None) => match self.metadata.text("general.type") {
                Ok(Some("imatrix")) => {
                    Err(self.error("an importance matrix, by which models are quantised; open the model's own file".into()))
                }
                _ => Err(self.error("general.architecture is missing; is this a model's GGUF file?".into())),
            },
            Err(problem) => Err(self.error(problem)),
        }
    }
}

impl WeightLoader for GgufLoader {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn peek(&self, key: &str) -> Result<TensorInfo<'_>> {
        self.weights.peek(key)
    }

    fn take(&mut self, key: &str) -> Result<Tensor> {
        self.weights.take(key)
    }

    fn remaining_keys(&self) -> Vec<String> {
        self.weights.remaining_keys()
    }

    fn arch_hint(&self) -> Option<&str> {
        Some(&self.architecture)
    }

    fn stored_head(&self) -> Result<StoredHead> {
        self.weights.stored_head()
    }
}
