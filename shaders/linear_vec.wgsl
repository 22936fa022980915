// Linear for few rows: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]);
// x [T, IN], W [OUT, IN], y [T, OUT_STRIDE].
// One workgroup: NR·LANES/SPAN neighbouring columns n by ROWS rows t. Each SPAN neighbouring lanes have NR columns and
// split k, so that neighbouring lanes read neighbouring words of a row of W.
// Grid: ceil(OUT/(NR·LANES/SPAN)) folded over x and y; z = ceil(T/ROWS).
// NORM = one_plus | plain: x is normed first, as rms_norm.wgsl does, with the gain at binding 4; COMPUTE = f32 only.
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. The number
//   of columns of a workgroup divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1, NORM = none. lib/rows.wgsl has the
//   rest and its overrides.
// Overrides: T, IN, OUT, OUT_STRIDE, EPS with a NORM, FIRST and SLICE with MAXIMA.
// Options: LANES, SPAN (a multiple of four that divides LANES), NR, ROWS, WEIGHT, VEC, WEIGHTS, WORDS of packed
//   weights, COMPUTE, NORM (none | plain | one_plus) with GAIN_WEIGHT, MAXIMA (no | yes), EXPERTS.
//   (NR*WEIGHTS + 1)*ROWS*(LANES + 4) + LANES <= 4096.
// Hole: WEIGHTS = 1: epilogue(i: u32, v: f32) -> f32; WEIGHTS = 2: epilogue(i: u32, v0: f32, v1: f32) -> f32.
override T: u32;
override IN: u32;
override OUT: u32;
override OUT_STRIDE: u32;

#include lib/weight.wgsl
#include lib/product.wgsl
#include lib/operand.wgsl
@group(0) @binding(0) var<storage, read> x: array<Operand>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if WEIGHTS == 2
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
#endif
#if MAXIMA == yes
#include lib/maxima.wgsl
#endif

const LANES = ${LANES}u;
const SPAN = ${SPAN}u;
const NR = ${NR}u;
const ROWS = ${ROWS}u;
// Columns of a workgroup; of a lane NR of w0, then NR of w1.
const WIDTH = NR * LANES / SPAN;
const HELD = NR * ${WEIGHTS}u;
const TILE = HELD * ROWS;
const HEIGHT = ROWS;
#include lib/rows.wgsl
#if NORM == none
const SUMS = TILE;
#else
// The sums of squares follow the products.
const SUMS = TILE + ROWS;
#include lib/norm_operand.wgsl
#endif
#include lib/turn.wgsl
#include lib/team_sums.wgsl

// The elements 8c+4i .. 8c+4i+3 of row j of the tile in x, less the norm's factor for the whole row.
fn operand(acc: ptr<function, array<f32, SUMS>>, tile: Tile, j: u32, c: u32, i: u32) -> vec4<f32> {
    let own = x8(x_row(tile, j), c)[i];
#if NORM == none
    return own;
#else
    (*acc)[TILE + j] = dot4(own, own, (*acc)[TILE + j]);
    return gained(own, stored_gains(c)[i]);
#endif
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n0 = (wid.x + wid.y * groups.x) * WIDTH;
    if n0 >= OUT || wid.z >= tile_count() { return; }
    let tile = tile_of(wid.z);
    if is_idle(tile, n0, WIDTH) { return; }
    var rows: array<u32, NR>;
    // Where there is one team, a constant.
    let n = n0 + select(lane / SPAN, 0u, TEAMS == 1u) * NR;
    for (var r = 0u; r < NR; r++) { rows[r] = row_start(weight_row(tile, min(n + r, OUT - 1u))); }
    var acc: array<f32, SUMS>;
    let begin = select(lane % SPAN, lane, TEAMS == 1u);
    for (var s = begin; s < (IN + TURN - 1u) / TURN; s += SPAN) { add_turn(&acc, &rows, tile, s); }
    meet(&acc, lane);
    for (var first = 0u; first < WIDTH * ROWS; first += LANES) {
        if first + lane < WIDTH * ROWS { store(tile, n0, first + lane); }
    }
}

// Result i of the workgroup, a team's columns one behind the other.
fn store(tile: Tile, n0: u32, i: u32) {
    let n = n0 + i / ROWS;
    let j = i % ROWS;
    if n >= OUT || j >= tile.count || !is_held(tile, n) { return; }
    let o = y_row(tile, j) * OUT_STRIDE + n;
    let team = i / (NR * ROWS);
    let own = i % (NR * ROWS);
#if NORM == none
    let scale = 1.0;
#else
    let scale = norm_scale(total(team, TILE + j));
#endif
#if WEIGHTS == 2
    y[o] = epilogue(o, total(team, own) * scale, total(team, NR * ROWS + own) * scale);
#else
    let v = epilogue(o, total(team, own) * scale);
    y[o] = v;
#if MAXIMA == yes
    keep(n, ordered(v));
#endif
#endif
}
