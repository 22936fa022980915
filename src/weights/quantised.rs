//! Weights that are packed as they are read.

use std::sync::Arc;

use super::{StoredHead, Tensor, TensorInfo, TensorSource, WeightLoader};
use crate::{Result, quant::DType, quant::Quantise};

/// Blocks that are made at once, on the stack.
const BLOCKS: usize = 64;

/// The weights of a loader, its matrices and its stacks of them in a packed format: those of f32, f16 or bf16 whose
/// rows are whole blocks, which are all projections and embeddings of a Gemma. Everything else, and a matrix taken
/// transposed, stays as it is.
///
/// Blocks are made whenever they are read, each by one thread: once for a GPU, and once for a generator on the
/// reference.
pub struct QuantisedLoader<'a> {
    inner: &'a mut dyn WeightLoader,
    to: Quantise,
}

impl<'a> QuantisedLoader<'a> {
    /// Packs the matrices of `inner`.
    pub fn new(inner: &'a mut dyn WeightLoader, to: Quantise) -> Self {
        Self { inner, to }
    }

    fn packs(&self, info: TensorInfo<'_>) -> bool {
        let scalar = matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16);
        scalar && matches!(info.shape, [_, row] | [_, _, row] if row.is_multiple_of(self.to.format().block_elements()))
    }
}

impl WeightLoader for QuantisedLoader<'_> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn peek(&self, key: &str) -> Result<TensorInfo<'_>> {
        let info = self.inner.peek(key)?;
        Ok(if self.packs(info) { TensorInfo { dtype: DType::Packed(self.to.format()), ..info } } else { info })
    }

    fn take(&mut self, key: &str) -> Result<Tensor> {
        let packs = self.packs(self.inner.peek(key)?);
        let tensor = self.inner.take(key)?;
        if !packs {
            return Ok(tensor);
        }
        let name = tensor.name().to_string();
        let shape = tensor.shape().to_vec();
        let source = Arc::new(Quantised { tensor, to: self.to });
        Ok(Tensor::new(name, DType::Packed(self.to.format()), shape, source, 0))
    }

    fn take_transposed(&mut self, key: &str) -> Result<Tensor> {
        self.inner.take_transposed(key)
    }

    fn remaining_keys(&self) -> Vec<String> {
        self.inner.remaining_keys()
    }

    fn arch_hint(&self) -> Option<&str> {
        self.inner.arch_hint()
    }

    fn stored_head(&self) -> Result<StoredHead> {
        self.inner.stored_head()
    }
}

struct Quantised {
    tensor: Tensor,
    to: Quantise,
}

impl TensorSource for Quantised {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (elements, bytes) = DType::Packed(self.to.format()).block();
        // Blocks of 32 elements and at most 34 bytes.
        let mut values = [0.0; 32 * BLOCKS];
        let mut blocks = [0; 34 * BLOCKS];
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let first = at / bytes;
            let skip = at % bytes;
            let count = (skip + rest.len()).div_ceil(bytes).min(BLOCKS);
            let values = &mut values[..count * elements];
            let blocks = &mut blocks[..count * bytes];
            self.tensor.read_f32(first * elements, values)?;
            self.to.quantise(values, blocks);
            let made = &blocks[skip..];
            let length = made.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&made[..length]);
            (at, rest) = (at + length, later);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
