// q · d. 32 signed bytes. Factor: d in f16.
const ELEMENTS = 32u;
const BODY = 8u;
const FACTORS = 2u;

fn unpack(which: u32, row: u32, g: u32, e: u32) -> mat2x4<f32> {
    let at = row_at(row);
    let d = unpack2x16float(factors(which, at, g)).x;
    let q = pair(which, at + g * BODY + e * 2u);
    return mat2x4<f32>(
        signed(q.x) * d,
        signed(q.y) * d,
    );
}
