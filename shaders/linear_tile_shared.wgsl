// Linear for many rows through workgroup memory: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]);
// x [T, IN], W [OUT, IN], y [T, OUT_STRIDE].
// One workgroup: 16*ROWS rows t by 16*NR columns n with 16x16 invocations, each with the rows t0 + 16j + (its row) and
// the columns n0 + 16r + (its column). k goes by DEPTH through tiles of x and W in workgroup memory.
// Grid, folded over x and y: ceil(T/(16*ROWS)) * ceil(OUT/(16*NR)), t fastest.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1. lib/rows.wgsl has the rest and its
//   overrides.
// Overrides: T, IN, OUT, OUT_STRIDE. Options: NR, ROWS, DEPTH (a multiple of 8; (ROWS + NR*WEIGHTS)*DEPTH <= 256),
//   WEIGHT, VEC, WEIGHTS, COMPUTE, EXPERTS.
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

const NR = ${NR}u;
const ROWS = ${ROWS}u;
const DEPTH = ${DEPTH}u;
const TT = 16u * ROWS;
const TN = 16u * NR;
const HEIGHT = TT;
#include lib/rows.wgsl
// Tiles lie [DEPTH][rows].
var<workgroup> tile_x: array<Number, DEPTH * TT>;
var<workgroup> tile0: array<Number, DEPTH * TN>;
#if WEIGHTS == 2
var<workgroup> tile1: array<Number, DEPTH * TN>;
#endif

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = wid.x + wid.y * groups.x;
    let n0 = (group / tile_count()) * TN;
    if n0 >= OUT { return; }
    let tile = tile_of(group % tile_count());
    if is_idle(tile, n0, TN) { return; }
    let row = lane / 16u;
    let column = lane % 16u;
    var acc: array<f32, NR * ROWS>;
#if WEIGHTS == 2
    var acc1: array<f32, NR * ROWS>;
#endif
    let chunks = (IN + 7u) / 8u;
    for (var c0 = 0u; c0 < chunks; c0 += DEPTH / 8u) {
        for (var i = lane; i < TT * (DEPTH / 8u); i += 256u) {
            let c = c0 + i / TT;
            var v: mat2x4<f32>;
            if c < chunks { v = x8(x_row(tile, i % TT), c); }
            for (var e = 0u; e < 8u; e++) { tile_x[(i / TT * 8u + e) * TT + i % TT] = number(v[e / 4u][e % 4u]); }
        }
        for (var i = lane; i < TN * (DEPTH / 8u); i += 256u) {
            let c = c0 + i / TN;
            let n = weight_row(tile, min(n0 + i % TN, OUT - 1u));
            var v: mat2x4<f32>;
            if c < chunks { v = weight0(n, c); }
            for (var e = 0u; e < 8u; e++) { tile0[(i / TN * 8u + e) * TN + i % TN] = number(v[e / 4u][e % 4u]); }
#if WEIGHTS == 2
            if c < chunks { v = weight1(n, c); }
            for (var e = 0u; e < 8u; e++) { tile1[(i / TN * 8u + e) * TN + i % TN] = number(v[e / 4u][e % 4u]); }
#endif
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            var xs: array<f32, ROWS>;
            for (var j = 0u; j < ROWS; j++) { xs[j] = f32(tile_x[k * TT + 16u * j + row]); }
            for (var r = 0u; r < NR; r++) {
                let a = f32(tile0[k * TN + 16u * r + column]);
                for (var j = 0u; j < ROWS; j++) { acc[r * ROWS + j] = fma(a, xs[j], acc[r * ROWS + j]); }
#if WEIGHTS == 2
                let b = f32(tile1[k * TN + 16u * r + column]);
                for (var j = 0u; j < ROWS; j++) { acc1[r * ROWS + j] = fma(b, xs[j], acc1[r * ROWS + j]); }
#endif
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < NR * ROWS; i++) {
        let n = n0 + (i / ROWS) * 16u + column;
        let j = (i % ROWS) * 16u + row;
        if n < OUT && j < tile.count && is_held(tile, n) {
            let o = y_row(tile, j) * OUT_STRIDE + n;
#if WEIGHTS == 2
            y[o] = epilogue(o, acc[i], acc1[i]);
#else
            y[o] = epilogue(o, acc[i]);
#endif
        }
    }
}
