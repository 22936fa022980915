// Numbers in four words of 64 bits, the earlier ones in the lower bits. Options: WEIGHT = f16 | bf16.
// Sixteen numbers of a weight: number 4i + j in column j, row i.
alias Sixteen = mat4x4<Number>;
#if WEIGHT == bf16
fn even(s: vec4<u32>) -> vec4<f32> { return bitcast<vec4<f32>>(s << vec4<u32>(16u)); }
fn odd(s: vec4<u32>) -> vec4<f32> { return bitcast<vec4<f32>>(s & vec4<u32>(0xffff0000u)); }
#elif WEIGHT == f16
fn even(s: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(s.x).x, unpack2x16float(s.y).x, unpack2x16float(s.z).x, unpack2x16float(s.w).x);
}
fn odd(s: vec4<u32>) -> vec4<f32> { return even(s >> vec4<u32>(16u)); }
#endif
fn sixteen(s: vec4<u64>) -> Sixteen {
    let low = vec4<u32>(s);
    let high = vec4<u32>(s >> vec4<u32>(32u));
    return Sixteen(four(even(low)), four(odd(low)), four(even(high)), four(odd(high)));
}

// Eight f32: number 2i + j in column j, row i.
fn words(s: vec4<u64>) -> mat2x4<f32> {
    return mat2x4<f32>(bitcast<vec4<f32>>(vec4<u32>(s)), bitcast<vec4<f32>>(vec4<u32>(s >> vec4<u32>(32u))));
}
