// Weights of one number an element, as lib/weight.wgsl says: row-major [rows, IN] without padding.
// 16-bit types lie two to a u32, the earlier element in the low half.
// Options: WEIGHT = f32 | f16 | bf16; VEC = 8 (IN divisible by 8) | 1 (any IN); WEIGHTS = 1 | 2.
#if VEC == 8
#if WEIGHT == f32
alias Stored = mat2x4<f32>;
fn widen(s: Stored) -> mat2x4<f32> { return s; }
#elif WEIGHT == f16
alias Stored = vec4<u32>;
fn widen(s: Stored) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(s.x), unpack2x16float(s.y)),
        vec4<f32>(unpack2x16float(s.z), unpack2x16float(s.w)),
    );
}
#elif WEIGHT == bf16
alias Stored = vec4<u32>;
fn widen(s: Stored) -> mat2x4<f32> {
    // As a product: some drivers on the CPU shift each lane by itself.
    let low = bitcast<vec4<f32>>(s * 65536u);
    let high = bitcast<vec4<f32>>(s & vec4<u32>(0xffff0000u));
    return mat2x4<f32>(vec4<f32>(low.x, high.x, low.y, high.y), vec4<f32>(low.z, high.z, low.w, high.w));
}
#endif

// Where row n starts, for those who read many eights of it.
fn row_start(n: u32) -> u32 { return n * (IN / 8u); }
fn eight0(start: u32, c: u32) -> mat2x4<f32> { return widen(w0[start + c]); }
#if WEIGHTS == 2
fn eight1(start: u32, c: u32) -> mat2x4<f32> { return widen(w1[start + c]); }
#endif
#else
#if WEIGHT == f32
alias Stored = f32;
fn word_of(e: u32) -> u32 { return e; }
fn widen(s: Stored, e: u32) -> f32 { return s; }
#elif WEIGHT == f16
alias Stored = u32;
fn word_of(e: u32) -> u32 { return e >> 1u; }
fn widen(s: Stored, e: u32) -> f32 { return unpack2x16float(s >> ((e & 1u) * 16u)).x; }
#elif WEIGHT == bf16
alias Stored = u32;
fn word_of(e: u32) -> u32 { return e >> 1u; }
fn widen(s: Stored, e: u32) -> f32 { return bitcast<f32>((s >> ((e & 1u) * 16u)) << 16u); }
#endif

fn row_start(n: u32) -> u32 { return n; }
fn element0(row: u32, k: u32) -> f32 {
    if k >= IN { return 0.0; }
    let e = row * IN + k;
    return widen(w0[word_of(e)], e);
}
// The same without a branch, for readers of eight: SwiftShader compiles many copies of one slowly. Readers of one
// element keep it, as it saves GPUs registers.
fn padded0(row: u32, k: u32) -> f32 {
    let e = row * IN + min(k, IN - 1u);
    return select(widen(w0[word_of(e)], e), 0.0, k >= IN);
}
fn eight0(row: u32, c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        padded0(row, k), padded0(row, k + 1u), padded0(row, k + 2u), padded0(row, k + 3u),
        padded0(row, k + 4u), padded0(row, k + 5u), padded0(row, k + 6u), padded0(row, k + 7u),
    );
}
#if WEIGHTS == 2
fn element1(row: u32, k: u32) -> f32 {
    if k >= IN { return 0.0; }
    let e = row * IN + k;
    return widen(w1[word_of(e)], e);
}
fn padded1(row: u32, k: u32) -> f32 {
    let e = row * IN + min(k, IN - 1u);
    return select(widen(w1[word_of(e)], e), 0.0, k >= IN);
}
fn eight1(row: u32, c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        padded1(row, k), padded1(row, k + 1u), padded1(row, k + 2u), padded1(row, k + 3u),
        padded1(row, k + 4u), padded1(row, k + 5u), padded1(row, k + 6u), padded1(row, k + 7u),
    );
}
#endif
#endif
fn weight0(row: u32, c: u32) -> mat2x4<f32> { return eight0(row_start(row), c); }
#if WEIGHTS == 2
fn weight1(row: u32, c: u32) -> mat2x4<f32> { return eight1(row_start(row), c); }
#endif
