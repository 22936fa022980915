// (d · scale) · q − m · minimum. 12 bytes of eight scales and minima, 128 bytes: of 64 elements the first 32 in the low halves.
// Factors: d and m in f16.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 35u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let s = scale_and_minimum(which, block, j, factors(which, at, g / 8u));
    let q = block + 3u + j / 2u * 8u + e * 2u;
    let shift = j % 2u * 4u;
    return mat2x4<f32>(
        s.x * numbers(fields(word(which, q) >> shift, 15u), 0i) - s.y,
        s.x * numbers(fields(word(which, q + 1u) >> shift, 15u), 0i) - s.y,
    );
}
