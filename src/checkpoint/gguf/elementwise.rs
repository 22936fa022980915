//! Values that llama.cpp's converter has changed one by one, as they were.

use std::sync::Arc;

use crate::{
    Result,
    quant::DType,
    weights::{Tensor, TensorSource, read_computed},
};

/// A tensor's values as f32, each through a function.
struct Elementwise {
    tensor: Tensor,
    of: fn(f32) -> f32,
}

fn elementwise(tensor: Tensor, of: fn(f32) -> f32) -> Tensor {
    let name = tensor.name().to_string();
    let shape = tensor.shape().to_vec();
    Tensor::new(name, DType::F32, shape, Arc::new(Elementwise { tensor, of }), 0)
}

/// A norm's weights, from which the 1 that was added is taken off again.
///
/// The difference is exact, and 1 more is the stored value again to the bit, where the stored value is 1/2 or more, or
/// the original was f16 or bf16. Elsewhere the gain is off by 2⁻²⁵ at most.
pub(super) fn minus_one(tensor: Tensor) -> Tensor {
    elementwise(tensor, |y| y - 1.0)
}

/// x of y = ln(1 + eˣ), computed in f64. What the tower makes of it is off by a few roundings of f32.
///
/// A value below the least that f32 has for y is taken for that of x = -104; one below zero is none, and becomes NaN.
pub(super) fn before_softplus(tensor: Tensor) -> Tensor {
    // ln(eʸ - 1) = y + ln(1 - e⁻ʸ), which cannot overflow.
    elementwise(tensor, |y| {
        let y = f64::from(y);
        let x = y + (-(-y).exp_m1()).ln();
        (if x == f64::NEG_INFINITY { -104.0 } else { x }) as f32
    })
}

/// The same values as f32, which can be rearranged one by one.
pub(super) fn widened(tensor: Tensor) -> Tensor {
    elementwise(tensor, |x| x)
}

impl TensorSource for Elementwise {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_computed(offset, out, |first, values| {
            self.tensor.read_f32(first, values)?;
            values.iter_mut().for_each(|x| *x = (self.of)(*x));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
