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
