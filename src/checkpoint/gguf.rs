//! Checkpoints in GGUF files, by llama.cpp's names.

mod elementwise;
mod experts;
mod fused;
mod projector;

use std::{path::PathBuf, sync::Arc};

use self::elementwise::minus_one;
pub(super) use self::projector::open_projector;
use crate::{
    Error, Result,
    files::ModelPath,
    gemma::{Embedder, GemmaArch, GgufValues, WeightPosition, embedder_weights, gguf_key, gguf_stack, text_rows},
    weights::{
        FileSource, GgufEntry, GgufFiles, GgufMetadata, GgufPart, ReadOptions, StoredHead, Tensor, TensorInfo, WeightLoader,
        WeightMap, row_bytes,
    },
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
    pub fn from_file(path: impl Into<ModelPath>) -> Result<Self> {
        Self::from_file_with(path, ReadOptions::default())
    }

    /// As [`from_file`](Self::from_file), read as the [`ReadOptions`] or [`ReadMode`](crate::weights::ReadMode) say.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_file_with(path: impl Into<ModelPath>, options: impl Into<ReadOptions>) -> Result<Self> {
        Self::from_files(&path.into(), options.into())
    }

    fn from_files(path: &ModelPath, options: ReadOptions) -> Result<Self> {
        let files = GgufFiles::open(path, options)?;
        let architecture = files.architecture()?.to_string();
        let paths = files.parts.iter().map(|part| part.path.to_path_buf()).collect();
        let mut loader = Self { weights: WeightMap::default(), drafts: WeightMap::default(), architecture, files: paths };
        for GgufPart { file, tensors, .. } in files.parts {
            for entry in tensors {
                let entries =
                    fused::split(entry, &files.metadata, &loader.architecture).map_err(|problem| file.format(problem))?;
                entries.into_iter().try_for_each(|entry| loader.add(&file, entry))?;
            }
        }
        loader.cut_table(&files.metadata);
        experts::join(&mut loader.weights, &loader.architecture)
            .map_err(|problem| Error::Format { path: path.to_path_buf(), problem })?;
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

    /// Takes the padding off Gemma 3n's per-layer table.
    fn cut_table(&mut self, metadata: &GgufMetadata) {
        let key = WeightPosition::PleEmbed.hugging_face(GemmaArch::Gemma3n).unwrap_or_default();
        if GemmaArch::of_architecture(&self.architecture) == Some(GemmaArch::Gemma3n)
            && let Ok(table) = self.weights.take(&key)
        {
            let rows = table.shape().first().copied().unwrap_or(0);
            self.weights.insert(table.first_rows(text_rows(metadata, rows)));
        }
    }

    /// Adds the weights by which the projector at `path` embeds ids of the text (Gemma 3n), where it has them all.
    pub(super) fn add_embedders(&mut self, path: &ModelPath) -> Result<()> {
        let mut towers = open_projector(path)?;
        for embedder in [Embedder::Vision, Embedder::Audio] {
            let weights = embedder_weights(embedder);
            if weights.iter().all(|key| towers.contains(key)) {
                self.weights.append(&mut towers.split_off(|key| weights.iter().any(|weight| weight == key)));
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &Arc<FileSource>, entry: GgufEntry) -> Result<()> {
        let (key, values) = gguf_key(&self.architecture, &entry.name);
        let stacked = match entry.shape[..] {
            [count, rows, columns] => gguf_stack(&self.architecture, &entry.name, count).zip(Some([rows, columns])),
            _ => None,
        };
        let Some((keys, [rows, columns])) = stacked else { return self.insert(file, entry, key, values) };
        // Of a stack every matrix is a weight of its own.
        let row = row_bytes(entry.dtype, columns).unwrap_or(0);
        for (at, key) in (0u64..).zip(keys) {
            let offset = entry.offset + at * rows as u64 * row;
            let matrix = GgufEntry { name: entry.name.clone(), shape: vec![rows, columns], offset, ..entry };
            self.insert(file, matrix, key, values)?;
        }
        Ok(())
    }

    fn insert(&mut self, file: &Arc<FileSource>, entry: GgufEntry, key: String, values: GgufValues) -> Result<()> {
        let weights = if is_draft(&key) { &mut self.drafts } else { &mut self.weights };
        if weights.contains(&key) {
            return Err(file.format(format!("tensor '{}': there is already a weight '{key}'", entry.name)));
        }
        let tensor = entry.tensor(&key, file).map(|tensor| match values {
            GgufValues::PlusOne => minus_one(tensor),
            GgufValues::Same => tensor,
        });
        weights.insert_read(&key, tensor);
        Ok(())
    }
}

fn is_draft(key: &str) -> bool {
    key.starts_with("nextn.") || key.contains(".nextn.")
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
