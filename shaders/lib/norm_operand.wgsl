// The norm of an operand x [T, IN] on its way into a product: gain8(c) multiplies the elements 8c .. 8c+7 (zeros past IN), and
// norm_scale(Σ x²) the sums. Options: NORM = plain | one_plus, GAIN_WEIGHT = f32 | f16 | bf16.
override EPS: f32;

#if GAIN_WEIGHT == f32
@group(0) @binding(4) var<storage, read> gains_of_x: array<f32>;
fn stored_gain(k: u32) -> f32 { return gains_of_x[k]; }
#elif GAIN_WEIGHT == f16
@group(0) @binding(4) var<storage, read> gains_of_x: array<u32>;
fn stored_gain(k: u32) -> f32 { return unpack2x16float(gains_of_x[k / 2u] >> (k % 2u * 16u)).x; }
#elif GAIN_WEIGHT == bf16
@group(0) @binding(4) var<storage, read> gains_of_x: array<u32>;
fn stored_gain(k: u32) -> f32 { return bitcast<f32>((gains_of_x[k / 2u] >> (k % 2u * 16u)) << 16u); }
#endif

fn gain_at(k: u32) -> f32 {
    if k >= IN { return 0.0; }
#if NORM == one_plus
    return 1.0 + stored_gain(k);
#elif NORM == plain
    return stored_gain(k);
#endif
}

fn gain8(c: u32) -> mat2x4<f32> {
    let k = c * 8u;
    return mat2x4<f32>(
        gain_at(k), gain_at(k + 1u), gain_at(k + 2u), gain_at(k + 3u),
        gain_at(k + 4u), gain_at(k + 5u), gain_at(k + 6u), gain_at(k + 7u),
    );
}

fn norm_scale(squares: f32) -> f32 { return 1.0 / sqrt(squares / f32(IN) + EPS); }
