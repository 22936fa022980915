//! A history and its cached rows as bytes, to go on later or elsewhere.
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFHR` |
//! | 4 | version, 1, or 2 with soft tokens, little-endian as all that follows |
//! | 8 | the model's fingerprint |
//! | 8 | hash of the rows' layout: names and sizes of the caches, tokens of the longest run, how it is compiled |
//! | 8 · 5 | tokens; rows cached; the oldest row in the rings; rows that runs of a square wrote; bytes of the cached rows |
//! | 4 a token | the history |
//! | 8, … | version 2: bytes of the soft tokens, and those of each picture and clip ([`soft`]) |
//! | … | the cached rows of each cache, rings whole, in the order of their names |
//! | 8 | FNV-1a (64 bits) of all before |

use std::io::{ErrorKind, Read, Write};

mod soft;

use super::GemmaGenerator;
use crate::{Error, Result, checksum::Fnv, platform, runtime::Wait};

const MAGIC: &[u8; 8] = b"GEMMAFHR";
const TEXT: u32 = 1;
const WITH_SOFT_TOKENS: u32 = 2;
const HEADER: usize = 68;

impl GemmaGenerator {
    /// A number that another model does not have, up to accidents: of what the configuration says of the values that it
    /// computes, the weights' names, types and shapes, and samples of their bytes. The same in every release.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn fingerprint(&self) -> Result<u64> {
        self.engine.model().fingerprint()
    }

    /// Writes the history with its cached rows: 4 bytes a token, the rows of soft tokens, and the bytes of its rows.
    ///
    /// # Errors
    /// [`Error::Saved`] where the writer fails, and what the device says; the generator stays as it was.
    pub fn save(&mut self, mut writer: impl Write) -> Result<()> {
        self.save_blocking(&mut writer)
    }

    /// Not generic, so that it is compiled with this crate and not again with each one that saves.
    fn save_blocking(&mut self, writer: &mut dyn Write) -> Result<()> {
        platform::wait("saving a history", self.save_by(writer, Wait::Thread))
    }

    /// As [`save`](Self::save), without blocking the thread for the device; needs no particular executor.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_async(&mut self, writer: impl Write) -> Result<()> {
        self.save_by(writer, Wait::Task).await
    }

    pub(crate) async fn save_by(&mut self, writer: impl Write, wait: Wait) -> Result<()> {
        self.stop_ahead();
        let mut out = Sealing { writer, sum: Fnv::new() };
        let cached = self.history.cached();
        let tokens = self.history.tokens();
        out.put(MAGIC)?;
        let spans = self.history.prompt().spans();
        let version = if spans.is_empty() { TEXT } else { WITH_SOFT_TOKENS };
        out.put(&version.to_le_bytes())?;
        let floor = self.history.floor();
        let filled = self.history.filled();
        let bytes = self.row_bytes(cached)?;
        let numbers = [tokens.len(), cached, floor, filled, bytes].map(|n| n as u64);
        for number in [self.fingerprint()?, self.row_layout()?].into_iter().chain(numbers) {
            out.put(&number.to_le_bytes())?;
        }
        out.put(bytemuck::cast_slice(&tokens.iter().map(|token| token.to_le()).collect::<Vec<_>>()))?;
        if version == WITH_SOFT_TOKENS {
            out.put(&soft::byte_len(spans).to_le_bytes())?;
            spans.iter().try_for_each(|span| soft::write(span, &mut |bytes| out.put(bytes)))?;
        }
        if cached > 0 {
            for (name, row) in self.engine.model().caches(self.engine.profiles().kv())? {
                out.put(&self.engine.read_cache(&name, row, cached, wait).await?)?;
            }
        }
        let sum = out.sum.value();
        out.put(&sum.to_le_bytes())?;
        out.writer.flush().map_err(unwritten)
    }

    /// Takes the history that [`save`](Self::save) wrote, and its rows, if they are of this generator's layout (type of
    /// keys and values, prefill chunk, profiles). Of another layout the tokens are taken, and their rows are computed
    /// again when they are needed.
    ///
    /// Reads what was written and not a byte more: what follows is there for whoever goes on reading (hand in `&mut
    /// reader`). All is read and checked before anything changes. The host holds the tokens and the rows that are
    /// taken, as they come; no number in the bytes makes it allocate. Rows that are not taken are read to check the
    /// sum, and not held: of a source that may have no end, give a part ([`Read::take`]).
    ///
    /// # Errors
    /// [`Error::Saved`] for the history of another model, bytes that are cut or corrupt or that no release wrote, and
    /// where the reader fails; [`Error::ContextFull`] for more tokens than the context holds, and all else as
    /// [`prefill`](Self::prefill); [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory), after which
    /// the history is there and has no rows.
    pub fn restore(&mut self, mut reader: impl Read) -> Result<()> {
        self.restore_from(&mut reader)
    }

    fn restore_from(&mut self, reader: &mut dyn Read) -> Result<()> {
        let mut source = Checking { reader, sum: Fnv::new(), read: 0 };
        let header = Header::read(&mut source)?;
        if header.fingerprint != self.fingerprint()? {
            return Err(saved("is of another model: load the one that it was saved with".into()));
        }
        let own_layout = header.layout == self.row_layout()?;
        if own_layout && header.bytes != self.row_bytes(header.cached)? as u64 {
            return Err(saved(format!("has {} bytes for {} rows: corrupt", header.bytes, header.cached)));
        }
        let fits = header.tokens <= self.capacity;
        let tokens = source.take(header.tokens as u64 * 4, fits)?;
        let soft = if header.version == WITH_SOFT_TOKENS {
            let bytes = source.word()?;
            source.take(bytes, fits)?
        } else {
            Vec::new()
        };
        let rows = source.take(header.bytes, fits && own_layout)?;
        source.check()?;
        if !fits {
            return Err(Error::ContextFull { needed: header.tokens, capacity: self.capacity });
        }
        let tokens: Vec<u32> = tokens.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let prompt = soft::read(tokens, &soft)?;
        if prompt.is_empty() {
            self.clear()
        } else {
            self.prefill(prompt)?
        }
        self.history.rewind(0);
        self.checkpoints = self.checkpoints.fresh();
        if own_layout && header.cached > 0 { self.put_rows(&header, &rows) } else { Ok(()) }
    }

    fn put_rows(&mut self, header: &Header, mut rows: &[u8]) -> Result<()> {
        self.engine.write_caches(header.cached, &mut |name, out| {
            let (own, others) = rows.split_at_checked(out.len()).ok_or_else(|| saved(format!("has too few rows of '{name}'")))?;
            out.copy_from_slice(own);
            rows = others;
            Ok(())
        })?;
        self.history.put_back(header.cached, header.floor, header.filled);
        Ok(())
    }

    /// A number that rows of another layout do not have, nor those of other plans where runs are
    /// aligned, as their bits differ.
    fn row_layout(&self) -> Result<u64> {
        let caches = self.engine.model().caches(self.engine.profiles().kv())?;
        let profiles = self.engine.profiles();
        let chunk = self.engine.model().longest_run(self.engine.largest_chunk());
        let plans = self.history.is_aligned().then(|| self.engine.policy());
        let target = self.engine.context().map(|context| context.capabilities().target());
        // Aligned runs have too few rows for cooperative matrices.
        let matrices = target.is_some_and(|target| target.cooperative.is_some()) && plans.is_none();
        let [prefill, decode] = [profiles.prefill(), profiles.decode()].map(|profile| profile.settled(matrices));
        let text = format!("{caches:?} {prefill:?} {decode:?} {chunk} {plans:?}");
        Ok(Fnv::of(text.as_bytes()))
    }

    /// Bytes of `cached` rows: those of the caches that grow, and rings whole.
    fn row_bytes(&self, cached: usize) -> Result<usize> {
        if cached == 0 {
            return Ok(0);
        }
        let ring = self.engine.model().ring(self.engine.largest_chunk())?;
        let caches = self.engine.model().caches(self.engine.profiles().kv())?;
        let bytes = caches.values().map(|row| row.bytes.saturating_mul(if row.slides { ring } else { cached }));
        Ok(bytes.fold(0, usize::saturating_add))
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

/// A reader that sums what comes through it.
struct Checking<R> {
    reader: R,
    sum: Fnv,
    read: u64,
}

impl<R: Read> Checking<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.cut(),
            _ => unread(error),
        })?;
        self.sum.add(bytes);
        self.read += bytes.len() as u64;
        Ok(())
    }

    fn word(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next `count` bytes; none of them where they are not `wanted`.
    fn take(&mut self, count: u64, wanted: bool) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if wanted {
            self.reader.by_ref().take(count).read_to_end(&mut bytes).map_err(unread)?;
            self.sum.add(&bytes);
            self.read += bytes.len() as u64;
            return if bytes.len() as u64 == count { Ok(bytes) } else { Err(self.cut()) };
        }
        let mut left = count;
        let mut buffer = [0; 4096];
        while left > 0 {
            let part = left.min(buffer.len() as u64);
            self.fill(&mut buffer[..part as usize])?;
            left -= part;
        }
        Ok(bytes)
    }

    /// Reads the sum of all before.
    fn check(mut self) -> Result<()> {
        let expected = self.sum.value();
        let mut sum = [0; 8];
        self.fill(&mut sum)?;
        if u64::from_le_bytes(sum) == expected { Ok(()) } else { Err(saved("has a wrong checksum: corrupt".into())) }
    }

    fn cut(&self) -> Error {
        saved(format!("ends too early, after more than {} bytes: cut?", self.read))
    }
}

fn unread(error: std::io::Error) -> Error {
    saved(format!("cannot be read: {error}"))
}

/// The numbers at the beginning; they do not contradict each other.
struct Header {
    version: u32,
    fingerprint: u64,
    layout: u64,
    tokens: usize,
    cached: usize,
    floor: usize,
    filled: usize,
    bytes: u64,
}

impl Header {
    fn read(source: &mut Checking<impl Read>) -> Result<Self> {
        let mut header = [0; HEADER];
        source.fill(&mut header)?;
        if &header[..8] != MAGIC {
            return Err(saved("does not begin as save() begins it: another file?".into()));
        }
        let word = |at: usize| header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let version = word(8) as u32;
        if ![TEXT, WITH_SOFT_TOKENS].contains(&version) {
            return Err(saved(format!("has version {version}, this release reads {TEXT} and {WITH_SOFT_TOKENS}")));
        }
        let [count, cached, floor, filled, bytes] = [0, 1, 2, 3, 4].map(|index| word(28 + 8 * index));
        // More tokens than a number of 32 bits counts have no positions.
        if cached > count || floor > cached || filled > cached || count > u64::from(u32::MAX) || (cached == 0 && bytes > 0) {
            let rows = format!("{cached} rows of {bytes} bytes, from {floor} on, {filled} in aligned chunks");
            return Err(saved(format!("has {rows}, for {count} tokens: corrupt")));
        }
        let [tokens, cached, floor, filled] = [count, cached, floor, filled].map(|number| number as usize);
        Ok(Self { version, fingerprint: word(12), layout: word(20), tokens, cached, floor, filled, bytes })
    }
}
