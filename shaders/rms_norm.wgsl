// RMSNorm: y[r, c] = epilogue(r*C + c, x[r, c] / sqrt(mean_c(x[r, c]²) + EPS) · g[c]); x, y [R, C], gain γ [C].
// g = 1 + γ (GAIN = one_plus), γ (plain), 1 (none; no binding 2).
// SECOND_NORM = yes: also z[r, c] = y[r, c] / sqrt(mean_c(y[r, c]²) + SECOND_EPS) · g'[c], with a gain of its own of
//   the same sort.
// One workgroup: one row r. Grid: R folded over x and y.
// Overrides: R, C, EPS, SECOND_EPS. Options: TIER, LANES, GAIN, SECOND_NORM; unless GAIN = none
//   WEIGHT, VEC = 1 and WEIGHTS (2 with SECOND_NORM = yes).
// Hole: epilogue(i: u32, v: f32) -> f32.
override R: u32;
override C: u32;
override EPS: f32;
#if SECOND_NORM == yes
override SECOND_EPS: f32;
#endif

const LANES = ${LANES}u;
#include lib/lanes.wgsl
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#if SECOND_NORM == yes
@group(0) @binding(4) var<storage, read_write> z: array<f32>;
#endif
#if GAIN == none
fn gain(c: u32) -> f32 { return 1.0; }
fn second_gain(c: u32) -> f32 { return 1.0; }
#else
override IN: u32 = C;
#include lib/weight.wgsl
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if GAIN == one_plus
fn gain(c: u32) -> f32 { return 1.0 + element0(0u, c); }
#elif GAIN == plain
fn gain(c: u32) -> f32 { return element0(0u, c); }
#endif
#if SECOND_NORM == yes
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
#if GAIN == one_plus
fn second_gain(c: u32) -> f32 { return 1.0 + element1(0u, c); }
#elif GAIN == plain
fn second_gain(c: u32) -> f32 { return element1(0u, c); }
#endif
#endif
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
    var squares = 0.0;
    for (var c = lane; c < C; c += LANES) {
        let v = x[row * C + c];
        squares = fma(v, v, squares);
    }
    let scale = 1.0 / sqrt(lanes_sum(squares, lane) / f32(C) + EPS);
#if SECOND_NORM == yes
    squares = 0.0;
#endif
    for (var c = lane; c < C; c += LANES) {
        let i = row * C + c;
        let v = epilogue(i, x[i] * scale * gain(c));
        y[i] = v;
#if SECOND_NORM == yes
        squares = fma(v, v, squares);
#endif
    }
#if SECOND_NORM == yes
    // Each lane reads what it wrote itself.
    let second_scale = 1.0 / sqrt(lanes_sum(squares, lane) / f32(C) + SECOND_EPS);
    for (var c = lane; c < C; c += LANES) { z[row * C + c] = y[row * C + c] * second_scale * second_gain(c); }
#endif
}
