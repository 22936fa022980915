// Linear for few rows: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]); x [T, IN], W [OUT, IN], y [T, OUT_STRIDE].
// One workgroup: NR neighbouring columns n by ROWS rows t; its lanes split k, so neighbouring lanes read neighbouring
// words of a row of W. Grid: ceil(OUT/NR) folded over x and y; z = ceil(T/ROWS).
// NORM = one_plus | plain: x is normed first, as rms_norm.wgsl does, with the gain at binding 4; COMPUTE = f32 only.
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. NR divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1, NORM = none; see lib/rows.wgsl, also for its overrides.
// Overrides: T, IN, OUT, OUT_STRIDE, EPS with a NORM, FIRST and SLICE with MAXIMA. Options: TIER (as in lib/lanes.wgsl), LANES
// (subgroup: the subgroup size), NR, ROWS, WEIGHT, VEC, WEIGHTS, COMPUTE, NORM (none | plain | one_plus) with GAIN_WEIGHT, MAXIMA (no |
// yes), EXPERTS. portable needs (NR*WEIGHTS + 1)*ROWS*LANES <= 4096.
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
const NR = ${NR}u;
const ROWS = ${ROWS}u;
const TILE = NR * ROWS * ${WEIGHTS}u;
const HEIGHT = ROWS;
#include lib/rows.wgsl
#if NORM == none
const SUMS = TILE;
#else
// The sums of squares follow the products.
const SUMS = TILE + ROWS;
#include lib/norm_operand.wgsl
#endif
#include lib/subgroup.wgsl
#if TIER == portable
const PARTIALS = LANES;
#elif TIER == subgroups
const PARTIALS = MOST_SUBGROUPS;
#endif
#if TIER != subgroup
var<workgroup> partial: array<f32, SUMS * PARTIALS>;
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let n0 = (wid.x + wid.y * groups.x) * NR;
    if n0 >= OUT || wid.z >= tile_count() { return; }
    let tile = tile_of(wid.z);
    if is_idle(tile, n0, NR) { return; }
    var acc: array<f32, SUMS>;
    for (var c = lane; c < (IN + 7u) / 8u; c += LANES) {
        var xs: array<Eight, ROWS>;
#if NORM == none
        for (var j = 0u; j < ROWS; j++) { xs[j] = eight(x8(x_row(tile, j), c)); }
#else
        let gains = gain8(c);
        for (var j = 0u; j < ROWS; j++) {
            let raw = x8(x_row(tile, j), c);
            acc[TILE + j] = dot8(raw, raw, acc[TILE + j]);
            xs[j] = mat2x4<f32>(raw[0] * gains[0], raw[1] * gains[1]);
        }
#endif
        for (var r = 0u; r < NR; r++) {
            let n = weight_row(tile, min(n0 + r, OUT - 1u));
            let a = eight(weight0(n, c));
            for (var j = 0u; j < ROWS; j++) { acc[r * ROWS + j] = dot8(a, xs[j], acc[r * ROWS + j]); }
#if WEIGHTS == 2
            let b = eight(weight1(n, c));
            for (var j = 0u; j < ROWS; j++) {
                acc[(NR + r) * ROWS + j] = dot8(b, xs[j], acc[(NR + r) * ROWS + j]);
            }
#endif
        }
    }
#if TIER == subgroup
    for (var i = 0u; i < SUMS; i++) { acc[i] = subgroupAdd(acc[i]); }
    if lane != 0u { return; }
#if MAXIMA == yes
    var most = 0u;
#endif
    for (var i = 0u; i < NR * ROWS; i++) {
        let n = n0 + i / ROWS;
        let j = i % ROWS;
        if n < OUT && j < tile.count && is_held(tile, n) {
            let o = y_row(tile, j) * OUT_STRIDE + n;
#if NORM == none
            let scale = 1.0;
#else
            let scale = norm_scale(acc[TILE + i % ROWS]);
#endif
#if WEIGHTS == 2
            y[o] = epilogue(o, acc[i] * scale, acc[NR * ROWS + i] * scale);
#else
            let v = epilogue(o, acc[i] * scale);
            y[o] = v;
#if MAXIMA == yes
            most = max(most, ordered(v));
#endif
#endif
        }
    }
#if MAXIMA == yes
    keep(n0, most);
#endif
#else
#if TIER == portable
    for (var i = 0u; i < SUMS; i++) { partial[i * PARTIALS + lane] = acc[i]; }
#elif TIER == subgroups
    for (var i = 0u; i < SUMS; i++) {
        let own = subgroupAdd(acc[i]);
        if subgroup.lane == 0u { partial[i * PARTIALS + subgroup.id] = own; }
    }
#endif
    workgroupBarrier();
    for (var i = lane; i < NR * ROWS; i += LANES) {
        let n = n0 + i / ROWS;
        let j = i % ROWS;
        if n < OUT && j < tile.count && is_held(tile, n) {
            let o = y_row(tile, j) * OUT_STRIDE + n;
#if NORM == none
            let scale = 1.0;
#else
            let scale = norm_scale(total(TILE + i % ROWS));
#endif
#if WEIGHTS == 2
            y[o] = epilogue(o, total(i) * scale, total(NR * ROWS + i) * scale);
#else
            let v = epilogue(o, total(i) * scale);
            y[o] = v;
#if MAXIMA == yes
            keep(n, ordered(v));
#endif
#endif
        }
    }
#endif
}
#if TIER == portable

fn total(i: u32) -> f32 {
    var sum = 0.0;
    for (var l = 0u; l < LANES; l++) { sum += partial[i * PARTIALS + l]; }
    return sum;
}
#elif TIER == subgroups

fn total(i: u32) -> f32 {
    var sum = 0.0;
    for (var l = 0u; l < subgroup.count; l++) { sum += partial[i * PARTIALS + l]; }
    return sum;
}
#endif
