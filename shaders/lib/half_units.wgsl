// The power of two that a row is divided by to fit f16, and one over it, from the row's largest |x|.
// The largest element then lies below 2^10. Elements down to 2^-24 of it are normal numbers of f16. Their products with
// weights below 64 are within f16 too, whatever a device keeps them in. Products with cached keys may exceed f16: they
// need sums in f32.
fn half_units(largest: f32) -> vec2<f32> {
    // The biased exponent; its bounds keep both powers normal, also for a row of zeros.
    let exponent = clamp(bitcast<u32>(largest) >> 23u, 10u, 254u);
    return bitcast<vec2<f32>>(vec2<u32>(exponent - 9u, 263u - exponent) << vec2<u32>(23u));
}
