// (d · scale) · q − m · minimum. 16 bytes: scale in the low, minimum in the high half, of 16 elements each; 64 bytes of four
// 2-bit elements. Factors: d and m in f16.
const ELEMENTS = 256u;
const BODY = 20u;
const FACTORS = 4u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let block = at + g / 8u * BODY;
    // Of the block's eight groups.
    let j = g % 8u;
    let dm = unpack2x16float(factors(which, at, g / 8u));
    let packed = word(which, block + j / 2u) >> ((j % 2u * 2u + e / 2u) * 8u);
    let scale = dm.x * f32(packed & 15u);
    let minimum = dm.y * f32((packed >> 4u) & 15u);
    let q = pair(which, block + 4u + j / 4u * 8u + e * 2u) >> vec2<u32>(j % 4u * 2u);
    return mat2x4<f32>(
        scale * numbers(fields(q.x, 3u), 0i) - minimum,
        scale * numbers(fields(q.y, 3u), 0i) - minimum,
    );
}
