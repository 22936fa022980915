// Rows in f16, each times a power of two, for products whose operands must not exceed f16 (lib/half_units.wgsl).
// With the largest |x[t, k]| of a row in [2^b, 2^(b+1)):
//   halves[t, k] = x[t, k]·2^(9-b), zeros from IN to the next multiple of 32; scales[t] = 2^(b-9).
// X = rows: x is [T, IN].
// X = windows: row t is what lies under the taps of a convolution's kernel at its position t, in the order of a row of
//   its weight: channels first, then taps. x is a picture, and IN = C*KH*KW.
// One workgroup: one row t. Grid: T folded over x and y.
// Overrides: T, IN (X = windows: T, and those of lib/windows.wgsl). Options: X, TIER, LANES, COMPUTE = f16,
//   and VEC with X = rows.
override T: u32;

const LANES = ${LANES}u;
#include lib/lanes.wgsl
#include lib/product.wgsl
#include lib/half_units.wgsl
#if X == rows
override IN: u32;
#include lib/operand.wgsl
@group(0) @binding(0) var<storage, read> x: array<Operand>;
#elif X == windows
#include lib/windows.wgsl
fn x1(corner: Corner, k: u32) -> f32 {
    if k >= IN { return 0.0; }
    let tap = k % (KH * KW);
    return pixel(corner, tap / KW, tap % KW, k / (KH * KW));
}
fn x8(t: u32, c: u32) -> mat2x4<f32> {
    let corner = corner_of(t);
    var v: mat2x4<f32>;
    for (var e = 0u; e < 8u; e++) { v[e / 4u][e % 4u] = x1(corner, c * 8u + e); }
    return v;
}
#endif
@group(0) @binding(1) var<storage, read_write> halves: array<Eight>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let t = wid.x + wid.y * groups.x;
    if t >= T { return; }
    let chunks = (IN + 7u) / 8u;
    var most = vec4<f32>();
    for (var c = lane; c < chunks; c += LANES) {
        let v = x8(t, c);
        most = max(most, max(abs(v[0]), abs(v[1])));
    }
    let units = half_units(lanes_max(max(max(most.x, most.y), max(most.z, most.w)), lane));
    if lane == 0u { scales[t] = units.x; }
    let stored = (IN + 31u) / 32u * 4u;
    for (var c = lane; c < stored; c += LANES) {
        var v: mat2x4<f32>;
        if c < chunks { v = x8(t, c); }
        halves[t * stored + c] = eight(v * units.y);
    }
}
