// (d · scale) · q − m · minimum. 128 bytes: of 64 elements the first 32 in the low halves. Factors: d and m in f16, then 12 bytes of
// eight scales and minima.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 32u;
const FACTORS = 16u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let s = scale_and_minimum(which, factors_at(at, g / 8u), j);
    let q = pair(which, block + j / 2u * 8u + e * 2u) >> vec2<u32>(j % 2u * 4u);
    return mat2x4<f32>(
        s.x * numbers(fields(q.x, 15u), 0i) - s.y,
        s.x * numbers(fields(q.y, 15u), 0i) - s.y,
    );
}
