// The norm of an operand x [T, IN] on its way into a product. `gained` multiplies elements by those of stored_gains(c),
// of the elements 8c .. 8c+7; norm_scale(Σ x²) is the factor of the sums.
// Options: NORM = plain | one_plus, GAIN_WEIGHT = f32 | f16 | bf16, VEC.
override EPS: f32;

#if VEC == 8
#if GAIN_WEIGHT == f32
@group(0) @binding(4) var<storage, read> gains_of_x: array<mat2x4<f32>>;
fn stored_gains(c: u32) -> mat2x4<f32> { return gains_of_x[c]; }
#else
@group(0) @binding(4) var<storage, read> gains_of_x: array<vec4<u32>>;
fn stored_gains(c: u32) -> mat2x4<f32> {
    let s = gains_of_x[c];
    return mat2x4<f32>(vec4<f32>(halves_of(s.x), halves_of(s.y)), vec4<f32>(halves_of(s.z), halves_of(s.w)));
}
#endif
#else
#if GAIN_WEIGHT == f32
@group(0) @binding(4) var<storage, read> gains_of_x: array<f32>;
fn stored_gain(k: u32) -> f32 { return gains_of_x[min(k, IN - 1u)]; }
#else
@group(0) @binding(4) var<storage, read> gains_of_x: array<u32>;
fn stored_gain(k: u32) -> f32 { return halves_of(gains_of_x[min(k, IN - 1u) / 2u])[k % 2u]; }
#endif
fn stored_gains(c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        stored_gain(k), stored_gain(k + 1u), stored_gain(k + 2u), stored_gain(k + 3u),
        stored_gain(k + 4u), stored_gain(k + 5u), stored_gain(k + 6u), stored_gain(k + 7u),
    );
}
#endif
#if GAIN_WEIGHT == f16
fn halves_of(s: u32) -> vec2<f32> { return unpack2x16float(s); }
#elif GAIN_WEIGHT == bf16
fn halves_of(s: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(s << 16u, s & 0xffff0000u)); }
#endif

// Four elements of x times their gains.
fn gained(own: vec4<f32>, gains: vec4<f32>) -> vec4<f32> {
#if NORM == one_plus
    return fma(own, gains, own);
#elif NORM == plain
    return own * gains;
#endif
}

fn norm_scale(squares: f32) -> f32 { return 1.0 / sqrt(squares / f32(IN) + EPS); }
