// Attention for drivers that compute on the CPU, one subgroup a workgroup, with online softmax:
//   out[b, t, n, :] = Σ_s p[s]·v[b, s, n/G, :], p = softmax_s(z[s]) over the visible keys, G = N/K,
//   z[s] = SCALE · q[b, t, n, :]·k[b, s, n/G, :], with SOFTCAP = yes z = CAP·tanh(z/CAP).
// A query that sees no key gives zeros.
// q, out [B, T, N, H]; k, v [B, S, K, H]; visible [B, T] (first, last); key_positions [B, S] (dead rows 0x7fffffff).
// Query t sees key s iff the key's position is neither 0x7fffffff nor before the first or behind the last position in
// `visible`, and with KEEP = yes keep[b, s] >= 0.5.
// One workgroup: QUERIES (t, head) pairs of one KV head, t slowest, over the keys [0, min(S, step.end)), or with
// SPLITS = yes over one of PARTS ranges of them. Keys before the first and after the last visible one are not read.
// Grid: x, y: B*K*ceil(T*G/QUERIES) folded; z: PARTS with SPLITS = yes, else 1. Rows t >= step.rows are not written.
// Row t of q, visible, out, new rows and table lies at row t + step.sequence.
// SPLITS = yes: scratch f32 for attention_combine: [B*T*N, PARTS, H] weighted V, then [B*T*N, PARTS, 2] (max, sum).
// PROLOGUE = yes (T = 1, KEEP = no): q, and key and value of the new row, are projections, neither normed nor rotated.
//   9 key and 10 value [B, K, H]; 11 table as in rope.wgsl; 12, 13 gains of the norms on q and k unless GAIN = none.
//   The kernel writes key and value to row p mod S of the caches. p is the last position that the query sees: its own.
//   Other workgroups may read that row, but use none of it.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS, with PROLOGUE = yes N_ROT and TABLE, EPS
//   with a GAIN.
// Options: LANES (the subgroup size), QUERIES, SOFTCAP, KEEP, SPLITS,
//   READ = load (lanes read the same q) | shuffle (subgroup of 8 lanes or more, H divisible by 8: eight lanes read
//     eight neighbouring q and hand them round),
//   KV = f32 | f16 (packed pairs), VEC = 4 (H divisible by 4) | 2, HV = ceil(H/(VEC*LANES)),
//   WIDE = yes (keys and values by 64 bits; VEC = 4, 64-bit integers) | no,
//   PROLOGUE; with PROLOGUE = yes GAIN, WEIGHT and WEIGHTS = 2 as in rms_norm.wgsl.
const LANES = ${LANES}u;
const QUERIES = ${QUERIES}u;
const HV = ${HV}u;
#include lib/lanes.wgsl
#include lib/lanes_ends.wgsl
#include lib/attention.wgsl

#if PROLOGUE == yes
#include lib/decode_prologue.wgsl
#elif PROLOGUE == no
#if READ == load
@group(0) @binding(0) var<storage, read> q: array<Values>;
#elif READ == shuffle
@group(0) @binding(0) var<storage, read> q: array<f32>;
#endif
#endif
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = N / K;
    let blocks = (T * g + QUERIES - 1u) / QUERIES;
    let group = wid.x + wid.y * groups.x;
    let block = group % blocks;
    let kv = group / blocks % K;
    let b = group / blocks / K;
    if b >= BATCH || block * QUERIES / g >= step.rows { return; }

    let capacity = cache_rows();
#if PROLOGUE == yes
    // A token at no position has no row.
    let own = visible[b + step.sequence];
    let placed = own.x <= own.y;
    let new_row = select(0xffffffffu, u32(own.y) % capacity, placed);
    prepare_row(b + step.sequence, kv, block, lane);
#endif
    let queries = min(QUERIES, T * g - block * QUERIES);
    var base: array<u32, QUERIES>;
    var bounds: array<vec2<i32>, QUERIES>;
    for (var r = 0u; r < queries; r++) {
        let t = (block * QUERIES + r) / g;
        base[r] = ((b * T + t + step.sequence) * N + kv * g + block * QUERIES + r - t * g) * (H / VEC);
        bounds[r] = visible[b * T + t + step.sequence];
    }

    let rows = rows_of_part(wid.z, LANES);
    let begin = rows.x;
    let end = rows.y;
    var first = 0xffffffffu;
    var last = 0u;
    for (var s = begin + lane; s < end; s += LANES) {
        let key = key_positions[b * capacity + s];
        var seen = false;
        for (var r = 0u; r < QUERIES; r++) { seen = seen || sees(bounds[r], key, b * capacity + s); }
#if PROLOGUE == yes
        seen = seen && s != new_row;
#endif
        if seen { first = min(first, s); last = s + 1u; }
    }
    let ends = lanes_ends(first, last, lane);
    first = ends.x;
    last = ends.y;

    var most: array<f32, QUERIES>;
    var sum: array<f32, QUERIES>;
    var acc: array<Values, QUERIES * HV>;
#if PROLOGUE == no
    for (var r = 0u; r < QUERIES; r++) { most[r] = HIDDEN; }
#elif PROLOGUE == yes
    // The first part answers for the new row.
    let owns = wid.z == 0u && placed;
    for (var r = 0u; r < QUERIES; r++) {
        var product = 0.0;
        for (var i = lane; i < H / VEC; i += LANES) { product += dot(fresh[QUERIES * (H / VEC) + i], fresh[r * (H / VEC) + i]); }
        most[r] = select(HIDDEN, score(lanes_sum(product, lane)), owns);
        sum[r] = select(0.0, 1.0, owns && lane == 0u);
    }
    for (var i = 0u; i < HV; i++) {
        let own = fresh[(QUERIES + 1u) * (H / VEC) + min(i * LANES + lane, H / VEC - 1u)];
        for (var r = 0u; r < QUERIES; r++) { acc[r * HV + i] = select(Values(0.0), own, owns); }
    }
    if owns && block == 0u { keep_row(((b * capacity + new_row) * K + kv) * (H / VEC), lane); }
#endif
    for (var s0 = first; s0 < last; s0 += LANES) {
        let s = min(s0 + lane, last - 1u);
        let at = ((b * capacity + s) * K + kv) * (H / VEC);
        var z: array<f32, QUERIES>;
#if PROLOGUE == yes
        for (var h = 0u; h < H / VEC; h++) {
            let k = widened(keys[at + h]);
            for (var r = 0u; r < QUERIES; r++) { z[r] += dot(k, fresh[r * (H / VEC) + h]); }
        }
#elif READ == load
        for (var h = 0u; h < H / VEC; h++) {
            let k = widened(keys[at + h]);
            for (var r = 0u; r < QUERIES; r++) { z[r] += dot(k, q[base[r] + h]); }
        }
#elif READ == shuffle
        for (var h = 0u; h < H / VEC; h += 8u / VEC) {
            var k: array<Values, 8u / VEC>;
            for (var e = 0u; e < 8u / VEC; e++) { k[e] = widened(keys[at + h + e]); }
            for (var r = 0u; r < QUERIES; r++) {
                let mine = q[base[r] * VEC + h * VEC + lane % 8u];
                for (var e = 0u; e < 8u; e++) { z[r] = fma(k[e / VEC][e % VEC], subgroupShuffle(mine, e), z[r]); }
            }
        }
#endif
        let key = key_positions[b * capacity + s];
        var seen: array<bool, QUERIES>;
        for (var r = 0u; r < QUERIES; r++) {
            seen[r] = s0 + lane < last && sees(bounds[r], key, b * capacity + s);
#if PROLOGUE == yes
            seen[r] = seen[r] && s != new_row;
#endif
            z[r] = select(HIDDEN, score(z[r]), seen[r]);
        }
        for (var r = 0u; r < QUERIES; r++) {
            let block_most = subgroupMax(z[r]);
            let now = max(most[r], block_most);
            let shrink = exp(max(most[r] - now, -100.0));
            z[r] = select(0.0, exp(max(z[r] - now, -100.0)), seen[r]);
            sum[r] = sum[r] * shrink + z[r];
            most[r] = now;
            for (var i = 0u; i < HV; i++) { acc[r * HV + i] *= shrink; }
        }
        for (var l = 0u; l < min(LANES, last - s0); l++) {
            let row = ((b * capacity + s0 + l) * K + kv) * (H / VEC);
            var p: array<f32, QUERIES>;
            for (var r = 0u; r < QUERIES; r++) {
                p[r] = subgroupShuffle(z[r], l);
            }
            for (var i = 0u; i < HV; i++) {
                let v = widened(values[row + min(i * LANES + lane, H / VEC - 1u)]);
                for (var r = 0u; r < QUERIES; r++) { acc[r * HV + i] = fma(Values(p[r]), v, acc[r * HV + i]); }
            }
        }
    }

    // Drivers on the CPU compile a store for long: its loops are not unrolled, and what they read lies in memory.
    var totals: array<f32, QUERIES>;
    var mosts: array<f32, QUERIES>;
    var results: array<Values, QUERIES * HV>;
    for (var r = 0u; r < QUERIES; r++) {
        totals[r] = lanes_sum(sum[r], lane);
        mosts[r] = most[r];
        for (var i = 0u; i < HV; i++) { results[r * HV + i] = acc[r * HV + i]; }
    }
    for (var r = 0u; r < queries; r++) {
        if (block * QUERIES + r) / g >= step.rows { break; }
        let o = base[r] / (H / VEC);
#if SPLITS == yes
        let part = (o - step.sequence * N) * PARTS + wid.z;
        let to = part * H;
        let scale = 1.0;
        if lane == 0u {
            let tail = BATCH * T * N * PARTS * H + part * 2u;
            scratch[tail] = mosts[r];
            scratch[tail + 1u] = totals[r];
        }
#else
        let to = o * H;
        let scale = select(0.0, 1.0 / totals[r], totals[r] > 0.0);
#endif
        for (var i = lane; i < H / VEC; i += LANES) {
            let result = results[r * HV + i / LANES] * scale;
            for (var e = 0u; e < VEC; e++) {
#if SPLITS == yes
                scratch[to + i * VEC + e] = result[e];
#else
                out[to + i * VEC + e] = result[e];
#endif
            }
        }
    }
}
