//! Reading a header byte by byte without ever leaving it.

use super::metadata::ValueType;

/// Why a header cannot be read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It goes on to at least this byte of the file.
    Short(u64),
    /// The content makes no sense; the text says what would.
    Bad(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Problem::Bad(problem)
    }
}

/// Arrays in arrays; no writer goes deeper than one.
const MAX_NESTING: usize = 4;

/// A place in the bytes of a header.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Problem> {
        let end = (self.at as u64).saturating_add(count);
        match usize::try_from(end).ok().and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(Problem::Short(end)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length in bytes, then the bytes. `what` names it where it is longer than `max`.
    pub(super) fn string(&mut self, what: &str, max: u64) -> Result<&'a [u8], Problem> {
        match self.u64()? {
            length if length > max => Err(Problem::Bad(format!("{what} of {length} bytes (at most {max})"))),
            length => self.take(length),
        }
    }

    /// A string that must be text.
    pub(super) fn text(&mut self, what: &str, max: u64) -> Result<&'a str, Problem> {
        std::str::from_utf8(self.string(what, max)?).map_err(|e| Problem::Bad(format!("{what} is not UTF-8: {e}")))
    }

    pub(super) fn value_type(&mut self) -> Result<ValueType, Problem> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| Problem::Bad(format!("value type {id} is unknown (0 to 12 are known)")))
    }

    /// Passes over a value of a type. Takes time proportional to the bytes passed over.
    pub(super) fn skip(&mut self, ty: ValueType, nesting: usize) -> Result<(), Problem> {
        match ty {
            ValueType::Text => self.string("a text", u64::MAX).map(drop),
            ValueType::Array if nesting == MAX_NESTING => {
                Err(Problem::Bad(format!("arrays in arrays, more than {MAX_NESTING} deep")))
            }
            ValueType::Array => {
                let element = self.value_type()?;
                let count = self.u64()?;
                let least = count.saturating_mul(element.least_bytes());
                match element {
                    ValueType::Text | ValueType::Array => {
                        // An impossible count is refused before anything is walked.
                        self.clone().take(least)?;
                        (0..count).try_for_each(|_| self.skip(element, nesting + 1))
                    }
                    _ => self.take(least).map(drop),
                }
            }
            scalar => self.take(scalar.least_bytes()).map(drop),
        }
    }
}
