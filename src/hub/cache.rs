//! One repository's folder in the cache, in the layout that `hf-hub` defines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use hf_hub::{Cache, CacheRepo, Repo};

use crate::{Error, Result};

/// A repository in the cache.
pub(super) struct Store {
    repository: String,
    cache: PathBuf,
    layout: CacheRepo,
}

impl Store {
    /// Nothing is made on disk.
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        let layout = Cache::new(cache.to_path_buf()).repo(Repo::model(repository.to_string()));
        Self { repository: repository.to_string(), cache: cache.to_path_buf(), layout }
    }

    /// A file of the commit that was complete last.
    pub(super) fn find(&self, file: &str) -> Option<PathBuf> {
        self.layout.get(file)
    }

    pub(super) fn absent(&self, file: &str) -> Error {
        Error::HubOffline { model: self.repository.clone(), file: file.to_string(), cache: self.cache.clone() }
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// The folder of contents, made if it is not there.
    pub(super) fn blobs(&self) -> Result<PathBuf> {
        // Beside the folder that holds the snapshots.
        let mut folder = self.snapshot("");
        folder.pop();
        folder.push("blobs");
        fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        Ok(folder)
    }

    /// Makes `file` of a commit show the content at `blob`.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let io = |source| Error::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(io)?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(io)?;
        }
        // From `snapshots/COMMIT/` up, and from each folder of the repository.
        let up: PathBuf = std::iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        link(&target, &path).or_else(|_| fs::rename(blob, &path)).map_err(io)
    }

    /// Makes `commit`, of which `file` is one and all are there, the one that is found offline.
    pub(super) fn point_to(&self, commit: &str, file: &str) -> Result<()> {
        if self.find(file) == Some(self.snapshot(commit).join(file)) {
            return Ok(());
        }
        self.layout.create_ref(commit).map_err(|source| Error::Io { path: self.cache.clone(), source })
    }
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Windows lets only some users make links; the content then lies in the snapshot itself.
#[cfg(windows)]
fn link(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
