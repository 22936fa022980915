// Linear for drivers on the CPU without subgroups of 8 lanes:
// y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]); x [T, IN], W [OUT, IN], y [T, OUT_STRIDE].
// One workgroup: 4·LANES columns n by ROWS rows t. A lane holds the columns n0 + lane + LANES·r and computes their
// products alone: no barrier, no workgroup memory. In the loop over k the index of each array is a constant, as such
// drivers read an array at a computed index lane by lane.
// Grid: ceil(OUT/(4·LANES)) folded over x and y; z = ceil(T/ROWS).
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. 4·LANES
//   divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1. lib/rows.wgsl has the rest and its
//   overrides.
// Overrides: T, IN, OUT, OUT_STRIDE, FIRST and SLICE with MAXIMA.
// Options: LANES, ROWS (1 to 4), WEIGHT, VEC, WEIGHTS, WORDS of packed weights, COMPUTE, MAXIMA (no | yes), EXPERTS.
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
const ROWS = ${ROWS}u;
const HEIGHT = ROWS;
#include lib/rows.wgsl

// The later rows of a tile, for arrays of ROWS elements; the last one again where there are fewer.
const SECOND = min(1u, ROWS - 1u);
const THIRD = min(2u, ROWS - 1u);
const FOURTH = min(3u, ROWS - 1u);

// The elements 8c .. 8c+7 of four rows of W.
struct Weights { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

fn weights0(rows: vec4<u32>, c: u32) -> Weights {
    return Weights(
        rounded8(weight0(rows.x, c)), rounded8(weight0(rows.y, c)),
        rounded8(weight0(rows.z, c)), rounded8(weight0(rows.w, c)),
    );
}
#if WEIGHTS == 2
fn weights1(rows: vec4<u32>, c: u32) -> Weights {
    return Weights(
        rounded8(weight1(rows.x, c)), rounded8(weight1(rows.y, c)),
        rounded8(weight1(rows.z, c)), rounded8(weight1(rows.w, c)),
    );
}
#endif

// The sums of the products of four columns, with eight elements of a row of x more.
fn plus(sums: vec4<f32>, w: Weights, v: mat2x4<f32>) -> vec4<f32> {
    return vec4<f32>(dot8(w.a, v, sums.x), dot8(w.b, v, sums.y), dot8(w.c, v, sums.z), dot8(w.d, v, sums.w));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n0 = (wid.x + wid.y * groups.x) * 4u * LANES;
    if n0 >= OUT || wid.z >= tile_count() { return; }
    let tile = tile_of(wid.z);
    if is_idle(tile, n0, 4u * LANES) { return; }
    let columns = n0 + lane + vec4<u32>(0u, LANES, 2u * LANES, 3u * LANES);
    let held = min(columns, vec4<u32>(OUT - 1u));
    let rows = vec4<u32>(
        weight_row(tile, held.x), weight_row(tile, held.y), weight_row(tile, held.z), weight_row(tile, held.w),
    );
    let of_x = vec4<u32>(x_row(tile, 0u), x_row(tile, SECOND), x_row(tile, THIRD), x_row(tile, FOURTH));
    var s0: array<vec4<f32>, ROWS>;
#if WEIGHTS == 2
    var s1: array<vec4<f32>, ROWS>;
#endif
    for (var c = 0u; c < (IN + 7u) / 8u; c++) {
        let a = weights0(rows, c);
#if WEIGHTS == 2
        let b = weights1(rows, c);
#endif
        let first = rounded8(x8(of_x.x, c));
        s0[0] = plus(s0[0], a, first);
#if WEIGHTS == 2
        s1[0] = plus(s1[0], b, first);
#endif
        if ROWS > 1u {
            let second = rounded8(x8(of_x.y, c));
            s0[SECOND] = plus(s0[SECOND], a, second);
#if WEIGHTS == 2
            s1[SECOND] = plus(s1[SECOND], b, second);
#endif
        }
        if ROWS > 2u {
            let third = rounded8(x8(of_x.z, c));
            s0[THIRD] = plus(s0[THIRD], a, third);
#if WEIGHTS == 2
            s1[THIRD] = plus(s1[THIRD], b, third);
#endif
        }
        if ROWS > 3u {
            let fourth = rounded8(x8(of_x.w, c));
            s0[FOURTH] = plus(s0[FOURTH], a, fourth);
#if WEIGHTS == 2
            s1[FOURTH] = plus(s1[FOURTH], b, fourth);
#endif
        }
    }
#if MAXIMA == yes
    var most = 0u;
#endif
    for (var i = 0u; i < 4u * tile.count; i++) {
        let r = i % 4u;
        let j = i / 4u;
        let n = columns[r];
        if n < OUT && is_held(tile, n) {
            let o = y_row(tile, j) * OUT_STRIDE + n;
#if WEIGHTS == 2
            y[o] = epilogue(o, s0[j][r], s1[j][r]);
#else
            let v = epilogue(o, s0[j][r]);
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
}
