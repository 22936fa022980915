//! Files as tensor sources: a memory map or positioned reads.

use std::{
    fs::{File, Metadata},
    path::{Path, PathBuf},
    time::SystemTime,
};

use memmap2::Mmap;

use super::TensorSource;
use crate::{Error, Result, platform};

/// An open checkpoint file.
pub(crate) struct FileSource {
    path: PathBuf,
    /// As it was when it was opened; nothing beyond that length is ever read.
    opened: Stamp,
    file: File,
    map: Option<Mmap>,
}

/// The facts by which a changed file is noticed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    /// Bytes.
    len: u64,
    /// Where the file system knows it.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl FileSource {
    /// Opens a regular file. Nothing is mapped yet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        platform::check_files().map_err(io)?;
        // A pipe or device has no length to check against, and opening one may wait forever.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::Format { path: path.to_path_buf(), problem: "not a regular file".into() });
        }
        let file = File::open(path).map_err(io)?;
        let opened = Stamp::of(&file.metadata().map_err(io)?);
        Ok(Self { path: path.to_path_buf(), opened, file, map: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.opened.len
    }

    /// Maps the file, whose lengths the caller has checked.
    pub(crate) fn map(&mut self) -> Result<()> {
        // SAFETY: the map is only ever read, as plain bytes. That nobody changes the file meanwhile cannot be enforced;
        // the module documents it and offers positioned reads instead.
        let map = unsafe { Mmap::map(&self.file) }.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        if map.len() as u64 != self.opened.len {
            return Err(self.format("its length changed while it was being opened".into()));
        }
        self.map = Some(map);
        Ok(())
    }

    pub(crate) fn format(&self, problem: String) -> Error {
        Error::Format { path: self.path.clone(), problem }
    }
}

impl FileSource {
    /// Fails where the file is no longer as it was opened. Asked after bytes were read, it says that they are those of
    /// the file as it was.
    fn check_unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        match Stamp::of(&metadata) {
            now if now == self.opened => Ok(()),
            now => Err(Error::FileChanged { path: self.path.clone(), opened: self.opened.len, found: now.len }),
        }
    }
}

impl TensorSource for FileSource {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if let Some(bytes) = self.lend(offset, out.len())? {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        let read = platform::read_exact_at(&self.file, out, offset);
        // A file that was cut ends early: the change says more than the end.
        self.check_unchanged()?;
        read.map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.opened.len);
        match (end, &self.map) {
            (None, _) => Err(self.format(format!("{len} bytes at {offset} were asked for, it has {}", self.opened.len))),
            (Some(end), Some(map)) => Ok(Some(&map[offset as usize..end as usize])),
            (Some(_), None) => Ok(None),
        }
    }
}
