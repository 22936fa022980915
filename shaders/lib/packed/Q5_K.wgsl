// (d · scale) · q − m · minimum. 32 bytes whose bit j is the fifth of the elements of group j, 128 bytes as in Q4_K.
// Factors as in Q4_K.
#include lib/scales_k.wgsl
const ELEMENTS = 256u;
const BODY = 40u;
const FACTORS = 16u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let own = factors_at(at, g / 8u);
    let s = scale_and_offset(two_scales(vec4<u32>(pair(which, own), pair(which, own + 2u)), j / 2u), j % 2u);
    let fifth = pair(which, block + e * 2u) >> vec2<u32>(j);
    let q = pair(which, block + 8u + j / 2u * 8u + e * 2u) >> vec2<u32>(j % 2u * 4u);
    let first = fields(q.x, 15u) | (fields(fifth.x, 1u) << vec4<u32>(4u));
    let second = fields(q.y, 15u) | (fields(fifth.y, 1u) << vec4<u32>(4u));
    return mat2x4<f32>(
        s.x * numbers(first, 0i) + s.y,
        s.x * numbers(second, 0i) + s.y,
    );
}

const APART = 4u;
const SHARES = 2u;
struct Stretch { q: vec4<u32>, fifths: vec4<u32>, scales: TwoScales }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let block = s / 8u * BODY;
    let fifths = quad(which, at, block + s % 2u * 4u) >> vec4<u32>(s % 8u / 2u * 2u);
    let scales = two_scales(quad(which, at, factor_word(s / 8u)), s % 8u / 2u);
    return Stretch(quad(which, at, block + 8u + s % 8u * 4u), fifths, scales);
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> {
    let fifths = pair_of(held.fifths, e) >> vec2<u32>(e / 2u);
    return bytes(nibbles(held.q, e) | ((fifths & vec2<u32>(0x01010101u)) << vec2<u32>(4u)));
}
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return scale_and_offset(held.scales, h); }
