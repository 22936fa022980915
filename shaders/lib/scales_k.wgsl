// Scale and minimum of block j of eight, 6 bits each in the 12 bytes from word `at` on, times their factors (f16, scale first).
fn scale_and_minimum(which: u32, at: u32, j: u32, factor: u32) -> vec2<f32> {
    let shift = j % 4u * 8u;
    let first = word(which, at) >> shift;
    let second = word(which, at + 1u) >> shift;
    let third = word(which, at + 2u) >> shift;
    let later = vec2<u32>(third & 15u, (third >> 4u) & 15u) | ((vec2<u32>(first, second) >> vec2<u32>(2u)) & vec2<u32>(48u));
    let packed = select(vec2<u32>(first & 63u, second & 63u), later, j >= 4u);
    return unpack2x16float(factor) * vec2<f32>(bitcast<vec2<i32>>(packed));
}
