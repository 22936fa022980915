//! Files as tensor sources: a memory map, positioned reads, or what an application serves.

use std::{
    fs::{File, Metadata},
    ops::Range,
    sync::Arc,
    time::SystemTime,
};

use memmap2::Mmap;

use super::TensorSource;
use crate::{
    Error, Result,
    files::{ModelPath, Opened, ReadAt},
    platform,
};

/// An open checkpoint file.
pub(crate) struct FileSource {
    path: ModelPath,
    /// As it was when it was opened; nothing beyond that length is ever read.
    opened: Stamp,
    bytes: Bytes,
}

/// Where the bytes of a file are.
enum Bytes {
    File(File),
    Mapped { _file: File, map: Mmap },
    Given(Arc<dyn ReadAt>),
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
    pub(crate) fn open(path: &ModelPath) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let (opened, bytes) = match path.open().map_err(io)? {
            Some(Opened::File(file)) => (Stamp::of(&file.metadata().map_err(io)?), Bytes::File(file)),
            Some(Opened::Given(file)) => (Stamp { len: file.len(), modified: None }, Bytes::Given(file)),
            // It has no length to check against.
            None => return Err(Error::Format { path: path.to_path_buf(), problem: "not a regular file".into() }),
        };
        Ok(Self { path: path.clone(), opened, bytes })
    }

    pub(crate) fn path(&self) -> &ModelPath {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.opened.len
    }

    /// Maps the file, whose lengths the caller has checked. What an application serves is read as before.
    pub(crate) fn map(self) -> Result<Self> {
        let Bytes::File(file) = self.bytes else { return Ok(self) };
        // SAFETY: the map is only ever read, as plain bytes. That nobody changes the file meanwhile cannot be enforced;
        // the module documents it and offers positioned reads instead.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::Io { path: self.path.to_path_buf(), source })?;
        if map.len() as u64 != self.opened.len {
            let problem = "its length changed while it was being opened".into();
            return Err(Error::Format { path: self.path.to_path_buf(), problem });
        }
        Ok(Self { bytes: Bytes::Mapped { _file: file, map }, ..self })
    }

    /// Room for so many of its bytes.
    ///
    /// # Errors
    /// [`Error::Format`] for more than memory addresses.
    pub(crate) fn room(&self, bytes: u64) -> Result<Vec<u8>> {
        match addressed(bytes, isize::MAX as u64) {
            Some(bytes) => Ok(vec![0; bytes]),
            None => Err(self.format(format!("{bytes} bytes at once are more than {} bits address", usize::BITS))),
        }
    }

    pub(crate) fn format(&self, problem: String) -> Error {
        Error::Format { path: self.path.to_path_buf(), problem }
    }
}

impl FileSource {
    /// The place of `len` bytes at `offset`, which it must have. Only of what lies in memory is it one of addresses.
    fn range(&self, offset: u64, len: usize) -> Result<Range<usize>> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.opened.len => Ok(offset as usize..end as usize),
            _ => Err(self.format(format!("{len} bytes at {offset} were asked for, it has {}", self.opened.len))),
        }
    }

    /// Fails where the file is no longer as it was opened. Asked after bytes were read, it says that they are those of
    /// the file as it was.
    fn check_unchanged(&self, file: &File) -> Result<()> {
        let metadata = file.metadata().map_err(|source| Error::Io { path: self.path.to_path_buf(), source })?;
        match Stamp::of(&metadata) {
            now if now == self.opened => Ok(()),
            now => Err(Error::FileChanged { path: self.path.to_path_buf(), opened: self.opened.len, found: now.len }),
        }
    }
}

impl TensorSource for FileSource {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = self.range(offset, out.len())?;
        match &self.bytes {
            Bytes::Mapped { map, .. } => out.copy_from_slice(&map[range]),
            Bytes::Given(file) => match file.bytes().and_then(|bytes| bytes.get(range)) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => file.read_exact_at(offset, out).map_err(|source| Error::Io { path: self.path.to_path_buf(), source })?,
            },
            Bytes::File(file) => {
                let read = platform::read_exact_at(file, out, offset);
                // A file that was cut ends early: the change says more than the end.
                self.check_unchanged(file)?;
                read.map_err(|source| Error::Io { path: self.path.to_path_buf(), source })?;
            }
        }
        Ok(())
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        let range = self.range(offset, len)?;
        Ok(match &self.bytes {
            Bytes::File(_) => None,
            Bytes::Mapped { map, .. } => Some(&map[range]),
            Bytes::Given(file) => file.bytes().and_then(|bytes| bytes.get(range)),
        })
    }
}

/// A number of bytes in memory, of which there may be `most`.
pub(crate) fn addressed(bytes: u64, most: u64) -> Option<usize> {
    usize::try_from(bytes).ok().filter(|_| bytes <= most)
}

#[cfg(test)]
mod tests;
