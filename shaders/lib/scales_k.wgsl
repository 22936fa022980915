// Scale and minimum of group j of eight times their factors: from word `at` (even) on the factors in f16, scale first, then 12
// bytes with 6 bits of each.
fn scale_and_minimum(which: u32, at: u32, j: u32) -> vec2<f32> {
    let shift = j % 4u * 8u;
    let head = pair(which, at);
    let tail = pair(which, at + 2u) >> vec2<u32>(shift);
    let first = head.y >> shift;
    let second = tail.x;
    let third = tail.y;
    let later = vec2<u32>(third & 15u, (third >> 4u) & 15u) | ((vec2<u32>(first, second) >> vec2<u32>(2u)) & vec2<u32>(48u));
    let packed = select(vec2<u32>(first & 63u, second & 63u), later, j >= 4u);
    return unpack2x16float(head.x) * vec2<f32>(bitcast<vec2<i32>>(packed));
}
