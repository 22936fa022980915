//! Locks between processes: the files of Hugging Face's own libraries, so that theirs and ours wait for each other.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// Between two looks at a lock that another process holds.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a process that holds a lock may do nothing before it is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// None on file systems that know no locks.
    _file: Option<File>,
}

impl Lock {
    /// Waits for the lock at `path`. While another process holds it, `on_wait` says how far that has come, and may end
    /// the wait.
    ///
    /// # Errors
    /// [`Error::Io`]; what `on_wait` says. `None` where the holder has not come further for two minutes.
    pub(super) fn take(path: &Path, mut on_wait: impl FnMut() -> Result<u64>) -> Result<Option<Self>> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        fs::create_dir_all(path.parent().unwrap_or(path)).map_err(io)?;
        let mut moved: Option<(u64, Instant)> = None;
        loop {
            if let Some(lock) = Self::try_take(path).map_err(io)? {
                return Ok(Some(lock));
            }
            let reached = on_wait()?;
            match moved {
                Some((before, since)) if before == reached && since.elapsed() > PATIENCE => return Ok(None),
                Some((before, _)) if before == reached => {}
                _ => moved = Some((reached, Instant::now())),
            }
            sleep(PAUSE);
        }
    }

    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        match file.try_lock() {
            // Whoever held it may have deleted the file since it was opened.
            Ok(()) => Ok(is_at(&file, path).then_some(Self { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Some(Self { _file: None })),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().map(id).ok() == path.metadata().map(id).ok()
}

/// Elsewhere an open file cannot be deleted.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// The lock of `name` in a cache's folder of locks for a repository's folder.
pub(super) fn path(cache: &Path, folder: &Path, name: &str) -> PathBuf {
    cache.join(".locks").join(folder.file_name().unwrap_or_default()).join(format!("{name}.lock"))
}
