// The operand x [T, IN] of a linear, f32, eight elements at a time; zeros past IN. Options: VEC = 8 | 1.
#if VEC == 8
alias Operand = mat2x4<f32>;
fn x8(t: u32, c: u32) -> mat2x4<f32> { return x[t * (IN / 8u) + c]; }
#else
alias Operand = f32;
fn x1(t: u32, k: u32) -> f32 {
    if k >= IN { return 0.0; }
    return x[t * IN + k];
}
fn x8(t: u32, c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        x1(t, k), x1(t, k + 1u), x1(t, k + 2u), x1(t, k + 3u),
        x1(t, k + 4u), x1(t, k + 5u), x1(t, k + 6u), x1(t, k + 7u),
    );
}
#endif

fn dot8(a: Eight, b: Eight, sum: f32) -> f32 {
    let a0 = vec4<f32>(a[0]);
    let a1 = vec4<f32>(a[1]);
    let b0 = vec4<f32>(b[0]);
    let b1 = vec4<f32>(b[1]);
    let low = fma(a0.w, b0.w, fma(a0.z, b0.z, fma(a0.y, b0.y, fma(a0.x, b0.x, sum))));
    return fma(a1.w, b1.w, fma(a1.z, b1.z, fma(a1.y, b1.y, fma(a1.x, b1.x, low))));
}
