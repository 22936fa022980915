// The four lowest bits, each as the fifth bit of a number.
fn fifths(bits: u32) -> vec4<u32> { return (vec4<u32>(bits) << vec4<u32>(4u, 3u, 2u, 1u)) & vec4<u32>(16u); }
