//! Where a model's files are: in the file system, or wherever an application has them.
//!
//! A function that takes a [`ModelPath`] takes a path of the file system too: a text, a `&Path`, a `PathBuf`. [`Files`]
//! stand for a folder where there is no file system, as in a browser, or where an application packs its own: an
//! archive, an encrypted asset, a program's own bytes. All that looks for files beside a model finds them there:
//! configurations, tokenizers, shards, projectors, profiles.
//!
//! ```
//! # fn main() -> gemmaflow::Result<()> {
//! use gemmaflow::{GemmaConfig, files::Files};
//!
//! let json = br#"{"model_type": "gemma", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}"#;
//! let files = Files::new().with("config.json", json.to_vec());
//! assert_eq!(GemmaConfig::near_weights(files.at(""))?.hidden_size, 64);
//! # Ok(())
//! # }
//! ```

mod model_path;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

pub use model_path::ModelPath;
pub(crate) use model_path::Opened;

/// A file with random access: what [`Files`] hold.
///
/// Its bytes must stay the same as long as anybody holds it. Reads are synchronous and may take as long as they need. In
/// a browser they run in a worker, which has `FileReaderSync` and its like.
pub trait ReadAt: Send + Sync {
    /// Bytes that it has.
    fn len(&self) -> u64;

    /// True if it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on, which it has.
    ///
    /// # Errors
    /// Whatever keeps it from that; the reader is told, and may try again.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// All its bytes, where they lie in memory: they are not copied then.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let begin = usize::try_from(offset).ok();
        let found = begin.and_then(|begin| self.get(begin..)?.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// Files by their paths, relative to one folder.
#[derive(Clone, Default)]
pub struct Files(BTreeMap<PathBuf, Arc<dyn ReadAt>>);

impl Files {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more, in the place of one with the same path.
    pub fn with(mut self, path: impl Into<PathBuf>, file: impl ReadAt + 'static) -> Self {
        self.0.insert(plain(&path.into()), Arc::new(file));
        self
    }

    /// A file or folder among them, for whatever takes a [`ModelPath`]; `""` is the folder of all.
    pub fn at(self, path: impl Into<PathBuf>) -> ModelPath {
        ModelPath::among(Arc::new(self), plain(&path.into()))
    }

    fn get(&self, path: &Path) -> io::Result<&Arc<dyn ReadAt>> {
        self.0.get(path).ok_or_else(|| {
            let there: Vec<_> = self.0.keys().take(8).map(|path| path.display().to_string()).collect();
            let more = if self.0.len() > there.len() { ", …" } else { "" };
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("not among the {} files given ({}{more})", self.0.len(), there.join(", ")),
            )
        })
    }

    /// The files and folders that lie in `folder` itself.
    fn entries(&self, folder: &Path) -> Vec<PathBuf> {
        let below = self.0.keys().filter_map(|path| path.strip_prefix(folder).ok()?.components().next());
        let mut entries: Vec<PathBuf> = below.map(|first| folder.join(first)).collect();
        entries.dedup();
        entries
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0.keys().any(|file| file.starts_with(path) && file != path)
    }
}

/// The path without components that lead nowhere.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(path, file)| (path, file.len()))).finish()
    }
}
