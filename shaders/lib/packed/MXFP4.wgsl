// 2^(e − 127) · the number q of E2M1 (OCP Microscaling Formats 1.0). 16 bytes as in Q4_0. Factor: the byte e.
#include lib/lookup.wgsl
const ELEMENTS = 32u;
const BODY = 4u;
const FACTORS = 1u;

// Half of the power, as the numbers of the table are doubled; the two smallest are subnormal.
fn half_of(power: u32) -> f32 {
    return bitcast<f32>(select((power - 1u) << 23u, 0x00200000u << (power & 1u), power < 2u));
}

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let half = half_of(factors(which, at, g) & 0xffu);
    let q = pair(which, at + g * BODY + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    return half * lookup8(q, E2M1);
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, power: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch { return Stretch(quad(which, at, s * BODY), factor_bits(which, at, s)); }
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return lookup8(nibbles(held.q, e), E2M1); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return vec2<f32>(half_of(held.power & 0xffu), 0.0); }
