//! Checkpoints in safetensors files, by Hugging Face's names: one file, or shards with an index.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error, Result,
    error::WeightError,
    files::ModelPath,
    gemma::{Embedder, TOKEN_ORDER, dense_key, embedder_weights, text_weight, tower_weight},
    text_file,
    weights::{
        FileLimits, FileSource, ReadMode, ReadOptions, SafetensorsEntry, StoredHead, Tensor, TensorInfo, TensorSource,
        WeightLoader, WeightMap, dense_files, is_gguf, is_index, quantised_tensors, read_safetensors,
    },
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The text weights of a safetensors checkpoint.
///
/// The prefixes `model.`, `language_model.model.` and `model.language_model.` are found and taken off; weights of
/// vision and audio towers are left out, but for those that embed ids of the text (Gemma 3n). Files are read as
/// [`ReadMode`] says.
///
/// Where a `modules.json` lies beside the files, as sentence-transformers has it, the weights of its dense modules are
/// among those of the model.
#[derive(Debug)]
pub struct SafetensorsLoader {
    weights: WeightMap,
    files: Vec<PathBuf>,
    /// The key of a tensor's name; none for those of another part of the model.
    key: fn(&str) -> Option<Cow<'_, str>>,
}

/// Tensors that were left out because they are of another part of the model.
#[derive(Default)]
struct Skipped {
    tensors: usize,
    bytes: u64,
}

impl SafetensorsLoader {
    /// Opens a folder, a `.safetensors` file, or an index of shards.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be opened; [`Error::Format`] where it is truncated, its header lies or its
    /// shards do not fit the index, or there are only files of another format; [`WeightError::Quantised`] for a
    /// checkpoint in another library's quantised format.
    pub fn open(path: impl Into<ModelPath>) -> Result<Self> {
        Self::open_with(path, ReadOptions::default())
    }

    /// As [`open`](Self::open), read as the [`ReadOptions`] or [`ReadMode`] say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl Into<ModelPath>, options: impl Into<ReadOptions>) -> Result<Self> {
        let mut loader = Self::open_part(&path.into(), options.into(), text_weight)?;
        loader.leave_out_projections_alone();
        Ok(loader)
    }

    /// Leaves out projections of pictures and sounds without a table, which embed no ids.
    fn leave_out_projections_alone(&mut self) {
        for embedder in [Embedder::Vision, Embedder::Audio] {
            let weights = embedder_weights(embedder);
            if !weights.iter().all(|key| self.weights.contains(key)) {
                self.weights.split_off(|key| weights.iter().any(|weight| weight == key));
            }
        }
    }

    /// Opens the weights of vision and audio towers, and leaves out those of the text model; see
    /// [`load_towers_from_path`](super::load_towers_from_path).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_towers(path: impl Into<ModelPath>) -> Result<Self> {
        Self::open_part(&path.into(), ReadOptions::default(), tower_weight)
    }

    /// Opens the weights that `key` gives a key, by their names in the files.
    fn open_part(path: &ModelPath, options: ReadOptions, key: fn(&str) -> Option<Cow<'_, str>>) -> Result<Self> {
        let path = resolve(path)?;
        let mut loader = Self { weights: WeightMap::default(), files: Vec::new(), key };
        let mut skipped = Skipped::default();
        if is_index(&path) {
            let index = read_index(&path, &options.limits)?;
            for shard in index.values().collect::<BTreeSet<_>>() {
                loader.add(&path.with_file_name(shard), options, Some((&index, shard)), &mut skipped)?;
            }
        } else {
            loader.add(&path, options, None, &mut skipped)?;
        }
        for (j, dense) in dense_files(&path)? {
            loader.add_dense(j, &dense, options)?;
        }
        loader.complete(&path, &skipped)?;
        Ok(loader)
    }

    /// What is left to do when all files are read, those at `path`.
    fn complete(&mut self, path: &ModelPath, skipped: &Skipped) -> Result<()> {
        self.refuse_quantised(path)?;
        self.weights.embed_by_head();
        if skipped.tensors > 0 {
            tracing::debug!(tensors = skipped.tensors, bytes = skipped.bytes, "left out weights of another part of the model");
        }
        Ok(())
    }

    fn refuse_quantised(&self, path: &ModelPath) -> Result<()> {
        let keys = self.weights.remaining_keys();
        let Some((scheme, key)) = quantised_tensors(keys.iter().map(String::as_str)) else { return Ok(()) };
        let found = format!("the tensor '{key}' in {}", path.display());
        Err(Error::Weight(WeightError::Quantised { scheme: scheme.name.into(), found, nearest: scheme.nearest }))
    }

    /// The files that the weights lie in, shards in the order of their names.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Adds one file. `index` is the weight map and this file's name in it.
    fn add(
        &mut self,
        path: &ModelPath,
        options: ReadOptions,
        index: Option<(&Index, &String)>,
        skipped: &mut Skipped,
    ) -> Result<()> {
        self.add_source(FileSource::open(path)?, options, index, skipped)?;
        self.files.push(path.to_path_buf());
        Ok(())
    }

    /// As [`add`](Self::add), of a file that is open.
    fn add_source(
        &mut self,
        file: FileSource,
        options: ReadOptions,
        index: Option<(&Index, &String)>,
        skipped: &mut Skipped,
    ) -> Result<()> {
        let entries = read_safetensors(&file, &options.limits)?;
        if let Some((index, shard)) = index {
            let present: BTreeSet<&str> = entries.iter().map(|e| e.name.as_str()).collect();
            if let Some((name, _)) = index.iter().find(|(name, at)| *at == shard && !present.contains(name.as_str())) {
                return Err(file.format(format!("tensor '{name}' is not in it, but the index says so")));
            }
        }
        let file = Arc::new(if options.mode == ReadMode::Mapped { file.map()? } else { file });
        for entry in entries {
            // Where shards disagree with the index about a tensor's place, the index decides.
            if index.is_some_and(|(index, shard)| index.get(&entry.name).is_some_and(|at| at != shard)) {
                continue;
            }
            self.add_entry(&file, entry, skipped)?;
        }
        Ok(())
    }

    /// Adds dense module `j`, which has a file of its own.
    fn add_dense(&mut self, j: usize, path: &ModelPath, options: ReadOptions) -> Result<()> {
        let file = FileSource::open(path)?;
        let entries = read_safetensors(&file, &options.limits)?;
        let file = Arc::new(if options.mode == ReadMode::Mapped { file.map()? } else { file });
        for mut entry in entries.into_iter().filter(|entry| entry.name == "linear.weight") {
            entry.name = dense_key(j);
            self.add_entry(&file, entry, &mut Skipped::default())?;
        }
        self.files.push(path.to_path_buf());
        Ok(())
    }

    fn add_entry(&mut self, file: &Arc<FileSource>, entry: SafetensorsEntry, skipped: &mut Skipped) -> Result<()> {
        let Some(key) = (self.key)(&entry.name).map(Cow::into_owned) else {
            skipped.tensors += 1;
            skipped.bytes += entry.bytes;
            return Ok(());
        };
        if self.weights.contains(&key) {
            return Err(file.format(format!("tensor '{}': there is already a weight '{key}'", entry.name)));
        }
        let tensor = if key == TOKEN_ORDER { entry.pairs(&key, file) } else { entry.tensor(&key, file) };
        self.weights.insert_read(&key, tensor);
        Ok(())
    }
}

impl WeightLoader for SafetensorsLoader {
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
        None
    }

    fn stored_head(&self) -> Result<StoredHead> {
        self.weights.stored_head()
    }
}

/// The file that a path means: itself, or in a folder the one file or the index.
fn resolve(path: &ModelPath) -> Result<ModelPath> {
    if !path.is_dir() {
        return Ok(path.clone());
    }
    for name in [SINGLE, INDEX] {
        if path.join(name).is_file() {
            return Ok(path.join(name));
        }
    }
    let mut found = Vec::new();
    let mut gguf: Option<ModelPath> = None;
    for file in path.entries().map_err(|source| Error::Io { path: path.to_path_buf(), source })? {
        if file.has_extension("safetensors") {
            found.push(file);
        } else if is_gguf(&file) && gguf.as_ref().is_none_or(|last| last.as_path() < file.as_path()) {
            gguf = Some(file);
        }
    }
    match (found.pop(), gguf) {
        (Some(only), _) if found.is_empty() => Ok(only),
        (None, Some(gguf)) => {
            let problem = format!("no .safetensors file, but {}; name that file to load it", gguf.display());
            Err(Error::Format { path: path.to_path_buf(), problem })
        }
        (last, _) => {
            let count = found.len() + usize::from(last.is_some());
            let problem = format!("{count} .safetensors files, expected {SINGLE} or {INDEX}; name the file to load");
            Err(Error::Format { path: path.to_path_buf(), problem })
        }
    }
}

/// Tensor names to the shards they lie in.
type Index = BTreeMap<String, String>;

/// The shards that an index names.
#[cfg(feature = "hub")]
pub(crate) fn index_shards(path: &ModelPath) -> Result<BTreeSet<String>> {
    Ok(read_index(path, &FileLimits::default())?.into_values().collect())
}

fn read_index(path: &ModelPath, limits: &FileLimits) -> Result<Index> {
    #[derive(serde::Deserialize)]
    struct File {
        weight_map: Index,
    }
    let source = FileSource::open(path)?;
    let found = source.len();
    let allowed = limits.header_bytes;
    if found > allowed {
        return Err(source.format(format!("{found} bytes are too many for an index (at most {allowed})")));
    }
    let mut text = source.room(source.len())?;
    source.read(0, &mut text)?;
    let text = text_file::without_mark(&text).map_err(|problem| source.format(problem))?;
    let File { weight_map } = serde_json::from_slice(text).map_err(|e| source.format(format!("index: {e}")))?;
    if weight_map.is_empty() {
        return Err(source.format("weight_map names no tensor".into()));
    }
    // A shard is a plain file name: an index must not lead out of its folder.
    for (name, shard) in &weight_map {
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(source.format(format!("tensor '{name}' lies in {shard:?}, expected a file name without a folder")));
        }
    }
    Ok(weight_map)
}

#[cfg(test)]
mod tests;
