//! Files as tensor sources: a memory map or positioned reads.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use super::TensorSource;
use crate::{Error, Result};

/// An open checkpoint file.
pub(super) struct FileSource {
    path: PathBuf,
    /// Length in bytes when it was opened; nothing beyond is ever read.
    len: u64,
    file: File,
    map: Option<Mmap>,
}

impl FileSource {
    /// Opens a regular file. Nothing is mapped yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        // A pipe or device has no length to check against, and opening one may wait forever.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::Format { path: path.to_path_buf(), problem: "not a regular file".into() });
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self { path: path.to_path_buf(), len, file, map: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Maps the file, whose lengths the caller has checked.
    pub(super) fn map(&mut self) -> Result<()> {
        // SAFETY: the map is only ever copied from, as plain bytes. That nobody changes the file meanwhile cannot be enforced;
        // the module documents it and offers positioned reads instead.
        let map = unsafe { Mmap::map(&self.file) }.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        if map.len() as u64 != self.len {
            return Err(self.format("its length changed while it was being opened".into()));
        }
        self.map = Some(map);
        Ok(())
    }

    pub(super) fn format(&self, problem: String) -> Error {
        Error::Format { path: self.path.clone(), problem }
    }
}

impl TensorSource for FileSource {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(self.format(format!("{} bytes at {offset} were asked for, it has {}", out.len(), self.len)));
        };
        match &self.map {
            Some(map) => {
                out.copy_from_slice(&map[offset as usize..end as usize]);
                Ok(())
            }
            None => read_exact_at(&self.file, out, offset).map_err(|source| Error::Io { path: self.path.clone(), source }),
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = &mut out[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
