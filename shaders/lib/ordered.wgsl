// Numbers above LOWEST as u32 in their own order, -0 as 0; NaN as NOT_A_NUMBER, the largest; every other number as 0.
// NaN is recognised by its bits: a driver may compute as though there were none.
const LOWEST = -3.4e38;
const NOT_A_NUMBER = 0xffffffffu;
fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(select(v, 0.0, v == 0.0));
    let order = select(0u, select(bits | 0x80000000u, ~bits, bits >> 31u == 1u), v > LOWEST);
    return select(order, NOT_A_NUMBER, (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u);
}
