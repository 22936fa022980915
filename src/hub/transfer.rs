//! From the hub into the cache.

use std::{
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use super::{
    DownloadProgress, OnDownload,
    cache::Store,
    client::{Client, Listing, Remote},
    lock::Lock,
    part::{PORTION, Part},
};
use crate::{Error, Result};

/// Fetches files of one commit.
pub(super) struct Transfer<'a> {
    client: &'a Client,
    store: &'a Store,
    listing: &'a Listing,
    progress: DownloadProgress,
    on_progress: Option<OnDownload>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(client: &'a Client, store: &'a Store, listing: &'a Listing, on_progress: Option<OnDownload>) -> Self {
        Self { client, store, listing, progress: DownloadProgress { done: 0, total: 0 }, on_progress }
    }

    /// Brings those of `files` into the cache that are not there. All of them are looked up before the first is
    /// fetched.
    pub(super) fn fetch(&mut self, files: &[String]) -> Result<()> {
        let commit = &self.listing.commit;
        let folder = self.store.snapshot(commit);
        let mut missing = Vec::new();
        for file in files.iter().filter(|file| !folder.join(file).is_file()) {
            if !self.listing.has(file) {
                return Err(self.client.no_file(file));
            }
            self.advance(0)?;
            missing.push(self.client.describe(commit, file)?);
        }
        self.progress.total = missing.iter().fold(self.progress.total, |total, remote| total.saturating_add(remote.bytes));
        for remote in &missing {
            self.advance(0)?;
            let _lock = self.lock(remote)?;
            let blob = self.content(remote)?;
            self.store.link(commit, &remote.name, &blob)?;
        }
        Ok(())
    }

    /// The right to write a file's content; waits for another process that fetches the same one.
    fn lock(&mut self, remote: &Remote) -> Result<Lock> {
        let store = self.store;
        let client = self.client;
        let mut told = false;
        let lock = store.lock(&remote.etag, || {
            if !told {
                tracing::warn!("another process is fetching {}; waiting until it has come", remote.name);
                told = true;
            }
            self.advance(0)?;
            Ok(store.bytes_of(&remote.etag))
        })?;
        lock.ok_or_else(|| client.failure(&remote.name, "another process is fetching it, but nothing has come for two minutes"))
    }

    /// The content of a file, fetched if it is not in the cache under this or another name. Its lock is held.
    fn content(&mut self, remote: &Remote) -> Result<PathBuf> {
        let path = self.store.blobs()?.join(&remote.etag);
        let is_there = || path.metadata().is_ok_and(|found| found.is_file() && found.len() == remote.bytes);
        if is_there() {
            self.advance(remote.bytes)?;
            return Ok(path);
        }
        let part_path = path.with_file_name(format!("{}.part", remote.etag));
        let io = |source: io::Error| Error::Io { path: part_path.clone(), source };
        let mut part = Part::open(part_path.clone(), remote.sha256.is_some()).map_err(io)?;
        if part.bytes() > remote.bytes {
            part.clear().map_err(io)?;
        }
        self.advance(part.bytes())?;
        self.fill(&mut part, remote, &part_path)?;
        match (part.sha256(), &remote.sha256) {
            (Some(found), Some(expected)) if found != *expected => {
                part.remove().map_err(io)?;
                let problem = format!("its SHA-256 is {found}, the hub says {expected}; it was thrown away");
                return Err(self.client.failure(&remote.name, problem));
            }
            _ => part.finish(&path).map_err(io)?,
        }
        Ok(path)
    }

    /// Fetches what is missing of a part. A connection that breaks is made again as long as each brings something.
    fn fill(&mut self, part: &mut Part, remote: &Remote, path: &Path) -> Result<()> {
        let mut buffer = vec![0; PORTION];
        while part.bytes() < remote.bytes {
            let before = part.bytes();
            let (body, from_there) = self.client.bytes(&self.listing.commit, remote, before)?;
            if !from_there && before > 0 {
                // The server sends the file from its beginning.
                part.clear().map_err(|error| self.disk(error, remote, 0, path))?;
                self.progress.done -= before;
            }
            let mut reader = body.into_reader().take(remote.bytes - part.bytes());
            let ended = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break "the connection ended early".to_string(),
                    Ok(count) => {
                        let left = remote.bytes - part.bytes();
                        part.append(&buffer[..count]).map_err(|error| self.disk(error, remote, left, path))?;
                        self.advance(count as u64)?;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => break error.to_string(),
                }
            };
            if part.bytes() <= before && part.bytes() < remote.bytes {
                let problem = format!("{ended} after {} of {} bytes", part.bytes(), remote.bytes);
                return Err(self.client.failure(&remote.name, problem));
            }
        }
        Ok(())
    }

    /// An error of the disk, of which `left` bytes were still to be written.
    fn disk(&self, error: io::Error, remote: &Remote, left: u64, path: &Path) -> Error {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let problem = format!("no space left for {}, {left} bytes are missing: make room", path.display());
                self.client.failure(&remote.name, problem)
            }
            _ => Error::Io { path: path.to_path_buf(), source: error },
        }
    }

    /// Counts bytes that are there, and asks whether to go on.
    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.progress.done += bytes;
        if self.on_progress.as_mut().is_none_or(|go_on| go_on(self.progress)) {
            Ok(())
        } else {
            Err(Error::Cancelled("the download"))
        }
    }
}
