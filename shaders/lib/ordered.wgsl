// Numbers above LOWEST as u32 in their own order, -0 as 0; 0 for every other, NaN too.
const LOWEST = -3.4e38;
fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(select(v, 0.0, v == 0.0));
    return select(0u, select(bits | 0x80000000u, ~bits, bits >> 31u == 1u), v > LOWEST);
}
