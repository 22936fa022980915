// (d · (scale − 32)) · value q of a table. 128 bytes as eight blocks of IQ4_NL.
// Factors: d in f16, then eight times two high bits of scales and eight times four low bits.
#include lib/lookup.wgsl
const ELEMENTS = 256u;
const BODY = 32u;
const FACTORS = 8u;

// Of group j of eight.
fn scale_of(own: vec2<u32>, j: u32) -> f32 {
    let low = (own.y >> (j * 4u)) & 15u;
    let high = (own.x >> (16u + j * 2u)) & 3u;
    return unpack2x16float(own.x).x * f32(i32(low | (high << 4u)) - 32i);
}

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let own = pair(which, factors_at(at, g / 8u));
    let d = scale_of(own, j);
    let q = pair(which, block + j * 4u + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    return d * lookup8(q, IQ4);
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, own: vec2<u32> }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let own = vec2<u32>(factor_bits(which, at, s / 8u), word_of(which, at, factor_word(s / 8u) + 1u));
    return Stretch(quad(which, at, s * 4u), own);
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return lookup8(nibbles(held.q, e), IQ4); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return vec2<f32>(scale_of(held.own, s % 8u), 0.0); }
