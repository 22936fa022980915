//! How often a source is read.

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
