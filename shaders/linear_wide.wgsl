// Linear without barriers by loads of 64 bits: y[t, n] = epilogue(t*OUT_STRIDE + n, Σ_k x[t, k]·W[n, k]);
// x [T, IN], W [OUT, IN], y [T, OUT_STRIDE]. For devices where each load of a lane costs the same, whatever its width.
// One workgroup, one subgroup: ROWS rows t by NR*LANES columns n. A lane holds the columns n0 + lane + LANES*r and
// reads their rows of W by sixteen elements. Of each row of x it reads every LANES-th eight elements; shuffles hand
// them round.
// Grid, folded over x and y: ceil(T/ROWS) * ceil(OUT/(NR*LANES)), t fastest. Needs 64-bit integers.
// MAXIMA = yes: T = 1, WEIGHTS = 1; the largest of each slice of y goes to binding 5, see lib/maxima.wgsl. NR*LANES
//   divides SLICE.
// EXPERTS = no | each | tiles: rows t may be products with experts, WEIGHTS = 1. lib/rows.wgsl has the rest and its
//   overrides.
// Overrides: T, IN (divisible by 16), OUT, OUT_STRIDE, FIRST and SLICE with MAXIMA.
// Options: LANES (the subgroup size), NR, ROWS (at most 8), WEIGHT = f16 | bf16, WEIGHTS, COMPUTE, EXPERTS,
//   MAXIMA (no | yes).
// Hole: WEIGHTS = 1: epilogue(i: u32, v: f32) -> f32; WEIGHTS = 2: epilogue(i: u32, v0: f32, v1: f32) -> f32.
override T: u32;
override IN: u32;
override OUT: u32;
override OUT_STRIDE: u32;

#include lib/weight_wide.wgsl
#include lib/product.wgsl
@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<vec4<u64>>;
#if WEIGHTS == 2
@group(0) @binding(3) var<storage, read> w1: array<vec4<u64>>;
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

// Adds the products of the sixteen elements from k = 16*s of a chunk, for the rows j and j + 1. Compilers unroll loops
// up to a certain size only; the arrays of a loop that is not unrolled do not stay in registers.
fn add(
    acc: ptr<function, array<f32, HELD * ROWS>>,
    a: ptr<function, array<Sixteen, HELD>>,
    xs: ptr<function, array<Eight, ROWS>>,
    s: u32,
    first: u32,
) {
    for (var j = first; j < min(first + 2u, ROWS); j++) {
        for (var e = 0u; e < 16u; e++) {
            let v = subgroupShuffle(f32(xs[j][e % 2u][e / 2u % 4u]), s * 2u + e / 8u);
            for (var r = 0u; r < HELD; r++) { acc[r * ROWS + j] = fma(f32(a[r][e % 4u][e / 4u]), v, acc[r * ROWS + j]); }
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
    if is_idle(tile, n0, NR * LANES) { return; }
    var acc: array<f32, HELD * ROWS>;
    for (var c0 = 0u; c0 < IN / 16u; c0 += LANES / 2u) {
        var xs: array<Eight, ROWS>;
        for (var j = 0u; j < ROWS; j++) {
            let c = min(c0 * 2u + lane, IN / 8u - 1u);
            xs[j] = eight(words(x[x_row(tile, j) * (IN / 8u) + c]));
        }
        let end = min(c0 + LANES / 2u, IN / 16u);
        for (var s = c0; s < end; s++) {
            var a: array<Sixteen, HELD>;
            for (var r = 0u; r < NR; r++) {
                let at = weight_row(tile, min(n0 + lane + r * LANES, OUT - 1u)) * (IN / 16u) + s;
                a[r] = sixteen(w0[at]);
#if WEIGHTS == 2
                a[NR + r] = sixteen(w1[at]);
#endif
            }
            add(&acc, &a, &xs, s - c0, 0u);
            add(&acc, &a, &xs, s - c0, 2u);
            add(&acc, &a, &xs, s - c0, 4u);
            add(&acc, &a, &xs, s - c0, 6u);
        }
    }
    store_columns(&acc, tile, n0, lane);
}
