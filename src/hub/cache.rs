//! One repository's folder in the cache, in the layout of Hugging Face's own libraries.

use std::{
    fs, io, iter,
    path::{Path, PathBuf},
};

use super::{
    lock::{self, Lock},
    name::is_commit,
};
use crate::{Error, Result, error::HubError};

/// A repository in the cache.
pub(super) struct Store {
    repository: String,
    cache: PathBuf,
    /// `models--OWNER--NAME`, with `blobs`, `refs` and `snapshots`.
    folder: PathBuf,
}

impl Store {
    /// Nothing is made on disk.
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        let folder = cache.join(format!("models--{}", repository.replace('/', "--")));
        Self { repository: repository.to_string(), cache: cache.to_path_buf(), folder }
    }

    /// A file of the commit that was complete last.
    pub(super) fn find(&self, file: &str) -> Option<PathBuf> {
        let path = self.last()?.join(file);
        path.exists().then_some(path)
    }

    /// The files of that commit in the folder of `file` and those above it, as paths in the repository.
    pub(super) fn files_towards(&self, file: &str) -> Vec<String> {
        let Some(snapshot) = self.last() else { return Vec::new() };
        let mut found = Vec::new();
        for end in iter::once(0).chain(file.match_indices('/').map(|(at, _)| at + 1)) {
            let folder = &file[..end];
            let entries = snapshot.join(folder).read_dir().into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name());
            found.extend(names.filter_map(|name| Some(format!("{folder}{}", name.to_str()?))));
        }
        found
    }

    /// The folder of the commit that was complete last.
    fn last(&self) -> Option<PathBuf> {
        let named = fs::read_to_string(self.main()).ok()?;
        let commit = named.trim_end();
        // Whatever else stands there must not lead out of the folder.
        is_commit(commit).then(|| self.snapshot(commit))
    }

    pub(super) fn absent(&self, file: &str) -> Error {
        Error::Hub(HubError::Offline { model: self.repository.clone(), file: file.to_string(), cache: self.cache.clone() })
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The file that names the commit that was complete last.
    fn main(&self) -> PathBuf {
        self.folder.join("refs").join("main")
    }

    /// The folder of contents, made if it is not there.
    pub(super) fn blobs(&self) -> Result<PathBuf> {
        let folder = self.folder.join("blobs");
        fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        Ok(folder)
    }

    /// Waits for the right to write the content with this ETag; see [`Lock::take`].
    pub(super) fn lock(&self, etag: &str, on_wait: impl FnMut() -> Result<u64>) -> Result<Option<Lock>> {
        Lock::take(&lock::path(&self.cache, &self.folder, etag), on_wait)
    }

    /// Bytes that are on disk of the content with this ETag, whoever fetches them.
    pub(super) fn bytes_of(&self, etag: &str) -> u64 {
        let Ok(entries) = self.folder.join("blobs").read_dir() else { return 0 };
        let of_it = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(etag));
        of_it.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
    }

    /// Makes `file` of a commit show the content at `blob`, whose lock is held.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let io = |source| Error::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(io)?;
        let name = blob.file_name().unwrap_or_default();
        // From `snapshots/COMMIT/` up, and from each folder of the repository.
        let up: PathBuf = iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        // Others may read the snapshot at any time: it has the old link or the new one.
        let beside = path.with_file_name(format!(".{}.link", name.to_string_lossy()));
        remove(&beside).map_err(io)?;
        link(&up.join("blobs").join(name), &beside).or_else(|_| fs::rename(blob, &beside)).map_err(io)?;
        fs::rename(&beside, &path).map_err(io)
    }

    /// Makes `commit`, of which `file` is one and all are there, the one that is found offline.
    pub(super) fn point_to(&self, commit: &str, file: &str) -> Result<()> {
        if self.find(file) == Some(self.snapshot(commit).join(file)) {
            return Ok(());
        }
        let path = self.main();
        let io = |source| Error::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(io)?;
        // Nobody reads half a name, and of two who write the same one both succeed.
        let _lock = self.lock("refs-main", || Ok(0))?;
        let beside = path.with_file_name(".main.part");
        fs::write(&beside, commit).map_err(io)?;
        fs::rename(&beside, &path).map_err(io)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Windows lets only some users make links; the content then lies in the snapshot itself.
#[cfg(windows)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
