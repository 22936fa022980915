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
