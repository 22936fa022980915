// d · value q of a table. 16 bytes as in Q4_0. Factor: d in f16.
#include lib/lookup.wgsl
const ELEMENTS = 32u;
const BODY = 4u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let d = unpack2x16float(factors(which, at, g)).x;
    let q = pair(which, at + g * BODY + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    return d * lookup8(q, IQ4);
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch { return Stretch(quad(which, at, s * BODY), factor_bits(which, at, s)); }
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return lookup8(nibbles(held.q, e), IQ4); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return vec2<f32>(unpack2x16float(held.d).x, 0.0); }
