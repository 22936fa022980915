//! Four bits that choose from 16 values.

use super::half_at;

/// `kvalues_iq4nl` of ggml.
const UNEVEN: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// The values of E2M1, doubled (OCP Microscaling Formats 1.0).
const DOUBLED_E2M1: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// 32 elements: `j` in the low, `j + 16` in the high half of byte `j`.
#[inline(always)]
fn widen(scale: f32, values: &[f32; 16], quants: &[u8], out: &mut [f32]) {
    for (j, q) in quants.iter().enumerate() {
        out[j] = scale * values[usize::from(q & 15)];
        out[j + 16] = scale * values[usize::from(q >> 4)];
    }
}

/// f16 scale, 16 bytes.
#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    widen(half_at(block, 0), &UNEVEN, &block[2..], out);
}

/// f16 factor, eight scales of 6 bits (two high bits in 2 bytes, four low ones in 4 bytes), 128 bytes.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (i, (quants, out)) in block[8..].chunks_exact(16).zip(out.chunks_exact_mut(32)).enumerate() {
        let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
        let scale = i32::from(low) | i32::from(high >> (2 * i) & 3) << 4;
        widen(d * (scale - 32) as f32, &UNEVEN, quants, out);
    }
}

/// An exponent (E8M0), 16 bytes.
#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half of 2^(e - 127), as the values are doubled; the two smallest are subnormal.
    let half = match block[0] {
        e @ (0 | 1) => 0x0020_0000 << e,
        e => u32::from(e - 1) << 23,
    };
    widen(f32::from_bits(half), &DOUBLED_E2M1, &block[1..], out);
}
