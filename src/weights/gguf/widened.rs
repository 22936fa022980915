//! Tensors that are widened to f32 as they are read.

use std::sync::Arc;

use crate::{
    Result,
    quant::{BlockFormat, MAX_BLOCK_ELEMENTS},
    weights::{Tensor, TensorSource, source::FileSource},
};

/// Elements that are made at once, on the stack.
const AT_ONCE: usize = 16 * MAX_BLOCK_ELEMENTS;

/// Packed elements as f32.
pub(super) struct Widened {
    pub(super) file: Arc<FileSource>,
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    pub(super) format: &'static BlockFormat,
}

impl TensorSource for Widened {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let format = self.format;
        serve(offset, out, format.elements, |first, values| {
            // Four bytes an element: F32 has the largest.
            let mut packed = [0; 4 * AT_ONCE];
            let packed = &mut packed[..values.len() / format.elements * format.bytes];
            let block = first / format.elements as u64;
            self.file.read(self.offset + block * format.bytes as u64, packed)?;
            format.widen(packed, values);
            Ok(())
        })
    }
}

/// A norm's weights, from which the 1 that llama.cpp's converter added is taken off again.
///
/// The difference is exact, and 1 more is the stored value again to the bit, where the stored value is 1/2 or more, or the
/// original was f16 or bf16. Elsewhere the gain is off by 2⁻²⁵ at most.
pub(super) struct LessOne(pub(super) Tensor);

impl TensorSource for LessOne {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        serve(offset, out, 1, |first, values| {
            self.0.read_f32(first as usize, values)?;
            values.iter_mut().for_each(|x| *x -= 1.0);
            Ok(())
        })
    }
}

/// Fills `out` with the bytes from `offset` on of f32 values, which `make` makes from a given element on, whole `unit`s at a
/// time.
fn serve(offset: u64, out: &mut [u8], unit: usize, make: impl Fn(u64, &mut [f32]) -> Result<()>) -> Result<()> {
    let mut values = [0f32; AT_ONCE];
    let (mut at, mut rest) = (offset, out);
    while !rest.is_empty() {
        let first = at / 4 / unit as u64 * unit as u64;
        let skip = (at - 4 * first) as usize;
        let wanted = (skip + rest.len()).div_ceil(4 * unit).saturating_mul(unit).min(AT_ONCE);
        make(first, &mut values[..wanted])?;
        let made = &bytemuck::cast_slice::<f32, u8>(&values[..wanted])[skip..];
        let count = made.len().min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&made[..count]);
        (at, rest) = (at + count as u64, later);
    }
    Ok(())
}
