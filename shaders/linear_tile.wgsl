// Linear for many rows without barriers: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]);
// x [T, IN], W [OUT, IN], y [T, OUT_STRIDE]. For devices where barriers and repeated loads cost more than shuffles.
// One workgroup, one subgroup of 8 lanes or more: ROWS rows t by NR*LANES columns n. A lane holds the columns
// n0 + lane + LANES*r and reads their rows of W. Eight lanes read eight neighbouring x and hand them round by shuffles.
// Grid, folded over x and y: ceil(T/ROWS) * ceil(OUT/(NR*LANES)), t fastest.
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. NR*LANES
//   divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1. lib/rows.wgsl has the rest and its
//   overrides.
// Overrides: T, IN, OUT, OUT_STRIDE, FIRST and SLICE with MAXIMA.
// Options: LANES (the subgroup size, 8 or more), NR, ROWS, WEIGHT, VEC, WEIGHTS, COMPUTE, EXPERTS, MAXIMA (no | yes),
//   GROUPS = no | yes (a turn takes 32 elements of k, and what they share of a packed weight is loaded once)
//     | folded (as yes, and factors are applied to the sums of the elements that share them, see lib/packed_turn.wgsl).
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

#if GROUPS == folded
const TILE = HELD * ROWS;
const SUMS = TILE;
#include lib/packed_share.wgsl

// As in lib/packed_turn.wgsl, but for x, which lanes hand round.
fn add_eighth(sums: ptr<function, Sums>, held: ptr<function, array<Stretch, HELD>>, tile: Tile, lane: u32, s: u32, e: u32) {
    var q: array<mat2x4<f32>, HELD>;
    for (var r = 0u; r < HELD; r++) { q[r] = raw((*held)[r], s, e); }
    for (var j = 0u; j < ROWS; j++) {
        let mine = f32(number(x[x_row(tile, j) * IN + place(s, e) * 8u + lane % 8u]));
        for (var i = 0u; i < 8u; i++) {
            let v = subgroupShuffle(mine, i);
            (*sums).of_x[j] += v;
            for (var r = 0u; r < HELD; r++) {
                (*sums).products[r * ROWS + j] = fma(q[r][i / 4u][i % 4u], v, (*sums).products[r * ROWS + j]);
            }
        }
    }
}

fn add_all(acc: ptr<function, array<f32, SUMS>>, tile: Tile, n0: u32, lane: u32) {
    var rows: array<u32, NR>;
    for (var r = 0u; r < NR; r++) { rows[r] = row_start(weight_row(tile, min(n0 + lane + r * LANES, OUT - 1u))); }
    for (var s = 0u; s < IN / 32u; s++) {
        var held: array<Stretch, HELD>;
        for (var r = 0u; r < NR; r++) { held[r] = stretch(0u, rows[r], s); }
#if WEIGHTS == 2
        for (var r = 0u; r < NR; r++) { held[NR + r] = stretch(1u, rows[r], s); }
#endif
        var sums: Sums;
        add_eighth(&sums, &held, tile, lane, s, 0u);
        add_eighth(&sums, &held, tile, lane, s, 1u);
        if SHARES == 2u { add_share(&sums, acc, &held, s, 0u); }
        add_eighth(&sums, &held, tile, lane, s, 2u);
        add_eighth(&sums, &held, tile, lane, s, 3u);
        add_share(&sums, acc, &held, s, SHARES - 1u);
    }
}
#else
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

fn add_all(acc: ptr<function, array<f32, HELD * ROWS>>, tile: Tile, n0: u32, lane: u32) {
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
                    for (var r = 0u; r < HELD; r++) {
                        (*acc)[r * ROWS + j] = fma(f32(a[r][e / 4u][e % 4u]), v, (*acc)[r * ROWS + j]);
                    }
                }
            }
        }
    }
}
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
    add_all(&acc, tile, n0, lane);
    store_columns(&acc, tile, n0, lane);
}
