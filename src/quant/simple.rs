//! Blocks of 32 with one scale. Where there is no minimum, the functions leave the scale out and return it.

use super::half_at;

/// f16 scale, 16 bytes: element `j` in the low, `j + 16` in the high half of byte `j`.
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) -> f32 {
    for (j, q) in block[2..].iter().enumerate() {
        // In bytes, of which a vector has many.
        out[j] = f32::from((q & 15) as i8 - 8);
        out[j + 16] = f32::from((q >> 4) as i8 - 8);
    }
    half_at(block, 0)
}

/// As [`q4_0`] with an f16 minimum instead of the offset 8.
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    for (j, q) in block[4..].iter().enumerate() {
        out[j] = f32::from(q & 15) * d + m;
        out[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of elements `j` and `j + 16`, in their place.
#[inline(always)]
fn fifth_bits(block: &[u8], at: usize, j: usize) -> (u8, u8) {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    (((bits >> j) & 1) as u8 * 16, ((bits >> (j + 16)) & 1) as u8 * 16)
}

/// f16 scale, 32 fifth bits, 16 bytes as in [`q4_0`].
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) -> f32 {
    for (j, q) in block[6..].iter().enumerate() {
        let (low, high) = fifth_bits(block, 2, j);
        out[j] = f32::from(((q & 15) | low) as i8 - 16);
        out[j + 16] = f32::from(((q >> 4) | high) as i8 - 16);
    }
    half_at(block, 0)
}

/// As [`q5_0`] with an f16 minimum instead of the offset 16.
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    for (j, q) in block[8..].iter().enumerate() {
        let (low, high) = fifth_bits(block, 4, j);
        out[j] = f32::from((q & 15) | low) * d + m;
        out[j + 16] = f32::from((q >> 4) | high) * d + m;
    }
}

/// f16 scale, 32 signed bytes.
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) -> f32 {
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*q as i8);
    }
    half_at(block, 0)
}
