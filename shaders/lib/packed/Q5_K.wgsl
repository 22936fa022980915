// (d · scale) · q − m · minimum. 12 bytes of eight scales and minima, 32 bytes whose bit j is the fifth of the elements of block j,
// 128 bytes as in Q4_K. Factors: d and m in f16.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 43u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let s = scale_and_minimum(which, block, j, factors(which, at, g / 8u));
    let fifth = block + 3u + e * 2u;
    let q = block + 11u + j / 2u * 8u + e * 2u;
    let shift = j % 2u * 4u;
    let first = fields(word(which, q) >> shift, 15u) | (fields(word(which, fifth) >> j, 1u) << vec4<u32>(4u));
    let second = fields(word(which, q + 1u) >> shift, 15u) | (fields(word(which, fifth + 1u) >> j, 1u) << vec4<u32>(4u));
    return mat2x4<f32>(
        s.x * numbers(first, 0i) - s.y,
        s.x * numbers(second, 0i) - s.y,
    );
}
