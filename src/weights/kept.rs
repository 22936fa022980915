//! Weights that stay in memory once they were asked for many times.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::{Tensor, TensorSource, tensor::RandomFill};
use crate::Result;

/// Bytes that one thread reads at a time.
const PIECE: usize = 1 << 20;

/// The same tensor, with bytes that stay in memory after [`keep`](TensorSource::keep).
pub(crate) fn kept(tensor: Tensor) -> Tensor {
    let name = tensor.name().to_string();
    let dtype = tensor.dtype();
    let shape = tensor.shape().to_vec();
    Tensor::new(name, dtype, shape, Arc::new(Kept { tensor, bytes: OnceLock::new() }), 0)
}

struct Kept {
    tensor: Tensor,
    bytes: OnceLock<Vec<u8>>,
}

impl TensorSource for Kept {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self.lend(offset, out.len())? {
            Some(bytes) => out.copy_from_slice(bytes),
            None => self.tensor.read_bytes(offset as usize, out)?,
        }
        Ok(())
    }

    fn lend(&self, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        match self.bytes.get() {
            Some(bytes) => Ok(Some(&bytes[offset as usize..][..len])),
            None => self.tensor.lend(offset as usize, len),
        }
    }

    fn keep(&self, go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        // Of no bytes: a source that tells when they changed does so.
        self.tensor.read_bytes(0, &mut [])?;
        if self.lend(0, self.tensor.byte_len())?.is_some() {
            return Ok(());
        }
        let mut bytes = vec![0; self.tensor.byte_len()];
        let pieces = bytes.par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each(|(i, piece)| {
            go_on()?;
            self.tensor.read_bytes(i * PIECE, piece)
        })?;
        // Of two threads that read them, one has come first.
        let _ = self.bytes.set(bytes);
        Ok(())
    }

    fn random(&self) -> Option<RandomFill> {
        self.tensor.random()
    }
}

#[cfg(test)]
mod tests;
