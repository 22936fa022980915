// Multiplies and adds in registers, to measure the arithmetic rate. It writes nothing, as no sum is negative.
//
// An invocation runs ROUNDS rounds of 24 vec4 operations, three chains of 8: 192 multiplications and additions a round.

alias real = f32;

@group(0) @binding(0) var<storage, read_write> sink: array<u32>;

const ROUNDS: u32 = 128u;

@compute @workgroup_size(256)
fn multiply_add(@builtin(global_invocation_id) id: vec3<u32>) {
    // Contracts towards x / (1 − 0.5), so that values stay normal.
    let factor = vec4<real>(real(0.5));
    let x = vec4<real>(real(f32(id.x & 255u) * 0.0039));
    var a = x;
    var b = x + real(1.0);
    var c = x + real(2.0);
    for (var round = 0u; round < ROUNDS; round++) {
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
        a = fma(a, factor, x); b = fma(b, factor, x); c = fma(c, factor, x);
    }
    let all = a + b + c;
    if f32(all.x + all.y + all.z + all.w) == -1.0 {
        sink[0] = 1u;
    }
}
