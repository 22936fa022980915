//! Text that comes in from files and from stdin, as editors and shells of any system write it.

use std::{
    io::{BufRead, Read},
    path::Path,
};

use anyhow::{Result, anyhow};

/// How a text's bytes are read.
#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// The encoding that a byte-order mark at the start of a text names, and the mark's length; UTF-8 without one.
fn encoding(start: &[u8]) -> Result<(Encoding, usize)> {
    match start {
        [0xef, 0xbb, 0xbf, ..] => Ok((Encoding::Utf8, 3)),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(anyhow!("this is UTF-32 text; save it as UTF-8")),
        [0xff, 0xfe, ..] => Ok((Encoding::Utf16Le, 2)),
        [0xfe, 0xff, ..] => Ok((Encoding::Utf16Be, 2)),
        _ => Ok((Encoding::Utf8, 0)),
    }
}

/// Text without its mark.
fn decode(bytes: &[u8], encoding: Encoding) -> Result<String> {
    let unit = match encoding {
        Encoding::Utf8 => return utf8(bytes),
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
    match String::from_utf16(&units) {
        Ok(text) if rest.is_empty() => Ok(text),
        Ok(_) => Err(anyhow!("its byte-order mark says UTF-16, but it ends in the middle of a character")),
        Err(_) => Err(anyhow!("its byte-order mark says UTF-16, but it holds half a surrogate pair")),
    }
}

fn utf8(bytes: &[u8]) -> Result<String> {
    // Of UTF-16 text in Latin letters half of the bytes are NUL, which UTF-8 allows.
    if bytes.iter().filter(|byte| **byte == 0).count() > bytes.len() / 4 {
        return Err(anyhow!("this looks like UTF-16 text without a byte-order mark; save it as UTF-8"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(error) => {
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            Err(anyhow!("this is no UTF-8 text: byte {} is {byte:#04x}; save it as UTF-8", at + 1))
        }
    }
}

/// The text of a file: UTF-8, or UTF-16 with a byte-order mark. The mark is no part of it.
pub fn read_text(path: &Path) -> Result<String> {
    let named = |error| anyhow!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| named(error.into()))?;
    let (encoding, mark) = encoding(&bytes).map_err(named)?;
    decode(&bytes[mark..], encoding).map_err(named)
}

/// The lines of a text that comes in piece by piece, without their ends. A line that cannot be decoded is an error, and
/// the next one comes all the same.
pub struct Lines<R> {
    input: R,
    encoding: Option<Encoding>,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, encoding: None, number: 0 }
    }

    /// The next line; `None` at the end. The outer error is the input's, the inner one the line's.
    pub fn next_line(&mut self) -> std::io::Result<Option<Result<String>>> {
        let mut line = Vec::new();
        let encoding = match self.encoding {
            Some(encoding) => encoding,
            None => {
                // No more than a mark is as long: what follows may not have come yet.
                let start = self.start(&mut line)?;
                *self.encoding.insert(start)
            }
        };
        let read = self.read_line(&mut line, encoding)?;
        if read == 0 && line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let text = decode(&line, encoding).map_err(|error| anyhow!("line {}: {error}", self.number));
        Ok(Some(text.map(|text| text.trim_end_matches(['\n', '\r']).to_string())))
    }

    /// Reads a mark; what is none is the line's beginning.
    fn start(&mut self, line: &mut Vec<u8>) -> std::io::Result<Encoding> {
        for byte in self.input.by_ref().bytes().take(3) {
            line.push(byte?);
            let more = [&[0xef][..], &[0xef, 0xbb], &[0xff], &[0xfe]];
            if !more.contains(&line.as_slice()) {
                break;
            }
        }
        // Without its end the mark of UTF-32 is that of UTF-16, whose first character is then NUL.
        let (encoding, mark) = encoding(line).unwrap_or((Encoding::Utf8, 0));
        line.drain(..mark);
        Ok(encoding)
    }

    /// Reads to the end of the line; how many bytes that were.
    fn read_line(&mut self, line: &mut Vec<u8>, encoding: Encoding) -> std::io::Result<usize> {
        if line.last() == Some(&b'\n') {
            return Ok(0);
        }
        if encoding == Encoding::Utf8 {
            return self.input.read_until(b'\n', line);
        }
        let end = if encoding == Encoding::Utf16Le { [b'\n', 0] } else { [0, b'\n'] };
        let before = line.len();
        while !line.as_chunks::<2>().0.ends_with(&[end]) {
            let mut pair = Vec::new();
            if self.input.by_ref().take(2).read_to_end(&mut pair)? == 0 {
                break;
            }
            line.extend(pair);
        }
        Ok(line.len() - before)
    }
}
