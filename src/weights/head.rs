//! A checkpoint's LM head and its embedding, compared by what is stored, as flags are wrong or absent in some files.

use super::{Tensor, WeightMap};
use crate::{Result, quant::DType};

/// The key of the token embedding.
pub(crate) const EMBED_KEY: &str = "embed_tokens.weight";

/// The key of the LM head.
pub(crate) const HEAD_KEY: &str = "lm_head.weight";

/// Elements of each matrix that are compared at a time.
const AT_ONCE: usize = 1 << 16;

/// The LM head that a checkpoint holds (`lm_head.weight`, in GGUF files `output.weight`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredHead {
    /// Nothing.
    Absent,
    /// A matrix that is not the embedding.
    Own,
    /// The embedding once more.
    Copy,
    /// The head without an embedding. It has the embedding's key.
    Alone,
}

impl WeightMap {
    /// Gives a head that is stored without an embedding the embedding's key: of two tensors that share their memory,
    /// safetensors keeps one, and which one is chance.
    pub(crate) fn embed_by_head(&mut self) {
        if self.contains(EMBED_KEY) || !self.contains(HEAD_KEY) {
            return;
        }
        self.rename(HEAD_KEY, EMBED_KEY);
        self.head_alone = true;
    }

    /// As [`WeightLoader::stored_head`](super::WeightLoader::stored_head).
    pub(super) fn compare_head(&self) -> Result<StoredHead> {
        match (self.get(EMBED_KEY), self.get(HEAD_KEY)) {
            (Some(embed), Some(head)) if equal(embed, head)? => Ok(StoredHead::Copy),
            (_, None) if self.head_alone => Ok(StoredHead::Alone),
            (_, None) if !self.contains(HEAD_KEY) => Ok(StoredHead::Absent),
            _ => Ok(StoredHead::Own),
        }
    }
}

/// True if two tensors have the same shape and values. Reads as far as they agree, a few hundred KiB at a time.
fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    let number = |tensor: &Tensor| !matches!(tensor.dtype(), DType::I32 | DType::U32);
    if a.shape() != b.shape() || !number(a) || !number(b) {
        return Ok(false);
    }
    if a.dtype() == b.dtype() {
        return same(a.byte_len(), 4 * AT_ONCE, |start, one: &mut [u8], other| {
            a.read_bytes(start, one)?;
            b.read_bytes(start, other)
        });
    }
    same(a.len(), AT_ONCE, |start, one: &mut [u32], other| {
        a.read_f32(start, bytemuck::cast_slice_mut(one))?;
        b.read_f32(start, bytemuck::cast_slice_mut(other))
    })
}

/// True if `read` fills both slices alike at every `step` of `length`.
fn same<T: Copy + Default + PartialEq>(
    length: usize,
    step: usize,
    mut read: impl FnMut(usize, &mut [T], &mut [T]) -> Result<()>,
) -> Result<bool> {
    let mut one = vec![T::default(); step.min(length)];
    let mut other = one.clone();
    for start in (0..length).step_by(step) {
        let count = step.min(length - start);
        read(start, &mut one[..count], &mut other[..count])?;
        if one[..count] != other[..count] {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
