// (d · scale) · q − m · minimum. 128 bytes: of 64 elements the first 32 in the low halves.
// Factors: d and m in f16, then 12 bytes of eight scales and minima.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 32u;
const FACTORS = 16u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let own = factors_at(at, g / 8u);
    let s = scale_and_offset(two_scales(vec4<u32>(pair(which, own), pair(which, own + 2u)), j / 2u), j % 2u);
    let q = pair(which, block + j / 2u * 8u + e * 2u) >> vec2<u32>(j % 2u * 4u);
    return mat2x4<f32>(
        s.x * numbers(fields(q.x, 15u), 0i) + s.y,
        s.x * numbers(fields(q.y, 15u), 0i) + s.y,
    );
}

const APART = 4u;
const SHARES = 2u;
struct Stretch { q: vec4<u32>, scales: TwoScales }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    return Stretch(quad(which, at, s * 4u), two_scales(quad(which, at, factor_word(s / 8u)), s % 8u / 2u));
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return bytes(nibbles(held.q, e)); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return scale_and_offset(held.scales, h); }
