// Attention of many queries for drivers that compute on the CPU, as attention.wgsl defines it: a lane has OWN queries
// to itself, so that scores are never reduced across lanes.
// One workgroup, one subgroup: TQ = LANES*OWN (t, head) pairs of one KV head, t slowest, over the keys
// [0, min(S, step.end)), or with SPLITS = yes over one of PARTS ranges of them. Keys before the first and after the
// last visible one are not read.
// Keys, then values, go by KEYS rows. Lanes load the neighbouring vectors of these rows, and shuffles hand them round.
// Grid: x, y: B*K*ceil(T*(N/K)/TQ) folded; z: PARTS with SPLITS = yes, else 1. Rows t >= step.rows are not written.
// Row t of q, visible and out lies at row t + step.sequence. Scratch as in attention.wgsl.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS.
// Options: TIER = subgroup, LANES (the subgroup size), OWN, KEYS (at most LANES), WIDTH = H/4 (at most 24), VEC = 4,
//   SOFTCAP, KEEP, SPLITS, KV = f32 | f16 (packed pairs), PROLOGUE = no,
//   WIDE = yes (keys and values by 64 bits, 64-bit integers) | no.
const LANES = ${LANES}u;
const OWN = ${OWN}u;
const KEYS = ${KEYS}u;
const WIDTH = ${WIDTH}u;
const TQ = LANES * OWN;
// Vectors of KEYS rows that a lane loads.
const LOADS = (KEYS * WIDTH + LANES - 1u) / LANES;
#include lib/lanes.wgsl
#include lib/lanes_ends.wgsl
#include lib/attention.wgsl
#include lib/attention_block.wgsl
@group(0) @binding(0) var<storage, read> q: array<Values>;
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#endif

// Element e of vector h of row k of those that the lanes have loaded.
fn of_row(rows: ptr<function, array<Values, LOADS>>, k: u32, h: u32, e: u32) -> f32 {
    let i = k * WIDTH + h;
    return subgroupShuffle(rows[i / LANES][e], i % LANES);
}

// Vectors of a call. Compilers unroll loops up to a certain size only, and the arrays of a loop that is not unrolled do
// not stay in registers.
const TURN = 2u;

// Adds the products with the vectors from `first` on.
fn add_products(
    z: ptr<function, array<f32, OWN * KEYS>>,
    own: ptr<function, array<Values, OWN * WIDTH>>,
    rows: ptr<function, array<Values, LOADS>>,
    first: u32,
) {
    for (var h = first; h < min(first + TURN, WIDTH); h++) {
        for (var e = 0u; e < VEC; e++) {
            for (var k = 0u; k < KEYS; k++) {
                let key = of_row(rows, k, h, e);
                for (var r = 0u; r < OWN; r++) { z[r * KEYS + k] = fma(own[r * WIDTH + h][e], key, z[r * KEYS + k]); }
            }
        }
    }
}

// Shrinks the results so far and adds the weighted values, of the vectors from `first` on.
fn add_values(
    acc: ptr<function, array<Values, OWN * WIDTH>>,
    weights: ptr<function, array<f32, OWN * KEYS>>,
    shrink: ptr<function, array<f32, OWN>>,
    rows: ptr<function, array<Values, LOADS>>,
    first: u32,
) {
    for (var h = first; h < min(first + TURN, WIDTH); h++) {
        for (var e = 0u; e < VEC; e++) {
            var sums: array<f32, OWN>;
            for (var r = 0u; r < OWN; r++) { sums[r] = acc[r * WIDTH + h][e] * shrink[r]; }
            for (var k = 0u; k < KEYS; k++) {
                let value = of_row(rows, k, h, e);
                for (var r = 0u; r < OWN; r++) { sums[r] = fma(weights[r * KEYS + k], value, sums[r]); }
            }
            for (var r = 0u; r < OWN; r++) { acc[r * WIDTH + h][e] = sums[r]; }
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = N / K;
    let here = block_of(wid.x + wid.y * groups.x);
    if here.b >= BATCH || here.first / g >= step.rows { return; }
    let capacity = cache_rows();
    let queries = pairs_of_head();

    // The loops that load queries and store results have an unknown length: drivers on the CPU compile each load and
    // store in the text for long.
    var own: array<Values, OWN * WIDTH>;
    var bounds: array<vec2<i32>, OWN>;
    var all = vec2<i32>(0x7fffffff, -1);
    for (var r = 0u; r < OWN; r++) {
        bounds[r] = bounds_of(here, lane + r * LANES);
        all = vec2<i32>(min(all.x, bounds[r].x), max(all.y, bounds[r].y));
    }
    for (var i = 0u; i < OWN * (H / VEC); i++) {
        let pair = min(here.first + lane + i / WIDTH * LANES, queries - 1u);
        let row = (here.b * T + pair / g + step.sequence) * N + here.kv * g + pair % g;
        own[i] = q[row * WIDTH + i % WIDTH];
    }
    all = vec2<i32>(subgroupMin(all.x), subgroupMax(all.y));
    let ends = seen_rows(here, all, rows_of_part(wid.z, KEYS), lane);
    let first = ends.x;
    let last = ends.y;

    var most: array<f32, OWN>;
    var sum: array<f32, OWN>;
    var acc: array<Values, OWN * WIDTH>;
    for (var r = 0u; r < OWN; r++) { most[r] = HIDDEN; }
    for (var s0 = first; s0 < last; s0 += KEYS) {
        var rows: array<Values, LOADS>;
        for (var i = 0u; i < LOADS; i++) {
            let at = i * LANES + lane;
            let s = min(s0 + at / WIDTH, last - 1u);
            rows[i] = widened(keys[((here.b * capacity + s) * K + here.kv) * WIDTH + at % WIDTH]);
        }
        var z: array<f32, OWN * KEYS>;
        add_products(&z, &own, &rows, 0u);
        add_products(&z, &own, &rows, 2u);
        add_products(&z, &own, &rows, 4u);
        add_products(&z, &own, &rows, 6u);
        add_products(&z, &own, &rows, 8u);
        add_products(&z, &own, &rows, 10u);
        add_products(&z, &own, &rows, 12u);
        add_products(&z, &own, &rows, 14u);
        add_products(&z, &own, &rows, 16u);
        add_products(&z, &own, &rows, 18u);
        add_products(&z, &own, &rows, 20u);
        add_products(&z, &own, &rows, 22u);

        let at = s0 + lane % KEYS;
        let position = select(0x7fffffff, kept_position(here.b * capacity + min(at, last - 1u)), at < last);
        var now: array<f32, OWN>;
        for (var r = 0u; r < OWN; r++) { now[r] = most[r]; }
        for (var k = 0u; k < KEYS; k++) {
            let key = subgroupShuffle(position, k);
            for (var r = 0u; r < OWN; r++) {
                z[r * KEYS + k] = select(HIDDEN, score(z[r * KEYS + k]), is_between(bounds[r], key));
                now[r] = max(now[r], z[r * KEYS + k]);
            }
        }
        var shrink: array<f32, OWN>;
        for (var r = 0u; r < OWN; r++) {
            shrink[r] = exp(max(most[r] - now[r], -100.0));
            sum[r] *= shrink[r];
            most[r] = now[r];
        }
        for (var k = 0u; k < KEYS; k++) {
            let key = subgroupShuffle(position, k);
            for (var r = 0u; r < OWN; r++) {
                let weight = exp(max(z[r * KEYS + k] - now[r], -100.0));
                z[r * KEYS + k] = select(0.0, weight, is_between(bounds[r], key));
                sum[r] += z[r * KEYS + k];
            }
        }

        for (var i = 0u; i < LOADS; i++) {
            let at = i * LANES + lane;
            let s = min(s0 + at / WIDTH, last - 1u);
            rows[i] = widened(values[((here.b * capacity + s) * K + here.kv) * WIDTH + at % WIDTH]);
        }
        add_values(&acc, &z, &shrink, &rows, 0u);
        add_values(&acc, &z, &shrink, &rows, 2u);
        add_values(&acc, &z, &shrink, &rows, 4u);
        add_values(&acc, &z, &shrink, &rows, 6u);
        add_values(&acc, &z, &shrink, &rows, 8u);
        add_values(&acc, &z, &shrink, &rows, 10u);
        add_values(&acc, &z, &shrink, &rows, 12u);
        add_values(&acc, &z, &shrink, &rows, 14u);
        add_values(&acc, &z, &shrink, &rows, 16u);
        add_values(&acc, &z, &shrink, &rows, 18u);
        add_values(&acc, &z, &shrink, &rows, 20u);
        add_values(&acc, &z, &shrink, &rows, 22u);
    }

    var mosts: array<f32, OWN>;
    var totals: array<f32, OWN>;
    for (var r = 0u; r < OWN; r++) { mosts[r] = most[r]; totals[r] = sum[r]; }
    for (var i = 0u; i < OWN * (H / VEC); i++) {
        let r = i / WIDTH;
        let pair = here.first + lane + r * LANES;
        if pair >= queries || pair / g >= step.rows { break; }
        let row = (here.b * T + pair / g) * N + here.kv * g + pair % g;
#if SPLITS == yes
        let part = row * PARTS + wid.z;
        let to = part * H + i % WIDTH * VEC;
        if i % WIDTH == 0u {
            let tail = BATCH * T * N * PARTS * H + part * 2u;
            scratch[tail] = mosts[r];
            scratch[tail + 1u] = totals[r];
        }
        for (var e = 0u; e < VEC; e++) { scratch[to + e] = acc[i][e]; }
#else
        let to = (row + step.sequence * N) * H + i % WIDTH * VEC;
        let scale = select(0.0, 1.0 / totals[r], totals[r] > 0.0);
        for (var e = 0u; e < VEC; e++) { out[to + e] = acc[i][e] * scale; }
#endif
    }
}
