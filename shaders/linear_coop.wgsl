// Linear for many rows through cooperative matrices: y[t, n] = epilogue(t*OUT_STRIDE + n, scales[t] · Σ_k halves[t, k]·W[n, k]);
// halves [T, IN] and scales [T] as `half_rows` leaves them, W [OUT, IN], y [T, OUT_STRIDE]. Operands are f16, sums f32.
// One workgroup: 4*SIZE rows t by TN = 8*SIZE/WEIGHTS columns n with four subgroups. Each has half of the rows and half of the
// columns, as two by four tiles of SIZE x SIZE; with two weights two of the four are of the second. k goes by DEPTH through workgroup
// memory, rows of a tile one behind the other. Results go through workgroup memory, as a matrix gives no access to its elements.
// Grid, folded over x and y: ceil(T/(4*SIZE)) * ceil(OUT/TN), t fastest.
// Overrides: T, IN, OUT, OUT_STRIDE. Options: SIZE (16 | 8, what the device multiplies f16 to f32 in), LANES (the one subgroup
// size), WEIGHT, VEC, WEIGHTS, COMPUTE = f16.
// Hole: WEIGHTS = 1: epilogue(i: u32, v: f32) -> f32; WEIGHTS = 2: epilogue(i: u32, v0: f32, v1: f32) -> f32.
enable wgpu_cooperative_matrix;
override T: u32;
override IN: u32;
override OUT: u32;
override OUT_STRIDE: u32;

#include lib/weight.wgsl
#include lib/product.wgsl
@group(0) @binding(0) var<storage, read> halves: array<Eight>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;
#if WEIGHTS == 2
@group(0) @binding(3) var<storage, read> w1: array<Stored>;
#endif
@group(0) @binding(4) var<storage, read> scales: array<f32>;

alias Left = coop_mat${SIZE}x${SIZE}<f16, A>;
alias Right = coop_mat${SIZE}x${SIZE}<f16, B>;
alias Sum = coop_mat${SIZE}x${SIZE}<f32, C>;
const LANES = ${LANES}u;
const SIZE = ${SIZE}u;
const AREA = SIZE * SIZE;
const INVOCATIONS = 4u * LANES;
const DEPTH = 32u;
const CHUNKS = DEPTH / 8u;
// Not a power of two, so that the rows of a tile lie in different banks.
const STRIDE = DEPTH + 8u;
const TT = 4u * SIZE;
// Rows of weights in workgroup memory.
const TW = 8u * SIZE;
const TN = TW / ${WEIGHTS}u;
var<workgroup> tile_x: array<f16, TT * STRIDE>;
var<workgroup> tile_w: array<f16, TW * STRIDE>;
// For each subgroup one tile of results for each weight.
var<workgroup> results: array<f32, 4u * ${WEIGHTS}u * AREA>;

// Eight elements of row `r` of the tile of weights whose first column is `n0`.
#if WEIGHTS == 2
fn weights(n0: u32, r: u32, c: u32) -> mat2x4<f32> {
    let n = min(n0 + r / (4u * SIZE) * (2u * SIZE) + r % (2u * SIZE), OUT - 1u);
    if r % (4u * SIZE) < 2u * SIZE { return weight0(n, c); }
    return weight1(n, c);
}
#else
fn weights(n0: u32, r: u32, c: u32) -> mat2x4<f32> { return weight0(min(n0 + r, OUT - 1u), c); }
#endif

// Writes what a subgroup has left in `results` from `at` on, whose first element is of row `t0` and column `n0`.
fn finish(t0: u32, n0: u32, at: u32, invocation: u32) {
    workgroupBarrier();
    for (var i = invocation; i < AREA; i += LANES) {
        let t = t0 + i / SIZE;
        let n = n0 + i % SIZE;
        if t < T && n < OUT {
            let o = t * OUT_STRIDE + n;
#if WEIGHTS == 2
            y[o] = epilogue(o, results[at + i] * scales[t], results[at + AREA + i] * scales[t]);
#else
            y[o] = epilogue(o, results[at + i] * scales[t]);
#endif
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let tiles = (T + TT - 1u) / TT;
    let group = wid.x + wid.y * groups.x;
    let t0 = (group % tiles) * TT;
    let n0 = (group / tiles) * TN;
    if n0 >= OUT { return; }
    let row = subgroup / 2u * (2u * SIZE);
    let half = subgroup % 2u;
    let chunks = (IN + 7u) / 8u;
    let stored = (chunks + CHUNKS - 1u) / CHUNKS * CHUNKS;
    var s00: Sum;
    var s01: Sum;
    var s02: Sum;
    var s03: Sum;
    var s10: Sum;
    var s11: Sum;
    var s12: Sum;
    var s13: Sum;
    for (var c0 = 0u; c0 < stored; c0 += CHUNKS) {
        for (var i = lane; i < TT * CHUNKS; i += INVOCATIONS) {
            let r = i / CHUNKS;
            let v = halves[min(t0 + r, T - 1u) * stored + c0 + i % CHUNKS];
            let at = r * STRIDE + i % CHUNKS * 8u;
            for (var e = 0u; e < 8u; e++) { tile_x[at + e] = v[e / 4u][e % 4u]; }
        }
        for (var i = lane; i < TW * CHUNKS; i += INVOCATIONS) {
            let r = i / CHUNKS;
            let c = c0 + i % CHUNKS;
            var v: mat2x4<f32>;
            if c < chunks { v = weights(n0, r, c); }
            let w = eight(v);
            let at = r * STRIDE + i % CHUNKS * 8u;
            for (var e = 0u; e < 8u; e++) { tile_w[at + e] = w[e / 4u][e % 4u]; }
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIZE) {
            let from_x = row * STRIDE + k;
            let from_w = half * (4u * SIZE) * STRIDE + k;
            // `coopLoadT` takes rows, `coopLoad` columns: the rows of W are the columns of its transpose.
            let a0 = coopLoadT<Left>(&tile_x[from_x], STRIDE);
            let a1 = coopLoadT<Left>(&tile_x[from_x + SIZE * STRIDE], STRIDE);
            let b0 = coopLoad<Right>(&tile_w[from_w], STRIDE);
            let b1 = coopLoad<Right>(&tile_w[from_w + SIZE * STRIDE], STRIDE);
            let b2 = coopLoad<Right>(&tile_w[from_w + 2u * SIZE * STRIDE], STRIDE);
            let b3 = coopLoad<Right>(&tile_w[from_w + 3u * SIZE * STRIDE], STRIDE);
            s00 = coopMultiplyAdd(a0, b0, s00);
            s01 = coopMultiplyAdd(a0, b1, s01);
            s02 = coopMultiplyAdd(a0, b2, s02);
            s03 = coopMultiplyAdd(a0, b3, s03);
            s10 = coopMultiplyAdd(a1, b0, s10);
            s11 = coopMultiplyAdd(a1, b1, s11);
            s12 = coopMultiplyAdd(a1, b2, s12);
            s13 = coopMultiplyAdd(a1, b3, s13);
        }
        workgroupBarrier();
    }
    let t = t0 + row;
    let n = n0 + half * (TN / 2u);
    let at = subgroup * ${WEIGHTS}u * AREA;
#if WEIGHTS == 2
    coopStoreT(s00, &results[at], SIZE);
    coopStoreT(s02, &results[at + AREA], SIZE);
    finish(t, n, at, invocation);
    coopStoreT(s01, &results[at], SIZE);
    coopStoreT(s03, &results[at + AREA], SIZE);
    finish(t, n + SIZE, at, invocation);
    coopStoreT(s10, &results[at], SIZE);
    coopStoreT(s12, &results[at + AREA], SIZE);
    finish(t + SIZE, n, at, invocation);
    coopStoreT(s11, &results[at], SIZE);
    coopStoreT(s13, &results[at + AREA], SIZE);
    finish(t + SIZE, n + SIZE, at, invocation);
#else
    coopStoreT(s00, &results[at], SIZE);
    finish(t, n, at, invocation);
    coopStoreT(s01, &results[at], SIZE);
    finish(t, n + SIZE, at, invocation);
    coopStoreT(s02, &results[at], SIZE);
    finish(t, n + 2u * SIZE, at, invocation);
    coopStoreT(s03, &results[at], SIZE);
    finish(t, n + 3u * SIZE, at, invocation);
    coopStoreT(s10, &results[at], SIZE);
    finish(t + SIZE, n, at, invocation);
    coopStoreT(s11, &results[at], SIZE);
    finish(t + SIZE, n + SIZE, at, invocation);
    coopStoreT(s12, &results[at], SIZE);
    finish(t + SIZE, n + 2u * SIZE, at, invocation);
    coopStoreT(s13, &results[at], SIZE);
    finish(t + SIZE, n + 3u * SIZE, at, invocation);
#endif
}
