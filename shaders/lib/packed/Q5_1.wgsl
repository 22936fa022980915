// q · d + m. 16 bytes as in Q4_0. Factors: d and m in f16, then 32 fifth bits.
#include lib/fifths.wgsl
const ELEMENTS = 32u;
const BODY = 4u;
const FACTORS = 8u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let own = pair(which, factors_at(at, g));
    let dm = unpack2x16float(own.x);
    // The fifth bits of the eight elements.
    let fifth = own.y >> (e * 8u);
    let q = pair(which, at + g * BODY + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    let low = fields(q.x, 15u) | fifths(fifth);
    let high = fields(q.y, 15u) | fifths(fifth >> 4u);
    return mat2x4<f32>(
        numbers(low, 0i) * dm.x + dm.y,
        numbers(high, 0i) * dm.x + dm.y,
    );
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, own: vec2<u32> }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let own = vec2<u32>(factor_bits(which, at, s), word_of(which, at, factor_word(s) + 1u));
    return Stretch(quad(which, at, s * BODY), own);
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return bytes(nibbles(held.q, e) | eight_fifths(held.own.y >> (e * 8u))); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return unpack2x16float(held.own.x); }
