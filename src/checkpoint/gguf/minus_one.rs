//! Norms without the 1 that GGUF files have added.

use crate::{
    Result,
    weights::{Tensor, TensorSource, read_computed},
};

/// A norm's weights as f32, from which the 1 that llama.cpp's converter added is taken off again.
///
/// The difference is exact, and 1 more is the stored value again to the bit, where the stored value is 1/2 or more, or
/// the original was f16 or bf16. Elsewhere the gain is off by 2⁻²⁵ at most.
pub(super) struct MinusOne(pub(super) Tensor);

impl TensorSource for MinusOne {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_computed(offset, out, |first, values| {
            self.0.read_f32(first, values)?;
            values.iter_mut().for_each(|x| *x -= 1.0);
            Ok(())
        })
    }
}
