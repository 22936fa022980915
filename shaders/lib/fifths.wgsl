// The four lowest bits, each as the fifth bit of a number.
fn fifths(bits: u32) -> vec4<u32> { return (vec4<u32>(bits) << vec4<u32>(4u, 3u, 2u, 1u)) & vec4<u32>(16u); }

// The eight lowest bits, each as the fifth bit of a byte.
fn eight_fifths(bits: u32) -> vec2<u32> {
    let four = vec2<u32>(bits & 15u, (bits >> 4u) & 15u);
    return ((four * vec2<u32>(0x00204081u)) & vec2<u32>(0x01010101u)) << vec2<u32>(4u);
}
