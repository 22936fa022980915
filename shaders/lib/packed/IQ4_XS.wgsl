// (d · (scale − 32)) · value q of a table. 128 bytes as eight blocks of IQ4_NL. Factors: d in f16, then eight times two high bits
// of scales and eight times four low bits.
#include lib/lookup.wgsl
const ELEMENTS = 256u;
const BODY = 32u;
const FACTORS = 8u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let own = pair(which, factors_at(at, g / 8u));
    let low = (own.y >> (j * 4u)) & 15u;
    let high = (own.x >> (16u + j * 2u)) & 3u;
    let scale = i32(low | (high << 4u)) - 32i;
    let d = unpack2x16float(own.x).x * f32(scale);
    let q = pair(which, block + j * 4u + e % 2u * 2u) >> vec2<u32>(e / 2u * 4u);
    let values = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
    return mat2x4<f32>(
        d * lookup(fields(q.x, 15u), values),
        d * lookup(fields(q.y, 15u), values),
    );
}
