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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Error, quant::DType};

    /// Bytes that count up, and how often they were read.
    struct Counted(AtomicUsize);

    impl TensorSource for Counted {
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
            self.0.fetch_add(usize::from(!out.is_empty()), Ordering::Relaxed);
            out.iter_mut().zip(offset..).for_each(|(out, at)| *out = at as u8);
            Ok(())
        }
    }

    #[test]
    fn bytes_are_read_once_when_they_are_kept() {
        let source = Arc::new(Counted(AtomicUsize::new(0)));
        let tensor = kept(Tensor::new("t", DType::F16, vec![4, 8], source.clone(), 16));
        let mut part = [0; 6];
        let reads = || source.0.load(Ordering::Relaxed);
        tensor.read_bytes(3, &mut part).unwrap();
        assert_eq!((part, reads(), tensor.lend(0, 64).unwrap()), ([19, 20, 21, 22, 23, 24], 1, None));
        let stop = || Err(Error::Cancelled("a test"));
        assert!(tensor.keep(&stop).is_err() && tensor.lend(0, 64).unwrap().is_none());
        for _ in 0..2 {
            tensor.keep(&|| Ok(())).unwrap();
            tensor.read_bytes(3, &mut part).unwrap();
            assert_eq!((part, reads()), ([19, 20, 21, 22, 23, 24], 2));
        }
        assert_eq!(tensor.lend(62, 2).unwrap(), Some(&[78, 79][..]));
    }
}
