// The numbers that products are computed with; sums are f32.
// Options: COMPUTE = f32 | f16 (operands are rounded to f16, within ±65504, the largest number that it holds; a product
//   of two of them may exceed it and so is f32 too).
#if COMPUTE == f32
alias Number = f32;
alias Eight = mat2x4<f32>;
fn number(v: f32) -> Number { return v; }
fn four(v: vec4<f32>) -> vec4<Number> { return v; }
#elif COMPUTE == f16
enable f16;
alias Number = f16;
alias Eight = mat2x4<f16>;
const MOST = vec4<f32>(65504.0);
fn number(v: f32) -> Number { return f16(clamp(v, -65504.0, 65504.0)); }
fn four(v: vec4<f32>) -> vec4<Number> { return vec4<f16>(clamp(v, -MOST, MOST)); }
#endif
fn eight(v: mat2x4<f32>) -> Eight { return Eight(four(v[0]), four(v[1])); }
// As numbers of that sort, back in f32.
fn rounded(v: vec4<f32>) -> vec4<f32> { return vec4<f32>(four(v)); }
fn rounded8(v: mat2x4<f32>) -> mat2x4<f32> { return mat2x4<f32>(rounded(v[0]), rounded(v[1])); }
