//! Files as tensor sources: a memory map, positioned reads, or a file that lies in memory.

use std::{
    fs::{File, Metadata},
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use memmap2::Mmap;

use super::TensorSource;
use crate::{Error, Result, platform};

/// An open checkpoint file, or one in memory.
pub(crate) struct FileSource {
    path: PathBuf,
    /// As it was when it was opened; nothing beyond that length is ever read.
    opened: Stamp,
    bytes: Bytes,
}

/// Where the bytes of a file are.
enum Bytes {
    File(File),
    Mapped { _file: File, map: Mmap },
    Memory(Vec<u8>),
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
        Ok(Self { path: path.to_path_buf(), opened, bytes: Bytes::File(file) })
    }

    /// A file whose bytes are all in memory; `name` is for messages.
    pub(crate) fn in_memory(name: &str, bytes: Vec<u8>) -> Self {
        let opened = Stamp { len: bytes.len() as u64, modified: None };
        Self { path: name.into(), opened, bytes: Bytes::Memory(bytes) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.opened.len
    }

    /// Maps the file, whose lengths the caller has checked. What lies in memory stays there.
    pub(crate) fn map(self) -> Result<Self> {
        let Bytes::File(file) = self.bytes else { return Ok(self) };
        // SAFETY: the map is only ever read, as plain bytes. That nobody changes the file meanwhile cannot be enforced;
        // the module documents it and offers positioned reads instead.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        if map.len() as u64 != self.opened.len {
            let problem = "its length changed while it was being opened".into();
            return Err(Error::Format { path: self.path, problem });
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
        Error::Format { path: self.path.clone(), problem }
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
        let metadata = file.metadata().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        match Stamp::of(&metadata) {
            now if now == self.opened => Ok(()),
            now => Err(Error::FileChanged { path: self.path.clone(), opened: self.opened.len, found: now.len }),
        }
    }
}

impl TensorSource for FileSource {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = self.range(offset, out.len())?;
        match &self.bytes {
            Bytes::Mapped { map, .. } => out.copy_from_slice(&map[range]),
            Bytes::Memory(bytes) => out.copy_from_slice(&bytes[range]),
            Bytes::File(file) => {
                let read = platform::read_exact_at(file, out, offset);
                // A file that was cut ends early: the change says more than the end.
                self.check_unchanged(file)?;
                read.map_err(|source| Error::Io { path: self.path.clone(), source })?;
            }
        }
        Ok(())
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        let range = self.range(offset, len)?;
        Ok(match &self.bytes {
            Bytes::File(_) => None,
            Bytes::Mapped { map, .. } => Some(&map[range]),
            Bytes::Memory(bytes) => Some(&bytes[range]),
        })
    }
}

/// A number of bytes in memory, of which there may be `most`.
pub(crate) fn addressed(bytes: u64, most: u64) -> Option<usize> {
    usize::try_from(bytes).ok().filter(|_| bytes <= most)
}

#[cfg(test)]
mod tests;
