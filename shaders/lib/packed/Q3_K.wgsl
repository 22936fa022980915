// (d · (scale − 32)) · (q − 4). 32 bytes of third bits, 64 of four times two low bits, 12 of 16 scales of 6 bits.
// Factor: d in f16.
const ELEMENTS = 256u;
const BODY = 27u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let d = unpack2x16float(factors(which, at, g / 8u)).x;
    // Of scale i = 2j + e/2, four low bits are in byte i % 8 and two high ones in byte 8 + i % 4.
    let byte = (j % 2u * 2u + e / 2u) * 8u;
    let low = (word(which, block + 24u + j % 4u / 2u) >> (byte + j / 4u * 4u)) & 15u;
    let high = (word(which, block + 26u) >> (byte + j / 2u * 2u)) & 3u;
    let scale = d * f32(i32(low | (high << 4u)) - 32i);
    let third = block + e * 2u;
    let q = block + 8u + j / 4u * 8u + e * 2u;
    let shift = j % 4u * 2u;
    let first = fields(word(which, q) >> shift, 3u) | (fields(word(which, third) >> j, 1u) << vec4<u32>(2u));
    let second = fields(word(which, q + 1u) >> shift, 3u) | (fields(word(which, third + 1u) >> j, 1u) << vec4<u32>(2u));
    return mat2x4<f32>(
        scale * numbers(first, 4i),
        scale * numbers(second, 4i),
    );
}

const APART = 8u;
const SHARES = 2u;
struct Stretch { q: vec4<u32>, third: vec4<u32>, low: vec2<u32>, high: u32, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let block = s / 8u * BODY;
    let half = s / 4u % 2u;
    let c = s / 2u % 2u;
    let q = quad(which, at, block + 8u + half * 8u + s % 2u * 4u) >> vec4<u32>(c * 2u);
    let third = quad(which, at, block + s % 2u * 4u) >> vec4<u32>(half * 4u + c);
    let low = vec2<u32>(word_of(which, at, block + 24u), word_of(which, at, block + 25u)) >> vec2<u32>(s % 4u * 8u + half * 4u);
    let high = word_of(which, at, block + 26u) >> (s % 4u * 8u + half * 4u);
    return Stretch(q, third, low, high, factor_bits(which, at, s / 8u));
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> {
    let low = (pair_of(held.q, e) >> vec2<u32>(e / 2u * 4u)) & vec2<u32>(0x03030303u);
    let third = (pair_of(held.third, e) >> vec2<u32>(e / 2u * 2u)) & vec2<u32>(0x01010101u);
    return bytes(low | (third << vec2<u32>(2u)));
}
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> {
    let scale = (held.low[h] & 15u) | (((held.high >> (h * 2u)) & 3u) << 4u);
    return unpack2x16float(held.d).x * f32(i32(scale) - 32i) * vec2<f32>(1.0, -4.0);
}
