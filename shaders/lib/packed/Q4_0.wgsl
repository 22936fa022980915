// d · (q − 8). 16 bytes: element j in the low, j + 16 in the high half of byte j. Factor: d in f16.
const ELEMENTS = 32u;
const BODY = 4u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let d = unpack2x16float(factors(which, at, g)).x;
    let q = pair(which, at + g * BODY + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    return mat2x4<f32>(
        numbers(fields(q.x, 15u), 8i) * d,
        numbers(fields(q.y, 15u), 8i) * d,
    );
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch { return Stretch(quad(which, at, s * BODY), factor_bits(which, at, s)); }
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return bytes(nibbles(held.q, e)); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return unpack2x16float(held.d).x * vec2<f32>(1.0, -8.0); }
