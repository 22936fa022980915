//! Numbers into blocks, with the rounding of ggml's `quantize_row_*_ref`.

use half::f16;

use super::Packed;

/// A packed format that weights can be brought into as they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantise {
    /// 8.5 bits an element.
    Q8_0,
    /// 4.5 bits an element.
    Q4_0,
}

impl Quantise {
    /// The format.
    pub const fn format(self) -> Packed {
        match self {
            Quantise::Q8_0 => Packed(4),
            Quantise::Q4_0 => Packed(0),
        }
    }

    /// Packs the elements of whole blocks; `blocks` holds their bytes.
    pub(crate) fn quantise(self, values: &[f32], blocks: &mut [u8]) {
        let format = self.format();
        let parts = values.chunks_exact(format.block_elements()).zip(blocks.chunks_exact_mut(format.block_bytes()));
        match self {
            Quantise::Q8_0 => parts.for_each(|(values, block)| q8_0(values, block)),
            Quantise::Q4_0 => parts.for_each(|(values, block)| q4_0(values, block)),
        }
    }
}

/// Writes the scale and gives its reciprocal, 0 for 0.
fn scale(d: f32, block: &mut [u8]) -> f32 {
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The largest absolute value is ±127.
fn q8_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let inverse = scale(largest / 127.0, block);
    for (q, x) in block[2..].iter_mut().zip(values) {
        *q = (x * inverse).round() as i8 as u8;
    }
}

/// The value that is largest without its sign is −8.
fn q4_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let inverse = scale(largest / -8.0, block);
    let number = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    for (j, q) in block[2..].iter_mut().enumerate() {
        *q = number(values[j]) | number(values[j + 16]) << 4;
    }
}

#[cfg(test)]
mod tests;
