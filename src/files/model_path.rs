//! A path, and the files that it leads to.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Files, ReadAt};
use crate::platform;

/// The path of a file or folder: of the file system, or among [`Files`].
#[derive(Clone)]
pub struct ModelPath {
    path: PathBuf,
    /// `None` for the file system.
    files: Option<Arc<Files>>,
}

/// A file that was opened.
pub(crate) enum Opened {
    File(File),
    Given(Arc<dyn ReadAt>),
}

impl ModelPath {
    pub(super) fn among(files: Arc<Files>, path: PathBuf) -> Self {
        Self { path, files: Some(files) }
    }

    /// The path alone.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn to_path_buf(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Another path of the same files.
    fn beside(&self, path: PathBuf) -> Self {
        Self { path, files: self.files.clone() }
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> Self {
        self.beside(self.path.join(path))
    }

    pub(crate) fn with_file_name(&self, name: impl AsRef<OsStr>) -> Self {
        self.beside(self.path.with_file_name(name))
    }

    pub(crate) fn file_name(&self) -> Option<&str> {
        self.path.file_name()?.to_str()
    }

    /// True if its last component ends in a dot and `extension`, in letters of any case.
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension))
    }

    /// The folder that it is; of a file, that which it lies in.
    pub(crate) fn folder(&self) -> Self {
        if self.is_dir() { self.clone() } else { self.beside(self.path.parent().unwrap_or(Path::new("")).to_path_buf()) }
    }

    pub(crate) fn is_file(&self) -> bool {
        match &self.files {
            Some(files) => files.get(&self.path).is_ok(),
            None => self.path.is_file(),
        }
    }

    /// True if there is anything at the path.
    ///
    /// # Errors
    /// The system's, where it cannot say.
    pub(crate) fn try_exists(&self) -> io::Result<bool> {
        match &self.files {
            Some(_) => Ok(self.is_file() || self.is_dir()),
            None => platform::check_files().and_then(|()| self.path.try_exists()),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        match &self.files {
            Some(files) => files.is_dir(&self.path),
            None => self.path.is_dir(),
        }
    }

    /// What lies in this folder.
    ///
    /// # Errors
    /// The system's, for what is not a folder or cannot be listed.
    pub(crate) fn entries(&self) -> io::Result<Vec<Self>> {
        if let Some(files) = &self.files {
            return Ok(files.entries(&self.path).into_iter().map(|path| self.beside(path)).collect());
        }
        platform::check_files()?;
        let here = if self.path == Path::new("") { Path::new(".") } else { &self.path };
        fs::read_dir(here)?.map(|entry| Ok(self.beside(entry?.path()))).collect()
    }

    /// Opens a regular file; `None` for a pipe or device, which has no length, and opening which may wait forever.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(&self) -> io::Result<Option<Opened>> {
        if let Some(files) = &self.files {
            return Ok(Some(Opened::Given(files.get(&self.path)?.clone())));
        }
        platform::check_files()?;
        if !fs::metadata(&self.path)?.is_file() {
            return Ok(None);
        }
        Ok(Some(Opened::File(File::open(&self.path)?)))
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn len(&self) -> io::Result<u64> {
        if let Some(files) = &self.files {
            return Ok(files.get(&self.path)?.len());
        }
        platform::check_files()?;
        Ok(fs::metadata(&self.path)?.len())
    }

    /// All bytes of the file.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.files {
            Some(files) => first_of(&**files.get(&self.path)?, usize::MAX),
            None => platform::check_files().and_then(|()| fs::read(&self.path)),
        }
    }

    /// The first bytes of a regular file, `most` or as many as there are.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn first_bytes(&self, most: usize) -> io::Result<Option<Vec<u8>>> {
        match self.open()? {
            None => Ok(None),
            Some(Opened::Given(file)) => first_of(&*file, most).map(Some),
            Some(Opened::File(file)) => {
                let mut bytes = Vec::with_capacity(most);
                io::Read::read_to_end(&mut io::Read::take(file, most as u64), &mut bytes)?;
                Ok(Some(bytes))
            }
        }
    }
}

/// The first bytes of `file`, `most` or as many as there are.
fn first_of(file: &dyn ReadAt, most: usize) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()).unwrap_or(usize::MAX).min(most);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(len, 0);
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelPath {
    fn from(path: &P) -> Self {
        Self { path: path.as_ref().to_path_buf(), files: None }
    }
}

impl From<PathBuf> for ModelPath {
    fn from(path: PathBuf) -> Self {
        Self { path, files: None }
    }
}

impl From<String> for ModelPath {
    fn from(path: String) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<&ModelPath> for ModelPath {
    fn from(path: &ModelPath) -> Self {
        path.clone()
    }
}

impl fmt::Debug for ModelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}
