// q · d + m. 32 fifth bits, then 16 bytes as in Q4_0. Factors: d and m in f16.
#include lib/fifths.wgsl
const ELEMENTS = 32u;
const BODY = 5u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let dm = unpack2x16float(factors(which, at, g));
    let block = at + g * BODY;
    // The fifth bits of the eight elements.
    let fifth = word(which, block) >> (e * 8u);
    let q = block + 1u + e % 2u * 2u;
    let shift = e / 2u * 4u;
    let low = fields(word(which, q) >> shift, 15u) | fifths(fifth);
    let high = fields(word(which, q + 1u) >> shift, 15u) | fifths(fifth >> 4u);
    return mat2x4<f32>(
        numbers(low, 0i) * dm.x + dm.y,
        numbers(high, 0i) * dm.x + dm.y,
    );
}
