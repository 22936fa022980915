//! The header of a safetensors file: eight bytes of length, then JSON.
//!
//! The `safetensors` crate's own reader wants the whole file in memory; here only the header's bytes are read, its
//! entries are counted while they are parsed, and all lengths are compared with the file's before anything else is
//! read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use safetensors::{Dtype, tensor::TensorInfo};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{
    FileLimits, Tensor, TensorSource,
    foreign::{self, Foreign},
    kind::{instead, piece},
    narrowed::narrowed,
    source::FileSource,
};
use crate::{Result, quant::DType};

/// One tensor of the header, its place checked.
pub(crate) struct Entry {
    pub(crate) name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// First byte, from the start of the file.
    offset: u64,
    pub(crate) bytes: u64,
}

impl Entry {
    /// The tensor under `key`.
    ///
    /// # Errors
    /// The element type, where no weight here may have it.
    pub(crate) fn tensor(self, key: &str, file: &Arc<FileSource>) -> Result<Tensor, Foreign> {
        match dtype(self.dtype) {
            Some(dtype) => Ok(Tensor::new(key, dtype, self.shape, file.clone(), self.offset)),
            None if self.dtype == Dtype::F64 => Ok(narrowed(key, self.shape, file.clone(), self.offset)),
            None => Err(foreign::of_safetensors(self.dtype)),
        }
    }

    /// The tensor, under its own name, of types that are read as they are; otherwise the type's name.
    #[cfg(feature = "lora")]
    pub(super) fn stored(self, file: &Arc<FileSource>) -> (String, Result<Tensor, String>) {
        let tensor = match dtype(self.dtype) {
            Some(dtype) => Ok(Tensor::new(&self.name, dtype, self.shape, file.clone(), self.offset)),
            None => Err(format!("{:?}", self.dtype)),
        };
        (self.name, tensor)
    }

    /// 64-bit integers `[…]` as pairs of 32-bit ones `[…, 2]`, the low one first; other types as
    /// [`tensor`](Self::tensor).
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub(crate) fn pairs(mut self, key: &str, file: &Arc<FileSource>) -> Result<Tensor, Foreign> {
        if self.dtype == Dtype::I64 {
            self.dtype = Dtype::I32;
            self.shape.push(2);
        }
        self.tensor(key, file)
    }
}

fn dtype(found: Dtype) -> Option<DType> {
    match found {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I32 => Some(DType::I32),
        Dtype::U32 => Some(DType::U32),
        _ => None,
    }
}

/// Reads and checks the header: the tensors in the order of their bytes, which fill the file exactly.
pub(crate) fn read(file: &FileSource, limits: &FileLimits) -> Result<Vec<Entry>> {
    let short = |needed: u64| {
        let what = piece(file.path()).map_or("fetch it again".into(), |piece| format!("it is {piece}"));
        file.format(format!("truncated: file is {} bytes short; {what}", needed - file.len()))
    };
    if let Some(what) = instead(file)? {
        return Err(file.format(format!("expected a safetensors file, this is {what}")));
    }
    if file.len() < 8 {
        return Err(short(8));
    }
    let mut length = [0; 8];
    file.read(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > limits.header_bytes {
        let allowed = limits.header_bytes;
        return Err(file.format(format!("a header of {length} bytes (at most {allowed}); is this a safetensors file?")));
    }
    let start = length.saturating_add(8);
    if start > file.len() {
        return Err(short(start));
    }
    let mut json = file.room(length)?;
    file.read(8, &mut json)?;
    let text = std::str::from_utf8(&json).map_err(|e| file.format(format!("header: {e}")))?;
    let mut entries = parse(text, limits.tensors).map_err(|e| file.format(format!("header: {e}")))?;
    entries.sort_by_key(|(_, info)| info.data_offsets);

    let mut next = 0;
    let mut checked = Vec::with_capacity(entries.len());
    for (name, info) in entries {
        let bytes = place(&info, next, usize::MAX as u64).map_err(|problem| file.format(format!("tensor '{name}' {problem}")))?;
        checked.push(Entry { name, dtype: info.dtype, shape: info.shape, offset: start.saturating_add(next), bytes });
        next += bytes;
    }
    match start.saturating_add(next) {
        end if end > file.len() => Err(short(end)),
        end if end < file.len() => Err(file.format(format!("{} bytes after the last tensor", file.len() - end))),
        _ => Ok(checked),
    }
}

/// The size in bytes of a tensor that must begin at `next`. Neither these nor its elements may be more than `most`.
fn place(info: &TensorInfo, next: u64, most: u64) -> Result<u64, String> {
    let begin = info.data_offsets.0 as u64;
    let end = info.data_offsets.1 as u64;
    if begin != next {
        let what = if begin < next { "overlaps the tensor before it" } else { "leaves a gap before it" };
        return Err(format!("{what}: data_offsets begin at {begin}, expected {next}"));
    }
    let Some(found) = end.checked_sub(begin) else {
        return Err(format!("has data_offsets [{begin}, {end}], which end before they begin"));
    };
    let elements = info.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|n| *n <= most);
    let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize() as u64));
    match bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8).filter(|bytes| *bytes <= most) {
        Some(expected) if expected == found => Ok(found),
        Some(expected) => Err(format!("has {found} bytes, {:?} {:?} needs {expected}", info.dtype, info.shape)),
        None => {
            let address = most.ilog2() + 1;
            let TensorInfo { shape, dtype, .. } = info;
            Err(format!("has a shape, {shape:?} of {dtype:?}, whose size in bytes is no whole {address}-bit number"))
        }
    }
}

fn parse(json: &str, most: u64) -> Result<Vec<(String, TensorInfo)>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let entries = deserializer.deserialize_map(Entries { most })?;
    deserializer.end()?;
    Ok(entries)
}

/// The tensors of a header, `most` at most.
struct Entries {
    most: u64,
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor '{name}' twice")));
            }
            if name == "__metadata__" {
                map.next_value::<Option<HashMap<String, String>>>()?;
                continue;
            }
            if entries.len() as u64 == self.most {
                return Err(A::Error::custom(format!("more than {} tensors", self.most)));
            }
            let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor '{name}': {e}")))?;
            entries.push((name, info));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
