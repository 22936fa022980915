// A reduction of the innermost dimension, sum or max: y[r] = reduce_c(x[r, c]); x [R, C], y [R], f32.
// One workgroup: one row. Grid: R folded over x and y.
// Overrides: R, C. Options: TIER, LANES, REDUCE = sum | max.
override R: u32;
override C: u32;

const LANES = ${LANES}u;
#include lib/lanes.wgsl
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let r = wid.x + wid.y * groups.x;
    if r >= R { return; }
#if REDUCE == sum
    var so_far = 0.0;
    for (var c = lane; c < C; c += LANES) { so_far += x[r * C + c]; }
    let all = lanes_sum(so_far, lane);
#elif REDUCE == max
    var so_far = -3.4028234e38;
    for (var c = lane; c < C; c += LANES) { so_far = max(so_far, x[r * C + c]); }
    let all = lanes_max(so_far, lane);
#endif
    if lane == 0u { y[r] = all; }
}
