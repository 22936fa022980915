// q · d + m. 16 bytes as in Q4_0. Factors: d and m in f16.
const ELEMENTS = 32u;
const BODY = 4u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let dm = unpack2x16float(factors(which, at, g));
    let q = pair(which, at + g * BODY + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    return mat2x4<f32>(
        numbers(fields(q.x, 15u), 0i) * dm.x + dm.y,
        numbers(fields(q.y, 15u), 0i) * dm.x + dm.y,
    );
}

const APART = 2u;
const SHARES = 1u;
struct Stretch { q: vec4<u32>, dm: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch { return Stretch(quad(which, at, s * BODY), factor_bits(which, at, s)); }
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> { return bytes(nibbles(held.q, e)); }
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> { return unpack2x16float(held.dm); }
