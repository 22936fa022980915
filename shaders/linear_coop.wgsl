// Linear for many rows through cooperative matrices:
//   y[t, n] = epilogue(t*OUT_STRIDE + n, scales[t] · Σ_k halves[t, k]·W[n, k]).
// halves [T, IN] and scales [T] as `half_rows` leaves them, W [OUT, IN], y [T, OUT_STRIDE]. Operands are f16, sums f32.
// One workgroup: TT = 4*M rows t by TN = 8*N/WEIGHTS columns n, as four by eight tiles of M x N. With two weights every
// other column of tiles is of the second. Each subgroup takes one of four pieces, two by four tiles. Fewer subgroups
// take the others in further rounds; surplus ones only load and store.
// k goes by DEPTH through workgroup memory, rows of a tile one behind the other. The loads of the next step are under
// way while this one is multiplied. A matrix gives no access to its elements, so results go through workgroup memory
// too, one row of tiles at a time.
// Grid, folded over x and y: ceil(T/TT) * ceil(OUT/TN), t fastest.
// Overrides: T, IN, OUT, OUT_STRIDE.
// Options: M, N and K (the tile that the device multiplies f16 to f32 in; each 8 or 16),
//   LANES (a power of two up to 256), WEIGHT, VEC, WEIGHTS, COMPUTE = f16.
//   Subgroups may have any size, also one that differs from shader to shader.
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

alias Left = coop_mat${K}x${M}<f16, A>;
alias Right = coop_mat${N}x${K}<f16, B>;
alias Sum = coop_mat${N}x${M}<f32, C>;
const LANES = ${LANES}u;
const M = ${M}u;
const N = ${N}u;
const K = ${K}u;
const DEPTH = 32u;
const CHUNKS = DEPTH / 8u;
// Not a power of two, so that the rows of a tile lie in different banks.
const STRIDE = DEPTH + 8u;
const TT = 4u * M;
// Rows of weights in workgroup memory.
const TW = 8u * N;
const TN = TW / ${WEIGHTS}u;
// The same of results.
const RESULT_STRIDE = TW + 16u;
// Chunks that an invocation loads in a step: of x, and of each weight.
const OWN_X = (TT * CHUNKS + LANES - 1u) / LANES;
const OWN_W = (TN * CHUNKS + LANES - 1u) / LANES;
alias OwnX = array<Eight, OWN_X>;
alias OwnW = array<Eight, OWN_W * ${WEIGHTS}u>;
var<workgroup> tile_x: array<f16, TT * STRIDE>;
var<workgroup> tile_w: array<f16, TW * STRIDE>;
// A row of tiles.
var<workgroup> results: array<f32, M * RESULT_STRIDE>;

// Column `n` of a weight, counted from the workgroup's first, as a row of `tile_w`.
fn row_of(n: u32, weight: u32) -> u32 {
#if WEIGHTS == 2
    return n / N * (2u * N) + weight * N + n % N;
#else
    return n;
#endif
}

// Loads of the chunks from `c0` on those that this invocation moves; zeros past IN.
fn load(t0: u32, n0: u32, c0: u32, lane: u32, x: ptr<function, OwnX>, w: ptr<function, OwnW>) {
    let chunks = (IN + 7u) / 8u;
    let stored = (chunks + CHUNKS - 1u) / CHUNKS * CHUNKS;
    for (var j = 0u; j < OWN_X; j++) {
        let i = j * LANES + lane;
        (*x)[j] = halves[min(t0 + i / CHUNKS, T - 1u) * stored + c0 + i % CHUNKS];
    }
    for (var j = 0u; j < OWN_W; j++) {
        let i = j * LANES + lane;
        let n = min(n0 + i / CHUNKS, OUT - 1u);
        let c = c0 + i % CHUNKS;
        (*w)[j] = eight(weight0(n, min(c, chunks - 1u)));
#if WEIGHTS == 2
        (*w)[OWN_W + j] = eight(weight1(n, min(c, chunks - 1u)));
#endif
        if chunks % CHUNKS != 0u && c >= chunks {
            (*w)[j] = Eight();
#if WEIGHTS == 2
            (*w)[OWN_W + j] = Eight();
#endif
        }
    }
}

fn keep_weight(v: Eight, n: u32, weight: u32, c: u32) {
    let at = row_of(n, weight) * STRIDE + c * 8u;
    for (var e = 0u; e < 8u; e++) { tile_w[at + e] = v[e / 4u][e % 4u]; }
}

// Moves them to workgroup memory.
fn keep(lane: u32, x: OwnX, w: OwnW) {
    for (var j = 0u; j < OWN_X; j++) {
        let i = j * LANES + lane;
        if TT * CHUNKS % LANES == 0u || i < TT * CHUNKS {
            let at = i / CHUNKS * STRIDE + i % CHUNKS * 8u;
            for (var e = 0u; e < 8u; e++) { tile_x[at + e] = x[j][e / 4u][e % 4u]; }
        }
    }
    for (var j = 0u; j < OWN_W; j++) {
        let i = j * LANES + lane;
        if TN * CHUNKS % LANES == 0u || i < TN * CHUNKS {
            keep_weight(w[j], i / CHUNKS, 0u, i % CHUNKS);
#if WEIGHTS == 2
            keep_weight(w[OWN_W + j], i / CHUNKS, 1u, i % CHUNKS);
#endif
        }
    }
}

// Writes the row of tiles that `results` holds, whose first element is of row `t0` and column `n0`: the columns of a
// round's pieces, from `begin` to `end`.
fn write(t0: u32, n0: u32, begin: u32, end: u32, lane: u32) {
    for (var j = 0u; j < M * TN / LANES; j++) {
        let i = j * LANES + lane;
        let t = t0 + i / TN;
        let column = i % TN;
        let n = n0 + column;
        if t < T && n < OUT && column >= begin && column < end {
            let o = t * OUT_STRIDE + n;
            let at = i / TN * RESULT_STRIDE + row_of(column, 0u);
#if WEIGHTS == 2
            y[o] = epilogue(o, results[at] * scales[t], results[at + N] * scales[t]);
#else
            y[o] = epilogue(o, results[at] * scales[t]);
#endif
        }
    }
}

// naga holds matrices to the rule for derivatives, which knows no subgroups. Here each subgroup takes its way as one.
@compute @workgroup_size(LANES) @diagnostic(off, derivative_uniformity)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let tiles = (T + TT - 1u) / TT;
    let group = wid.x + wid.y * groups.x;
    let t0 = (group % tiles) * TT;
    let n0 = (group / tiles) * TN;
    if n0 >= OUT { return; }
    let stored = (IN + DEPTH - 1u) / DEPTH * CHUNKS;
    for (var first = 0u; first < 4u; first += subgroups) {
        let piece = first + subgroup;
        let row = piece / 2u * (2u * M);
        let column = piece % 2u * (4u * N);
        let mine = piece < 4u && (T % TT == 0u || t0 + row < T);
        var s00 = Sum();
        var s01 = Sum();
        var s02 = Sum();
        var s03 = Sum();
        var s10 = Sum();
        var s11 = Sum();
        var s12 = Sum();
        var s13 = Sum();
        var next_x: OwnX;
        var next_w: OwnW;
        load(t0, n0, 0u, lane, &next_x, &next_w);
        for (var c0 = 0u; c0 < stored; c0 += CHUNKS) {
            workgroupBarrier();
            keep(lane, next_x, next_w);
            workgroupBarrier();
            let next = min(c0 + CHUNKS, stored - CHUNKS);
            // Loads on both sides, so that a compiler can put the products between a load and its use.
            if mine {
                load(t0, n0, next, lane, &next_x, &next_w);
                for (var k = 0u; k < DEPTH; k += K) {
                    let from_x = row * STRIDE + k;
                    let from_w = column * STRIDE + k;
                    // `coopLoadT` takes rows, `coopLoad` columns: the rows of W are the columns of its transpose.
                    let a0 = coopLoadT<Left>(&tile_x[from_x], STRIDE);
                    let a1 = coopLoadT<Left>(&tile_x[from_x + M * STRIDE], STRIDE);
                    let b0 = coopLoad<Right>(&tile_w[from_w], STRIDE);
                    let b1 = coopLoad<Right>(&tile_w[from_w + N * STRIDE], STRIDE);
                    let b2 = coopLoad<Right>(&tile_w[from_w + 2u * N * STRIDE], STRIDE);
                    let b3 = coopLoad<Right>(&tile_w[from_w + 3u * N * STRIDE], STRIDE);
                    s00 = coopMultiplyAdd(a0, b0, s00);
                    s01 = coopMultiplyAdd(a0, b1, s01);
                    s02 = coopMultiplyAdd(a0, b2, s02);
                    s03 = coopMultiplyAdd(a0, b3, s03);
                    s10 = coopMultiplyAdd(a1, b0, s10);
                    s11 = coopMultiplyAdd(a1, b1, s11);
                    s12 = coopMultiplyAdd(a1, b2, s12);
                    s13 = coopMultiplyAdd(a1, b3, s13);
                }
            } else {
                load(t0, n0, next, lane, &next_x, &next_w);
            }
        }
        for (var r = 0u; r < 4u; r++) {
            if t0 + r * M >= T { break; }
            workgroupBarrier();
            if mine && row / M == r {
                coopStoreT(s00, &results[column], RESULT_STRIDE);
                coopStoreT(s01, &results[column + N], RESULT_STRIDE);
                coopStoreT(s02, &results[column + 2u * N], RESULT_STRIDE);
                coopStoreT(s03, &results[column + 3u * N], RESULT_STRIDE);
            }
            if mine && row / M + 1u == r {
                coopStoreT(s10, &results[column], RESULT_STRIDE);
                coopStoreT(s11, &results[column + N], RESULT_STRIDE);
                coopStoreT(s12, &results[column + 2u * N], RESULT_STRIDE);
                coopStoreT(s13, &results[column + 3u * N], RESULT_STRIDE);
            }
            workgroupBarrier();
            // The columns of this row's two pieces, as far as they are of this round.
            let left = r / 2u * 2u;
            let begin = select(TN / 2u, 0u, left >= first && left < first + subgroups);
            let end = select(TN / 2u, TN, left + 1u >= first && left + 1u < first + subgroups);
            write(t0 + r * M, n0, begin, end, lane);
        }
    }
}
