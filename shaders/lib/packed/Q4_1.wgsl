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
