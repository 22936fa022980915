//! The K formats: super-blocks of 256 elements, whose blocks of 16 or 32 have small integer scales.

use super::half_at;

/// 16 scales and minima of 4 bits, 64 bytes of four 2-bit elements, f16 factors of both.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, quants) = block.split_at(16);
    let d = half_at(block, 80);
    let min = half_at(block, 82);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        // Half of the super-block, place of the two bits, half of the 32 bytes.
        let half = i / 8;
        let shift = i / 2 % 4 * 2;
        let from = i % 2 * 16;
        let scale = d * f32::from(scales[i] & 15);
        let minimum = min * f32::from(scales[i] >> 4);
        for (out, q) in out.iter_mut().zip(&quants[half * 32 + from..]) {
            *out = scale * f32::from((q >> shift) & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits, 64 of two low bits each, 16 scales of 6 bits in 12 bytes, an f16 factor.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let third = &block[..32];
    let quants = &block[32..96];
    let packed = &block[96..108];
    let d = half_at(block, 108);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let half = i / 8;
        let place = i / 2 % 4;
        let from = i % 2 * 16;
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        let scale = d * (i32::from(low | high << 4) - 32) as f32;
        for (l, out) in out.iter_mut().enumerate() {
            let low = quants[half * 32 + from + l] >> (place * 2) & 3;
            let high = third[from + l] >> (half * 4 + place) & 1;
            *out = scale * (i32::from(low | high << 2) - 4) as f32;
        }
    }
}

/// The 6-bit scale and minimum of block `j` of eight, from 12 bytes.
#[inline(always)]
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => ((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4), (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)),
    };
    (f32::from(scale), f32::from(minimum))
}

/// f16 factors of scales and minima, 12 bytes of both, 128 bytes: blocks `2n` in the low, `2n + 1` in the high halves.
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let min = half_at(block, 2);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        let scale = d * scale;
        let minimum = min * minimum;
        for (out, q) in out.iter_mut().zip(&block[16 + j / 2 * 32..]) {
            *out = scale * f32::from(q >> (j % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with bit `j` of 32 bytes as the fifth bits of block `j`.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let min = half_at(block, 2);
    let (fifth, quants) = block[16..].split_at(32);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        let scale = d * scale;
        let minimum = min * minimum;
        for (l, out) in out.iter_mut().enumerate() {
            let low = quants[j / 2 * 32 + l] >> (j % 2 * 4) & 15;
            let high = fifth[l] >> j & 1;
            *out = scale * f32::from(low | high << 4) - minimum;
        }
    }
}

/// 128 bytes of four low bits, 64 of two high bits, 16 signed scales, an f16 factor.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let low = &block[..128];
    let high = &block[128..192];
    let scales = &block[192..208];
    let d = half_at(block, 208);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        // Half of the super-block, quarter of the half, half of the quarter.
        let half = i / 8;
        let quarter = i / 2 % 4;
        let from = i % 2 * 16;
        let scale = d * f32::from(scales[i] as i8);
        for (l, out) in out.iter_mut().enumerate() {
            let low = low[half * 64 + quarter % 2 * 32 + from + l] >> (quarter / 2 * 4) & 15;
            let high = high[half * 32 + from + l] >> (quarter * 2) & 3;
            *out = scale * (i32::from(low | high << 4) - 32) as f32;
        }
    }
}
