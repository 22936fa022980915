// (d · scale) · q − m · minimum. 32 bytes whose bit j is the fifth of the elements of group j, 128 bytes as in Q4_K. Factors as in
// Q4_K.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 40u;
const FACTORS = 16u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let s = scale_and_minimum(which, factors_at(at, g / 8u), j);
    let fifth = pair(which, block + e * 2u) >> vec2<u32>(j);
    let q = pair(which, block + 8u + j / 2u * 8u + e * 2u) >> vec2<u32>(j % 2u * 4u);
    let first = fields(q.x, 15u) | (fields(fifth.x, 1u) << vec4<u32>(4u));
    let second = fields(q.y, 15u) | (fields(fifth.y, 1u) << vec4<u32>(4u));
    return mat2x4<f32>(
        s.x * numbers(first, 0i) - s.y,
        s.x * numbers(second, 0i) - s.y,
    );
}
