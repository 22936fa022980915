// q · d. 32 signed bytes. Factor: d in f16.
const ELEMENTS = 32u;
const BODY = 8u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let d = unpack2x16float(factors(which, at, g)).x;
    let q = pair(which, at + g * BODY + e * 2u);
    return mat2x4<f32>(
        signed(q.x) * d,
        signed(q.y) * d,
    );
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { first: vec4<u32>, second: vec4<u32>, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    return Stretch(quad(which, at, s * BODY), quad(which, at, s * BODY + 4u), factor_bits(which, at, s));
}
// The numbers plus 128.
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> {
    var q = held.first;
    if e >= 2u { q = held.second; }
    return bytes(pair_of(q, e) ^ vec2<u32>(0x80808080u));
}
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return unpack2x16float(held.d).x * vec2<f32>(1.0, -128.0); }
