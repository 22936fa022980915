//! A file while it is being fetched.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Bytes moved at a time.
pub(super) const PORTION: usize = 256 << 10;

/// The beginning of a file, which grows at its end, and the checksum of what is there. Whoever opens it holds the lock
/// of its content.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Option<Sha256>,
}

impl Part {
    /// Opens what an interrupted download has left, or an empty file; with `hashed` reads it once for its checksum.
    pub(super) fn open(path: PathBuf, hashed: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut part = Self { path, file, bytes: 0, hash: hashed.then(Sha256::new) };
        part.bytes = part.file.metadata()?.len();
        if let Some(hash) = &mut part.hash {
            part.file.seek(SeekFrom::Start(0))?;
            let mut buffer = vec![0; PORTION];
            let mut left = part.bytes;
            while left > 0 {
                let count = left.min(PORTION as u64) as usize;
                part.file.read_exact(&mut buffer[..count])?;
                hash.update(&buffer[..count]);
                left -= count as u64;
            }
        }
        Ok(part)
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Throws away what is there.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.bytes = 0;
        self.hash = self.hash.as_ref().map(|_| Sha256::new());
        Ok(())
    }

    /// After an error the part is as good as before for whoever opens it next.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// SHA-256 in hexadecimal of what is there, if it was asked for.
    pub(super) fn sha256(&self) -> Option<String> {
        let digest = self.hash.clone()?.finalize();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Gives the whole file its name, after its bytes have reached the disk: a name must not outlive a power failure
    /// that they do not.
    pub(super) fn finish(self, path: &Path) -> io::Result<()> {
        // Some network file systems grant a lock to everybody. Then another process may have appended too.
        if self.file.metadata()?.len() != self.bytes {
            self.file.set_len(0)?;
            return Err(io::Error::other("another process wrote to it at the same time; it was thrown away, try again"));
        }
        self.file.sync_all()?;
        std::fs::rename(&self.path, path)
    }

    /// Takes the file away.
    pub(super) fn remove(self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}
