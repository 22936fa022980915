//! Numbers of 64 bits as f32.

use std::sync::Arc;

use super::{
    Tensor, TensorSource,
    computed::{AT_ONCE, read_computed},
};
use crate::{Result, quant::DType};

/// The tensor of F64 whose bytes begin at `offset` of `source`, each element rounded to f32.
pub(super) fn narrowed(name: &str, shape: Vec<usize>, source: Arc<dyn TensorSource>, offset: u64) -> Tensor {
    Tensor::new(name, DType::F32, shape, Arc::new(Narrowed { source, offset }), 0)
}

struct Narrowed {
    source: Arc<dyn TensorSource>,
    offset: u64,
}

impl TensorSource for Narrowed {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut wide = [0u8; 8 * AT_ONCE];
        read_computed(offset, out, |first, values| {
            let wide = &mut wide[..8 * values.len()];
            self.source.read(self.offset + 8 * first as u64, wide)?;
            for (value, bytes) in values.iter_mut().zip(wide.as_chunks().0) {
                *value = f64::from_le_bytes(*bytes) as f32;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
