// Attention of few queries for GPUs, as attention.wgsl defines it: the step of a decoder.
// One workgroup: QUERIES (t, head) pairs of one KV head, t slowest, over the keys [0, min(S, step.end)), or with
// SPLITS = yes over one of PARTS ranges of them. Keys go by tiles of LANES. SPLIT neighbouring lanes share the product
// with a key, so that they read neighbouring words. As many lanes as a row has vectors share a row of values. Groups of
// that many lanes take rows in turn, eight at a time.
// Grid: x, y: B*K*ceil(T*(N/K)/QUERIES) folded; z: PARTS with SPLITS = yes, else 1.
// Rows t >= step.rows are not written. Row t of q, visible, out, new rows and table lies at row t + step.sequence.
// Scratch as in attention.wgsl.
// PROLOGUE = yes (T = 1, KEEP = no): the operands are those of attention.wgsl. Every workgroup norms and rotates its
// queries. The first part of the first block norms and rotates the key too, and writes key and value. N_ROT and TABLE
// are divisible by 2*VEC.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS, with PROLOGUE = yes N_ROT and TABLE, EPS
//   with a GAIN.
// Options: TIER = subgroups | portable, LANES >= width = H/VEC, ROLLED (lib/times.wgsl), QUERIES,
//   ROOM >= QUERIES*width and LANES, VEC = 4 | 2, SPLIT = 4 (TIER = subgroups, width divisible by 4) | 1,
//   DEPTH (vectors of a key that a lane loads at once; SPLIT*DEPTH divides width),
//   SOFTCAP, KEEP, SPLITS, KV = f32 | f16 (packed pairs), WIDE = no, PROLOGUE; with PROLOGUE = yes those of
//   lib/row_gains.wgsl.
const LANES = ${LANES}u;
const QUERIES = ${QUERIES}u;
const SPLIT = ${SPLIT}u;
const DEPTH = ${DEPTH}u;
const FLIGHT = 8u;
// The queries and the new key.
const EACH = QUERIES + 1u;
#include lib/subgroup.wgsl
#include lib/lanes_ends.wgsl
#include lib/lanes_each.wgsl
#include lib/attention.wgsl
#include lib/times.wgsl
@group(0) @binding(0) var<storage, read> q: array<Values>;
#if PROLOGUE == yes
#include lib/turned_row.wgsl
#endif
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<Values>;
#endif
// The queries; at the end the lanes' parts of a result.
var<workgroup> queries: array<Values, ${ROOM}u>;
// exp(score − largest score) of each query and key of a tile.
var<workgroup> weights: array<f32, QUERIES * LANES>;

#if SPLIT == 4
// The sum over four neighbouring lanes.
fn split_sum(v: f32) -> f32 {
    let pair = v + subgroupShuffleXor(v, 1u);
    return pair + subgroupShuffleXor(pair, 2u);
}
#else
fn split_sum(v: f32) -> f32 { return v; }
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
#if TIER == subgroups
    // Neighbours lie in one subgroup, however a driver deals invocations out.
    let lane = subgroup_id * subgroup_size + subgroup_lane;
#else
    let lane = index;
#endif
    let width = H / VEC;
    let g = N / K;
    let blocks = (T * g + QUERIES - 1u) / QUERIES;
    let group = wid.x + wid.y * workgroups.x;
    let block = group % blocks;
    let kv = group / blocks % K;
    let b = group / blocks / K;
    if b >= BATCH || block * QUERIES / g >= step.rows { return; }

    let capacity = cache_rows();
    // Heads of a query, rows of `visible`, and results, by query.
    var head: array<u32, QUERIES>;
    var bounds: array<vec2<i32>, QUERIES>;
    for (var r = 0u; r < times(QUERIES); r++) {
        let query = min(block * QUERIES + r, T * g - 1u);
        let t = query / g;
        head[r] = (b * T + t + step.sequence) * N + kv * g + query % g;
        bounds[r] = visible[b * T + t + step.sequence];
    }
    let range = rows_of_part(wid.z, LANES / SPLIT);
    let begin = range.x;
    let end = range.y;

    var most: array<f32, QUERIES>;
    var sum: array<f32, QUERIES>;
    var acc: array<Values, QUERIES>;
    for (var r = 0u; r < times(QUERIES); r++) { most[r] = HIDDEN; }
#if PROLOGUE == yes
    // A token at no position has no row. The first part answers for the new row.
    let own = bounds[0];
    let placed = own.x <= own.y;
    let new_row = select(0xffffffffu, u32(own.y) % capacity, placed);
    let owns = wid.z == 0u && placed;
    let fresh = turned_rows(b + step.sequence, kv, block, lane);
    if owns {
        let first = lanes_sum_each(fresh.products, lane);
        for (var r = 0u; r < times(QUERIES); r++) {
            most[r] = score(first[r]);
            sum[r] = select(0.0, 1.0, lane == 0u);
            if lane < width { acc[r] = fresh.value; }
        }
        if block == 0u && lane < width {
            let to = ((b * capacity + new_row) * K + kv) * width + lane;
            keys[to] = narrowed(fresh.key);
            values[to] = narrowed(fresh.value);
        }
    }
#else
    for (var i = lane; i < QUERIES * width; i += LANES) {
        let query = min(block * QUERIES + i / width, T * g - 1u);
        queries[i] = q[((b * T + query / g + step.sequence) * N + kv * g + query % g) * width + i % width];
    }
#endif
    var first = begin;
    var last = end;
    // Of more than a tile the keys before the first and after the last visible one are not read.
    if end - begin > LANES {
        var low = 0xffffffffu;
        var high = 0u;
        for (var s = begin + lane; s < end; s += LANES) {
            let key = key_positions[b * capacity + s];
            var seen = false;
            for (var r = 0u; r < times(QUERIES); r++) { seen = seen || sees(bounds[r], key, b * capacity + s); }
            if seen { low = min(low, s); high = s + 1u; }
        }
        let ends = lanes_ends(low, high, lane);
        first = ends.x;
        last = ends.y;
    }
    workgroupBarrier();

    let column = lane % width;
    let groups = LANES / width;
    for (var s0 = first; s0 < last; s0 += LANES) {
        var z: array<f32, QUERIES>;
        for (var p = 0u; p < rolled(SPLIT); p++) {
            let s = min(s0 + p * (LANES / SPLIT) + lane / SPLIT, last - 1u);
            let row = ((b * capacity + s) * K + kv) * width;
            var product: array<f32, QUERIES>;
            for (var h = lane % SPLIT; h < rolled(width); h += SPLIT * DEPTH) {
                var k: array<Values, DEPTH>;
                for (var e = 0u; e < times(DEPTH); e++) { k[e] = widened(keys[row + h + e * SPLIT]); }
                for (var e = 0u; e < times(DEPTH); e++) {
                    for (var r = 0u; r < times(QUERIES); r++) { product[r] += dot(k[e], queries[r * width + h + e * SPLIT]); }
                }
            }
            for (var r = 0u; r < times(QUERIES); r++) {
                let whole = split_sum(product[r]);
                z[r] = select(z[r], whole, lane % SPLIT == p);
            }
        }
        // The key that this lane answers for.
        let place = lane % SPLIT * (LANES / SPLIT) + lane / SPLIT;
        let s = min(s0 + place, last - 1u);
        let key = key_positions[b * capacity + s];
        var seen: array<bool, QUERIES>;
        var tops: array<f32, EACH>;
        for (var r = 0u; r < times(QUERIES); r++) {
            seen[r] = s0 + place < last && sees(bounds[r], key, b * capacity + s);
#if PROLOGUE == yes
            seen[r] = seen[r] && s != new_row;
#endif
            z[r] = select(HIDDEN, score(z[r]), seen[r]);
            tops[r] = z[r];
        }
        tops = lanes_max_each(tops, lane);
        for (var r = 0u; r < times(QUERIES); r++) {
            let now = max(most[r], tops[r]);
            let shrink = exp(max(most[r] - now, -100.0));
            let weight = select(0.0, exp(max(z[r] - now, -100.0)), seen[r]);
            weights[r * LANES + place] = weight;
            sum[r] = sum[r] * shrink + weight;
            most[r] = now;
            acc[r] *= shrink;
        }
        workgroupBarrier();
        let count = min(LANES, last - s0);
        if lane < groups * width {
            for (var l = lane / width; l < count; l += groups * FLIGHT) {
                var v: array<Values, FLIGHT>;
                for (var e = 0u; e < times(FLIGHT); e++) {
                    let row = s0 + min(l + e * groups, count - 1u);
                    v[e] = widened(values[((b * capacity + row) * K + kv) * width + column]);
                }
                for (var e = 0u; e < times(FLIGHT); e++) {
                    let at = l + e * groups;
                    for (var r = 0u; r < times(QUERIES); r++) {
                        let weight = select(0.0, weights[r * LANES + min(at, LANES - 1u)], at < count);
                        acc[r] = fma(Values(weight), v[e], acc[r]);
                    }
                }
            }
        }
    }

    var sums: array<f32, EACH>;
    for (var r = 0u; r < times(QUERIES); r++) { sums[r] = sum[r]; }
    sums = lanes_sum_each(sums, lane);
    for (var r = 0u; r < times(QUERIES); r++) {
        workgroupBarrier();
        queries[lane] = acc[r];
        workgroupBarrier();
        let query = block * QUERIES + r;
        if lane < width && query < T * g && query / g < step.rows {
            var result = queries[lane];
            for (var i = 1u; i < times(groups); i++) { result += queries[i * width + lane]; }
#if SPLITS == yes
            let part = (head[r] - step.sequence * N) * PARTS + wid.z;
            for (var e = 0u; e < times(VEC); e++) { scratch[(part * width + lane) * VEC + e] = result[e]; }
            if lane == 0u {
                let tail = BATCH * T * N * PARTS * width * VEC + part * 2u;
                scratch[tail] = most[r];
                scratch[tail + 1u] = sums[r];
            }
#else
            out[head[r] * width + lane] = result * select(0.0, 1.0 / sums[r], sums[r] > 0.0);
#endif
        }
    }
}
