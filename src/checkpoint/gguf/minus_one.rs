//! Norms without the 1 that GGUF files have added.

use crate::{
    Result,
    weights::{Tensor, TensorSource},
};

/// Elements that are made at once, on the stack.
const AT_ONCE: usize = 1024;

/// A norm's weights as f32, from which the 1 that llama.cpp's converter added is taken off again.
///
/// The difference is exact, and 1 more is the stored value again to the bit, where the stored value is 1/2 or more, or
/// the original was f16 or bf16. Elsewhere the gain is off by 2⁻²⁵ at most.
pub(super) struct MinusOne(pub(super) Tensor);

impl TensorSource for MinusOne {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut values = [0f32; AT_ONCE];
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let first = at / 4;
            let skip = at % 4;
            let wanted = (skip + rest.len()).div_ceil(4).min(AT_ONCE);
            self.0.read_f32(first, &mut values[..wanted])?;
            values[..wanted].iter_mut().for_each(|x| *x -= 1.0);
            let made = &bytemuck::cast_slice::<f32, u8>(&values[..wanted])[skip..];
            let count = made.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&made[..count]);
            (at, rest) = (at + count, later);
        }
        Ok(())
    }
}
