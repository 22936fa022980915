// d · (q − 16). 32 fifth bits, then 16 bytes as in Q4_0. Factor: d in f16.
#include lib/fifths.wgsl
const ELEMENTS = 32u;
const BODY = 5u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let d = unpack2x16float(factors(which, at, g)).x;
    let block = at + g * BODY;
    // The fifth bits of the eight elements.
    let fifth = word(which, block) >> (e * 8u);
    let q = block + 1u + e % 2u * 2u;
    let shift = e / 2u * 4u;
    let low = fields(word(which, q) >> shift, 15u) | fifths(fifth);
    let high = fields(word(which, q + 1u) >> shift, 15u) | fifths(fifth >> 4u);
    return mat2x4<f32>(
        numbers(low, 16i) * d,
        numbers(high, 16i) * d,
    );
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, fifths: u32, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    return Stretch(quad(which, at, s * BODY + 1u), word_of(which, at, s * BODY), factor_bits(which, at, s));
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return bytes(nibbles(held.q, e) | eight_fifths(held.fifths >> (e * 8u))); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return unpack2x16float(held.d).x * vec2<f32>(1.0, -16.0); }
