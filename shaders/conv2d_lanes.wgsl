// conv2d with GROUPS = one for drivers on the CPU, which pay for barriers and for each load of a lane.
// One workgroup, one subgroup: ROWS positions by NR*LANES channels from n0. A lane holds the channels
// n0 + lane + LANES*r and reads their rows of W by eight numbers. Of each position it reads every LANES-th number under
// the taps, in W's order, channels first; shuffles hand them round.
// Grid, folded over x and y: ceil(P/ROWS) * ceil(O/(NR*LANES)), positions fastest.
// Overrides and the rest as conv2d. Options: LANES (the subgroup size, a multiple of 8), NR, ROWS (at most 8), BIAS, WEIGHT,
//   VEC, WEIGHTS = 1, EXPERTS = no, MAXIMA = no.
// Hole: epilogue(i: u32, v: f32) -> f32.
#include lib/convolution.wgsl

// As a linear of T rows to OUT columns.
override T: u32 = P;
override OUT: u32 = O;
override OUT_STRIDE: u32 = O;
const LANES = ${LANES}u;
const NR = ${NR}u;
const ROWS = ${ROWS}u;
const HELD = NR;
const HEIGHT = ROWS;
#include lib/rows.wgsl
#include lib/store_columns.wgsl

// Adds the products of eight numbers, of which lane `first` has the first, for the positions j and j + 1. As in
// linear_wide, each call is a loop small enough to be unrolled.
fn add(
    acc: ptr<function, array<f32, HELD * ROWS>>,
    a: ptr<function, array<mat2x4<f32>, HELD>>,
    xs: ptr<function, array<f32, ROWS>>,
    first: u32,
    row: u32,
) {
    for (var j = row; j < min(row + 2u, ROWS); j++) {
        for (var e = 0u; e < 8u; e++) {
            let v = subgroupShuffle(xs[j], first + e);
            for (var r = 0u; r < NR; r++) { acc[r * ROWS + j] = fma(a[r][e / 4u][e % 4u], v, acc[r * ROWS + j]); }
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = wid.x + wid.y * groups.x;
    let n0 = (group / tile_count()) * NR * LANES;
    if n0 >= OUT { return; }
    let tile = tile_of(group % tile_count());
    var corners: array<Corner, ROWS>;
    for (var j = 0u; j < ROWS; j++) { corners[j] = corner_of(x_row(tile, j)); }
    var acc: array<f32, HELD * ROWS>;
#if BIAS == yes
    for (var i = 0u; i < HELD * ROWS; i++) { acc[i] = bias(min(n0 + lane + i / ROWS * LANES, OUT - 1u)); }
#endif
    for (var k0 = 0u; k0 < IN; k0 += LANES) {
        let k = k0 + lane;
        let tap = k % (KH * KW);
        var xs: array<f32, ROWS>;
        // Weights past IN are zeros; what they are multiplied by must be finite.
        for (var j = 0u; j < ROWS; j++) { xs[j] = pixel(corners[j], tap / KW, tap % KW, min(k / (KH * KW), C - 1u)); }
        for (var s = 0u; s < LANES / 8u; s++) {
            let eight = k0 / 8u + s;
            if eight * 8u >= IN { break; }
            var a: array<mat2x4<f32>, NR>;
            for (var r = 0u; r < NR; r++) { a[r] = weight0(min(n0 + lane + r * LANES, OUT - 1u), eight); }
            add(&acc, &a, &xs, s * 8u, 0u);
            add(&acc, &a, &xs, s * 8u, 2u);
            add(&acc, &a, &xs, s * 8u, 4u);
            add(&acc, &a, &xs, s * 8u, 6u);
        }
    }
    store_columns(&acc, tile, n0, lane);
}
