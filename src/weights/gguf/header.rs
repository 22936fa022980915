//! The header of a GGUF file: metadata and the table of tensors, every length checked before it is believed.
//!
//! All of opening a file takes at most 16 times the header's bytes of heap, and 128 KiB. The header's end is not known
//! beforehand, so that a first part of the file is read and parsed, and a larger one where it was too small.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    cursor::{Cursor, Problem},
    metadata::Metadata,
};
use crate::{
    Result,
    quant::{DType, Packed},
    weights::{
        FileLimits, Tensor, TensorSource,
        foreign::{self, Foreign},
        kind::{GGUF, instead, piece},
        narrowed::narrowed,
        source::FileSource,
    },
};

/// The first part that is read: no vocabulary fits, any table of tensors does.
const FIRST_PART: u64 = 64 << 10;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: usize = 32;

/// Bytes and elements that memory addresses.
const MEMORY: u64 = usize::MAX as u64;

/// GGUF's number of the one foreign type that is read: as f32.
const F64: u32 = 28;

/// One tensor, its place in the file checked.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Row-major dimensions (the file has them the other way round).
    pub(crate) shape: Vec<usize>,
    /// The file's number where the type is not one of ours; its size is not known then.
    pub(crate) dtype: Result<DType, u32>,
    /// First byte, from the start of the file.
    pub(crate) offset: u64,
    /// As stored; 0 where the type is not known.
    pub(crate) bytes: u64,
}

impl Entry {
    /// The tensor under `key`.
    ///
    /// # Errors
    /// The element type, where no weight here may have it.
    pub(crate) fn tensor(self, key: &str, file: &Arc<FileSource>) -> Result<Tensor, Foreign> {
        match self.dtype {
            Ok(dtype) => Ok(Tensor::new(key, dtype, self.shape, file.clone(), self.offset)),
            Err(F64) => Ok(narrowed(key, self.shape, file.clone(), self.offset)),
            Err(ggml_type) => Err(foreign::of_ggml(ggml_type)),
        }
    }
}

/// The header of a file.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Entry>,
}

/// Reads and checks the header.
pub(super) fn read(file: &FileSource, limits: &FileLimits) -> Result<Header> {
    let mut magic = [0; 4];
    let begun = file.len() >= 4;
    if begun {
        file.read(0, &mut magic)?;
    }
    if begun
        && magic != *GGUF
        && let Some(what) = instead(file)?
    {
        return Err(file.format(format!("begins with {:?}, not with \"GGUF\"; this is {what}", magic.escape_ascii().to_string())));
    }
    let mut part = FIRST_PART;
    loop {
        let length = part.min(file.len());
        let mut bytes = file.room(length)?;
        file.read(0, &mut bytes)?;
        match parse(bytes, file.len(), limits) {
            Ok(header) => return Ok(header),
            Err(Problem::Bad(problem)) => return Err(file.format(problem)),
            Err(Problem::Short(needed)) if needed > file.len() => {
                let missing = needed - file.len();
                let what = piece(file.path()).map_or("fetch it again".into(), |piece| format!("it is {piece}"));
                return Err(file.format(format!("truncated: file is {missing} bytes short; {what}")));
            }
            Err(Problem::Short(needed)) if needed > limits.header_bytes => {
                return Err(file.format(format!("a header of {needed} bytes or more (at most {})", limits.header_bytes)));
            }
            // At least doubled, so that all attempts together cost no more than the last two.
            Err(Problem::Short(needed)) => part = needed.max(2 * part).min(limits.header_bytes),
        }
    }
}

/// The header at the start of `bytes`, which are the first ones of a file of `file_len` bytes.
fn parse(bytes: Vec<u8>, file_len: u64, limits: &FileLimits) -> Result<Header, Problem> {
    let mut cursor = Cursor::new(&bytes, 0);
    let (tensors, pairs) = preamble(&mut cursor, limits)?;
    let mut places = BTreeMap::new();
    for _ in 0..pairs {
        let key = cursor.text("a key", limits.key_bytes)?;
        let ty = cursor.value_type().map_err(|problem| at_key(key, problem))?;
        if places.insert(key.into(), (ty, cursor.position())).is_some() {
            return Err(Problem::Bad(format!("key '{}' twice", key.escape_debug())));
        }
        cursor.skip(ty, 0).map_err(|problem| at_key(key, problem))?;
    }
    let table = cursor.position();
    let mut entries = Vec::with_capacity(tensors as usize);
    for _ in 0..tensors {
        entries.push(entry(&mut cursor, limits)?);
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Problem::Bad(format!("tensor '{}' twice", pair[0].escape_debug())));
    }
    let end = cursor.position() as u64;
    let mut bytes = bytes;
    bytes.truncate(table);
    bytes.shrink_to_fit();
    let metadata = Metadata::new(bytes, places);
    place(&mut entries, end, alignment(&metadata, limits)?, file_len)?;
    Ok(Header { metadata, tensors: entries })
}

fn at_key(key: &str, problem: Problem) -> Problem {
    match problem {
        Problem::Bad(problem) => Problem::Bad(format!("key '{}': {problem}", key.escape_debug())),
        short => short,
    }
}

/// Magic, version and the numbers of tensors and of pairs.
fn preamble(cursor: &mut Cursor<'_>, limits: &FileLimits) -> Result<(u64, u64), Problem> {
    let magic = cursor.take(4)?;
    if magic != GGUF {
        return Err(Problem::Bad(format!(
            "begins with {:?}, not with \"GGUF\"; is this a GGUF file?",
            magic.escape_ascii().to_string()
        )));
    }
    match cursor.u32()? {
        2 | 3 => {}
        1 => return Err(Problem::Bad("GGUF version 1, expected 2 or 3; convert the model again".into())),
        swapped if matches!(swapped.swap_bytes(), 1..=3) => {
            let problem = "a big-endian GGUF file, expected a little-endian one; convert it with gguf_convert_endian.py";
            return Err(Problem::Bad(problem.into()));
        }
        version => return Err(Problem::Bad(format!("GGUF version {version}, expected 2 or 3"))),
    }
    let tensors = cursor.u64()?;
    let pairs = cursor.u64()?;
    for (count, max, what) in [(tensors, limits.tensors, "tensors"), (pairs, limits.metadata_keys, "metadata keys")] {
        if count > max {
            return Err(Problem::Bad(format!("{count} {what} (at most {max})")));
        }
    }
    // The least that so many take: a key is at least 13 bytes, a tensor 24.
    cursor.clone().take(pairs.saturating_mul(13).saturating_add(tensors.saturating_mul(24)))?;
    Ok((tensors, pairs))
}

/// One row of the tensor table; its offset still counts from the data's start.
fn entry(cursor: &mut Cursor<'_>, limits: &FileLimits) -> Result<Entry, Problem> {
    let name = cursor.text("a tensor's name", limits.name_bytes)?;
    let bad = |problem: String| Problem::Bad(format!("tensor '{}' {problem}", name.escape_debug()));
    let dimensions = cursor.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(bad(format!("has {dimensions} dimensions (at most {MAX_DIMENSIONS})")));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let dimension = cursor.u64()?;
        match usize::try_from(dimension) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(bad(format!("has a dimension of {dimension}"))),
        }
    }
    shape.reverse();
    let ggml_type = cursor.u32()?;
    let offset = cursor.u64()?;
    let dtype = dtype(ggml_type).ok_or(ggml_type);
    let bytes = match dtype {
        Ok(dtype) => size(&shape, dtype, MEMORY).map_err(bad)?,
        // Twice as many as of F32.
        Err(F64) => size(&shape, DType::F32, MEMORY).map_err(bad)?.saturating_mul(2),
        Err(_) => 0,
    };
    Ok(Entry { name: name.into(), shape, dtype, offset, bytes })
}

/// Bytes of a row of `elements` elements; 0 of a type whose blocks are not known, `None` where the elements are no
/// whole blocks.
pub(crate) fn row_bytes(dtype: Result<DType, u32>, elements: usize) -> Option<u64> {
    match dtype {
        Ok(dtype) => dtype.row_bytes(elements),
        Err(F64) => (elements as u64).checked_mul(8),
        Err(_) => Some(0),
    }
}

/// The type with a number of `enum ggml_type`.
fn dtype(ggml_type: u32) -> Option<DType> {
    match ggml_type {
        0 => Some(DType::F32),
        1 => Some(DType::F16),
        30 => Some(DType::BF16),
        packed => Packed::by_ggml_type(packed).map(DType::Packed),
    }
}

/// The bytes of a tensor. Neither these nor its elements may be more than `most`.
fn size(shape: &[usize], dtype: DType, most: u64) -> Result<u64, String> {
    dtype.check_row(shape.last().copied().unwrap_or(1)).map_err(|problem| format!("has {problem}"))?;
    let (block, bytes) = dtype.block();
    // As f32, which any of them may be widened to.
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|n| n.checked_mul(4).is_some());
    let bytes = elements.and_then(|n| (n / block as u64).checked_mul(bytes as u64)).filter(|bytes| *bytes <= most);
    bytes.filter(|_| elements.is_some_and(|n| n <= most)).ok_or_else(|| {
        let bits = most.ilog2() + 1;
        format!("has a shape, {shape:?}, whose size in bytes is no {bits}-bit number")
    })
}

fn alignment(metadata: &Metadata, limits: &FileLimits) -> Result<u64, String> {
    match metadata.size("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT) as u64 {
        alignment if alignment.is_power_of_two() && alignment <= limits.alignment => Ok(alignment),
        alignment => Err(format!("general.alignment is {alignment}, expected a power of two up to {}", limits.alignment)),
    }
}

/// Gives tensors their places in the file, aligned, within it and apart from each other, and sorts them by these.
fn place(entries: &mut [Entry], header_end: u64, alignment: u64, file_len: u64) -> Result<(), Problem> {
    let Some(start) = header_end.checked_next_multiple_of(alignment) else {
        return Err(Problem::Bad(format!("general.alignment is {alignment}, larger than any file")));
    };
    entries.sort_by_key(|entry| entry.offset);
    let mut next = (0, "");
    for entry in &*entries {
        if !entry.offset.is_multiple_of(alignment) {
            let problem = format!("tensor '{}' begins at {}, expected a multiple of {alignment}", entry.name, entry.offset);
            return Err(Problem::Bad(problem));
        }
        if entry.offset < next.0 {
            return Err(Problem::Bad(format!("tensor '{}' overlaps '{}'", entry.name, next.1)));
        }
        let end = entry.offset.checked_add(entry.bytes).and_then(|end| end.checked_add(start));
        match end {
            Some(end) if end <= file_len => next = (end - start, &entry.name),
            Some(end) => return Err(Problem::Short(end)),
            None => return Err(Problem::Bad(format!("tensor '{}' begins at {}, far outside", entry.name, entry.offset))),
        }
    }
    for entry in entries {
        entry.offset += start;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
