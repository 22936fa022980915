//! A history and its cached rows as bytes, to go on later or elsewhere.
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFHR` |
//! | 4 | version, 1, little-endian as all that follows |
//! | 8 | the model's fingerprint |
//! | 8 | hash of the rows' layout: names and sizes of the caches, tokens of the longest run |
//! | 8 · 4 | tokens; rows cached; the oldest row in the rings; rows that runs of a square wrote |
//! | 4 a token | the history |
//! | … | the cached rows of each cache, rings whole, in the order of their names |
//! | 8 | FNV-1a (64 bits) of all before |

use std::io::{Read, Write};

use super::GemmaGenerator;
use crate::{Error, Result, checksum::Fnv};

const MAGIC: &[u8; 8] = b"GEMMAFHR";
const VERSION: u32 = 1;
const HEADER: usize = 60;

impl GemmaGenerator {
    /// A number that another model does not have, up to accidents: of the configuration, the weights' names, types and shapes, and samples
    /// of their bytes.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn fingerprint(&self) -> Result<u64> {
        self.engine.model().fingerprint()
    }

    /// Writes the history with its cached rows: 4 bytes a token, and the bytes of its rows.
    ///
    /// # Errors
    /// [`Error::Saved`] where the writer fails, and what the device says; the generator stays as it was.
    pub fn save(&mut self, writer: impl Write) -> Result<()> {
        self.stop_ahead();
        let mut out = Sealing { writer, sum: Fnv::new() };
        let (cached, tokens) = (self.history.cached(), self.history.tokens());
        out.put(MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        let numbers = [tokens.len(), cached, self.history.floor(), self.history.filled()].map(|n| n as u64);
        for number in [self.fingerprint()?, self.row_layout()?].into_iter().chain(numbers) {
            out.put(&number.to_le_bytes())?;
        }
        out.put(bytemuck::cast_slice(&tokens.iter().map(|token| token.to_le()).collect::<Vec<_>>()))?;
        if cached > 0 {
            self.engine.read_caches(cached, &mut |_, bytes| out.put(bytes))?;
        }
        let sum = out.sum.value();
        out.put(&sum.to_le_bytes())?;
        out.writer.flush().map_err(unwritten)
    }

    /// Takes the history that [`save`](Self::save) wrote, and its rows, if they are of this generator's layout (type of keys and values,
    /// prefill chunk); if not they are computed again when they are needed. All is read and checked before anything changes; the host
    /// holds as many bytes as were written.
    ///
    /// # Errors
    /// [`Error::Saved`] for the history of another model, bytes that are cut or corrupt or that no release wrote, and where the reader
    /// fails; as [`prefill`](Self::prefill); [`Error::OutOfMemory`], after which the history is there and has no rows.
    pub fn restore(&mut self, reader: impl Read) -> Result<()> {
        let layout = self.engine.model().caches(self.engine.profiles().kv())?;
        let row: usize = layout.values().map(|row| row.bytes).sum();
        let rows = self.capacity.saturating_add(self.engine.model().ring(self.engine.largest_chunk())?);
        let most = HEADER.saturating_add(8).saturating_add(rows.saturating_mul(row.saturating_add(4)));
        let mut bytes = Vec::new();
        reader.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| saved(format!("cannot be read: {error}")))?;
        let saved = Saved::parse(&bytes)?;
        if saved.fingerprint != self.fingerprint()? {
            return Err(self::saved("is of another model: load the one that it was saved with".into()));
        }
        match saved.tokens.is_empty() {
            true => self.clear(),
            false => self.prefill(&saved.tokens)?,
        }
        self.history.rewind(0);
        self.marks = self.marks.fresh();
        if saved.layout != self.row_layout()? || saved.cached == 0 {
            return Ok(());
        }
        let mut rest = saved.rows;
        self.engine.write_caches(saved.cached, &mut |name, out| {
            let (own, others) =
                rest.split_at_checked(out.len()).ok_or_else(|| self::saved(format!("has too few rows of '{name}'")))?;
            out.copy_from_slice(own);
            rest = others;
            Ok(())
        })?;
        self.history.put_back(saved.cached, saved.floor, saved.filled);
        Ok(())
    }

    /// A number that rows of another layout do not have.
    fn row_layout(&self) -> Result<u64> {
        let caches = self.engine.model().caches(self.engine.profiles().kv())?;
        let (profiles, chunk, grid) = (self.engine.profiles(), self.engine.largest_chunk(), self.history.on_grid());
        let text = format!("{caches:?} {:?} {:?} {chunk} {grid}", profiles.prefill(), profiles.decode());
        Ok(Fnv::of(text.as_bytes()))
    }
}

fn saved(problem: String) -> Error {
    Error::Saved(problem)
}

fn unwritten(error: std::io::Error) -> Error {
    saved(format!("cannot be written: {error}"))
}

/// A writer that sums what goes through it.
struct Sealing<W> {
    writer: W,
    sum: Fnv,
}

impl<W: Write> Sealing<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.add(bytes);
        self.writer.write_all(bytes).map_err(unwritten)
    }
}

/// What was written, its sum and its numbers checked.
struct Saved<'a> {
    fingerprint: u64,
    layout: u64,
    cached: usize,
    floor: usize,
    filled: usize,
    tokens: Vec<u32>,
    rows: &'a [u8],
}

impl<'a> Saved<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let cut = || saved(format!("has {} bytes, which are too few, or too many for this context: cut?", bytes.len()));
        let (body, sum) = bytes.split_last_chunk::<8>().filter(|(body, _)| body.len() >= HEADER).ok_or_else(cut)?;
        if &body[..8] != MAGIC {
            return Err(saved("does not begin as save() begins it: another file?".into()));
        }
        let word = |at: usize| body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let version = word(8) as u32;
        if version != VERSION {
            return Err(saved(format!("has version {version}, this release reads {VERSION}")));
        }
        if Fnv::of(body) != u64::from_le_bytes(*sum) {
            return Err(saved("has a wrong checksum: cut or corrupt".into()));
        }
        let number = |index: usize| usize::try_from(word(28 + 8 * index)).unwrap_or(usize::MAX);
        let [count, cached, floor, filled] = [0, 1, 2, 3].map(number);
        let (tokens, rows) = count.checked_mul(4).and_then(|len| body[HEADER..].split_at_checked(len)).ok_or_else(cut)?;
        if cached > count || floor > cached || filled > cached {
            return Err(saved(format!("has {cached} rows from {floor} on, {filled} in squares, for {count} tokens")));
        }
        let tokens = tokens.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        Ok(Self { fingerprint: word(12), layout: word(20), cached, floor, filled, tokens, rows })
    }
}
