// Linear for many rows without barriers: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]);
// x [T, IN], W [OUT, IN], y [T, OUT_STRIDE]. For devices where barriers and repeated loads cost more than shuffles.
// One workgroup, one subgroup of 8 lanes or more: ROWS rows t by NR*LANES columns n; a lane holds the columns
// n0 + lane + LANES*r and reads their rows of W; eight lanes read eight neighbouring x and hand them round by shuffles.
// Grid, folded over x and y: ceil(T/ROWS) * ceil(OUT/(NR*LANES)), t fastest.
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. NR*LANES divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1; see lib/rows.wgsl, also for its overrides.
// Overrides: T, IN, OUT, OUT_STRIDE, FIRST and SLICE with MAXIMA. Options: LANES (the subgroup size, 8 or more), NR, ROWS, WEIGHT,
// VEC, WEIGHTS, COMPUTE, EXPERTS, MAXIMA (no | yes), GROUPS (no | yes: a turn takes 32 elements of k, and what they share of a packed
// weight is loaded once).
// Hole: WEIGHTS = 1: epilogue(i: u32, v: f32) -> f32; WEIGHTS = 2: epilogue(i: u32, v0: f32, v1: f32) -> f32.
override T: u32;
override IN: u32;
override OUT: u32;
override OUT_STRIDE: u32;

#include lib/weight.wgsl
#include lib/product.wgsl
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if WEIGHTS == 2
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
#endif
#if MAXIMA == yes
#include lib/maxima.wgsl
#endif

const LANES = ${LANES}u;
const NR = ${NR}u;
const ROWS = ${ROWS}u;
// Columns of a lane: NR of w0, then NR of w1.
const HELD = NR * ${WEIGHTS}u;
const HEIGHT = ROWS;
#include lib/rows.wgsl
#include lib/store_columns.wgsl

#if GROUPS == yes
const PARTS = 4u;
fn part0(row: u32, g: u32, e: u32) -> Eight { return eight(unpack(0u, row, g, e)); }
#if WEIGHTS == 2
fn part1(row: u32, g: u32, e: u32) -> Eight { return eight(unpack(1u, row, g, e)); }
#endif
#else
const PARTS = 1u;
fn part0(row: u32, g: u32, e: u32) -> Eight { return eight(weight0(row, g)); }
#if WEIGHTS == 2
fn part1(row: u32, g: u32, e: u32) -> Eight { return eight(weight1(row, g)); }
#endif
#endif

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
    if is_idle(tile, n0, NR * LANES) { return; }
    var acc: array<f32, HELD * ROWS>;
    for (var g = 0u; g < (IN + 8u * PARTS - 1u) / (8u * PARTS); g++) {
        for (var part = 0u; part < PARTS; part++) {
            let c = g * PARTS + part;
            var a: array<Eight, HELD>;
            for (var r = 0u; r < NR; r++) { a[r] = part0(weight_row(tile, min(n0 + lane + r * LANES, OUT - 1u)), g, part); }
#if WEIGHTS == 2
            for (var r = 0u; r < NR; r++) { a[NR + r] = part1(weight_row(tile, min(n0 + lane + r * LANES, OUT - 1u)), g, part); }
#endif
            for (var j = 0u; j < ROWS; j++) {
#if VEC == 8
                let mine = f32(number(x[x_row(tile, j) * IN + c * 8u + lane % 8u]));
#else
                let k = c * 8u + lane % 8u;
                let mine = f32(number(select(0.0, x[x_row(tile, j) * IN + min(k, IN - 1u)], k < IN)));
#endif
                for (var e = 0u; e < 8u; e++) {
                    let v = subgroupShuffle(mine, e);
                    for (var r = 0u; r < HELD; r++) { acc[r * ROWS + j] = fma(f32(a[r][e / 4u][e % 4u]), v, acc[r * ROWS + j]); }
                }
            }
        }
    }
    store_columns(&acc, tile, n0, lane);
}
