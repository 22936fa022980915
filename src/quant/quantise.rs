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
mod tests {
    use super::*;

    fn blocks(to: Quantise, values: &[f32]) -> Vec<u8> {
        let mut blocks = vec![0; values.len() / 32 * to.format().block_bytes()];
        to.quantise(values, &mut blocks);
        blocks
    }

    #[test]
    fn formats_are_those_of_the_names() {
        assert_eq!((Quantise::Q8_0.format().name(), Quantise::Q4_0.format().name()), ("Q8_0", "Q4_0"));
    }

    #[test]
    fn rounding_is_that_of_ggml() {
        let mut values = [0.0; 32];
        values[..6].copy_from_slice(&[127.0, 1.5, -1.5, 2.5, 0.49, -126.6]);
        let block = blocks(Quantise::Q8_0, &values);
        assert_eq!(block[..2], f16::from_f32(1.0).to_le_bytes());
        // Halves away from zero.
        assert_eq!(block[2..9].iter().map(|q| *q as i8).collect::<Vec<_>>(), [127, 2, -2, 3, 0, -127, 0]);
        let mut values = [0.0; 32];
        // Towards +∞ in steps of −1: 16 steps above the lowest are cut to 15.
        values[..5].copy_from_slice(&[8.0, -8.0, 1.5, -1.5, 0.4]);
        values[16] = -7.0;
        let block = blocks(Quantise::Q4_0, &values);
        assert_eq!(block[..2], f16::from_f32(-1.0).to_le_bytes());
        assert_eq!(block[2..8], [0xf0, 0x8f, 0x87, 0x8a, 0x88, 0x88]);
        assert!(blocks(Quantise::Q8_0, &[0.0; 32]).iter().all(|byte| *byte == 0));
        assert_eq!(blocks(Quantise::Q4_0, &[0.0; 32])[..3], [0, 0x80, 0x88]);
    }
}
