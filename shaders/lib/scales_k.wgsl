// Scales and minima of two neighbouring groups, one in each of the two low bytes, and their factors.
struct TwoScales { scales: u32, minima: u32, dm: u32 }

// Of the groups 2p and 2p + 1 of eight; `own` holds the factors in f16, scale first, then 12 bytes with 6 bits of each
// group's scale and minimum.
fn two_scales(own: vec4<u32>, p: u32) -> TwoScales {
    let parts = own.yzw >> vec3<u32>(p % 2u * 16u);
    let first = parts.xy & vec2<u32>(0x3f3fu);
    let low = vec2<u32>(parts.z, parts.z >> 4u) & vec2<u32>(0x0f0fu);
    let later = low | ((parts.xy >> vec2<u32>(2u)) & vec2<u32>(0x3030u));
    let both = select(first, later, p >= 2u);
    return TwoScales(both.x, both.y, own.x);
}

// The factor of the numbers of group h of the two, and the offset that is added then.
fn scale_and_offset(two: TwoScales, h: u32) -> vec2<f32> {
    let both = (vec2<u32>(two.scales, two.minima) >> vec2<u32>(h * 8u)) & vec2<u32>(255u);
    return unpack2x16float(two.dm) * vec2<f32>(both) * vec2<f32>(1.0, -1.0);
}
