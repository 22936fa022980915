// LayerNorm: y[r, c] = epilogue(r*C + c, (x[r, c] − mean) / sqrt(variance + EPS) · γ[c] + β[c]).
// x, y [R, C], γ and β [C].
// The variance is the mean of (x − mean)², in a second pass: E[x²] − mean² cancels where the mean is large. All is
// taken relative to the row's first element: in a row of nearly equal ones the mean's rounding would be seen.
// One workgroup: one row r. Grid: R folded over x and y.
// Overrides: R, C, EPS. Options: TIER, LANES, WEIGHT, VEC = 1, WEIGHTS = 2 with BIAS = yes, 1 with no (no binding 3).
// Hole: epilogue(i: u32, v: f32) -> f32.
override R: u32;
override C: u32;
override EPS: f32;

const LANES = ${LANES}u;
#include lib/lanes.wgsl
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

override IN: u32 = C;
#include lib/weight.wgsl
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if BIAS == yes
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
fn bias(c: u32) -> f32 { return element1(0u, c); }
#elif BIAS == no
fn bias(c: u32) -> f32 { return 0.0; }
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let row = wid.x + wid.y * groups.x;
    if row >= R { return; }
    let first = x[row * C];
    var sum = 0.0;
    for (var c = lane; c < C; c += LANES) { sum += x[row * C + c] - first; }
    let mean = lanes_sum(sum, lane) / f32(C);
    var squares = 0.0;
    for (var c = lane; c < C; c += LANES) {
        let v = x[row * C + c] - first - mean;
        squares = fma(v, v, squares);
    }
    let scale = 1.0 / sqrt(lanes_sum(squares, lane) / f32(C) + EPS);
    for (var c = lane; c < C; c += LANES) {
        let i = row * C + c;
        y[i] = epilogue(i, (x[i] - first - mean) * scale * element0(0u, c) + bias(c));
    }
}
