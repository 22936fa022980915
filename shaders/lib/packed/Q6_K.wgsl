// (d · scale) · (q − 32). 128 bytes of four low bits, 64 of two high bits, 16 signed scales. Factor: d in f16.
const ELEMENTS = 256u;
const BODY = 52u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let d = unpack2x16float(factors(which, at, g / 8u)).x;
    // Scale 2j + e/2.
    let byte = (j % 2u * 2u + e / 2u) * 8u;
    let scale = d * f32(bitcast<i32>(word(which, block + 48u + j / 2u) << (24u - byte)) >> 24u);
    let quarter = j % 4u;
    let low = pair(which, block + j / 4u * 16u + quarter % 2u * 8u + e * 2u) >> vec2<u32>(quarter / 2u * 4u);
    let high = pair(which, block + 32u + j / 4u * 8u + e * 2u) >> vec2<u32>(quarter * 2u);
    let first = fields(low.x, 15u) | (fields(high.x, 3u) << vec4<u32>(4u));
    let second = fields(low.y, 15u) | (fields(high.y, 3u) << vec4<u32>(4u));
    return mat2x4<f32>(
        scale * numbers(first, 32i),
        scale * numbers(second, 32i),
    );
}

const APART = 8u;
const SHARES = 2u;
struct Stretch { low: vec4<u32>, high: vec4<u32>, scales: vec2<u32>, d: u32 }
fn stretch(which: u32, at: u32, s: u32) -> Stretch {
    let block = s / 8u * BODY;
    let half = s / 4u % 2u;
    let high = quad(which, at, block + 32u + half * 8u + s % 2u * 4u) >> vec4<u32>(s / 2u % 2u * 2u);
    let all = quad(which, at, block + 48u);
    let scales = select(all.xy, all.zw, half == 1u);
    return Stretch(quad(which, at, block + s % 8u * 4u), high, scales, factor_bits(which, at, s / 8u));
}
fn raw(held: Stretch, s: u32, e: u32) -> mat2x4<f32> {
    let high = pair_of(held.high, e) >> vec2<u32>(e / 2u * 4u);
    return bytes(nibbles(held.low, e) | ((high & vec2<u32>(0x03030303u)) << vec2<u32>(4u)));
}
fn share(held: Stretch, s: u32, h: u32) -> vec2<f32> {
    let scale = bitcast<i32>(held.scales[h] << (24u - s % 4u * 8u)) >> 24u;
    return unpack2x16float(held.d).x * f32(scale) * vec2<f32>(1.0, -32.0);
}
