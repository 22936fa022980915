// The operand x [T, IN] of a linear, f32, eight elements at a time; zeros past IN. Options: VEC = 8 | 1.
#if VEC == 8
alias Operand = mat2x4<f32>;
fn x8(t: u32, c: u32) -> mat2x4<f32> { return x[t * (IN / 8u) + c]; }
#else
alias Operand = f32;
fn x1(t: u32, k: u32) -> f32 {
    return select(x[t * IN + min(k, IN - 1u)], 0.0, k >= IN);
}
fn x8(t: u32, c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        x1(t, k), x1(t, k + 1u), x1(t, k + 2u), x1(t, k + 3u),
        x1(t, k + 4u), x1(t, k + 5u), x1(t, k + 6u), x1(t, k + 7u),
    );
}
#endif

fn dot4(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }
fn dot8(a: mat2x4<f32>, b: mat2x4<f32>, sum: f32) -> f32 { return dot4(a[1], b[1], dot4(a[0], b[0], sum)); }
