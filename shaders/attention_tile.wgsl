// Attention of many queries for GPUs, as attention.wgsl defines it: the prefill of a decoder.
// One workgroup of 8 by 16 lanes: TQ = 8*ROWS (t, head) pairs of one KV head, t slowest, over the keys
// [0, min(S, step.end)), or with SPLITS = yes over one of PARTS ranges of them. Keys go by tiles of 32; a tile that no
// query sees is not read.
// Lane (y, x) has the queries y, y + 8, …, the keys x and x + 16 of a tile, and the vectors x, x + 16, … of results.
// Queries and keys go through workgroup memory by 8 vectors, values by 16, scores of a tile at once.
// Grid: x, y: B*K*ceil(T*(N/K)/TQ) folded; z: PARTS with SPLITS = yes, else 1. Rows t >= step.rows are not written.
// Row t of q, visible and out lies at row t + step.sequence. Scratch as in attention.wgsl.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS.
// Options: TIER = subgroups | portable, LANES = 128, ROLLED, ROWS, HV = ceil(H/(16*VEC)), VEC = 4 | 2, SOFTCAP, KEEP,
//   SPLITS, KV = f32 | f16 (packed pairs), WIDE = no, PROLOGUE = no.
const LANES = ${LANES}u;
const ROWS = ${ROWS}u;
const HV = ${HV}u;
const TQ = 8u * ROWS;
const TK = 32u;
const DEPTH = 8u;
// Rows of a tile begin at different banks.
const STRIDE = DEPTH + 1u;
const ACROSS = TK + 4u;
#include lib/subgroup.wgsl
#include lib/lanes_ends.wgsl
#include lib/attention.wgsl
#include lib/attention_block.wgsl
#include lib/times.wgsl
@group(0) @binding(0) var<storage, read> q: array<Values>;
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<Values>;
#endif
// Queries, then keys, by slices of their vectors; or values.
var<workgroup> tile: array<Values, 64u * STRIDE>;
// Scores of a tile, then exp(score − largest score).
var<workgroup> weights: array<f32, TQ * ACROSS>;
var<workgroup> is_seen: array<u32, TK>;
var<workgroup> some_seen: u32;

// Four neighbouring weights.
fn weights4(at: u32) -> vec4<f32> { return vec4<f32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]); }

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let width = H / VEC;
    let g = N / K;
    let pairs = pairs_of_head();
    let here = block_of(wid.x + wid.y * groups.x);
    let block = here.first;
    let kv = here.kv;
    let b = here.b;
    if b >= BATCH || block / g >= step.rows { return; }
    let x = lane % 16u;
    let y = lane / 16u;

    let capacity = cache_rows();
    var bounds: array<vec2<i32>, ROWS>;
    for (var r = 0u; r < times(ROWS); r++) { bounds[r] = bounds_of(here, y + r * 8u); }
    let all = bounds_of_all(here);
    let ends = seen_rows(here, all, rows_of_part(wid.z, TK), lane);
    let first = ends.x;
    let last = ends.y;

    var most: array<f32, ROWS>;
    // This lane's part of the sums.
    var sum: array<f32, ROWS>;
    var acc: array<Values, ROWS * HV>;
    for (var r = 0u; r < times(ROWS); r++) { most[r] = HIDDEN; }
    for (var s0 = first; s0 < last; s0 += TK) {
        if lane < TK {
            let s = min(s0 + lane, last - 1u);
            is_seen[lane] = u32(sees(all, key_positions[b * capacity + s], b * capacity + s));
        }
        workgroupBarrier();
        if lane == 0u {
            var any = 0u;
            for (var i = 0u; i < times(TK); i++) { any |= is_seen[i]; }
            some_seen = any;
        }
        if workgroupUniformLoad(&some_seen) == 0u { continue; }

        var z: array<vec2<f32>, ROWS>;
        for (var d = 0u; d < width; d += DEPTH) {
            workgroupBarrier();
            for (var i = lane; i < TQ * DEPTH; i += LANES) {
                let query = min(block + i / DEPTH, pairs - 1u);
                let row = (b * T + query / g + step.sequence) * N + kv * g + query % g;
                let h = d + i % DEPTH;
                tile[i / DEPTH * STRIDE + i % DEPTH] = select(Values(0.0), q[row * width + min(h, width - 1u)], h < width);
            }
            for (var i = lane; i < TK * DEPTH; i += LANES) {
                let s = min(s0 + i / DEPTH, last - 1u);
                let h = min(d + i % DEPTH, width - 1u);
                tile[(TQ + i / DEPTH) * STRIDE + i % DEPTH] = widened(keys[((b * capacity + s) * K + kv) * width + h]);
            }
            workgroupBarrier();
            for (var i = 0u; i < rolled(DEPTH); i++) {
                let k0 = tile[(TQ + x) * STRIDE + i];
                let k1 = tile[(TQ + x + 16u) * STRIDE + i];
                for (var r = 0u; r < times(ROWS); r++) {
                    let own = tile[(y + r * 8u) * STRIDE + i];
                    z[r] += vec2<f32>(dot(own, k0), dot(own, k1));
                }
            }
        }
        var seen: array<vec2<bool>, ROWS>;
        let s = min(vec2<u32>(s0 + x, s0 + x + 16u), vec2<u32>(last - 1u));
        let position = vec2<i32>(key_positions[b * capacity + s.x], key_positions[b * capacity + s.y]);
        let is_key = vec2<bool>(s0 + x < last, s0 + x + 16u < last);
        for (var r = 0u; r < times(ROWS); r++) {
            let sees0 = is_key.x && sees(bounds[r], position.x, b * capacity + s.x);
            let sees1 = is_key.y && sees(bounds[r], position.y, b * capacity + s.y);
            seen[r] = vec2<bool>(sees0, sees1);
            z[r] = select(vec2<f32>(HIDDEN), vec2<f32>(score(z[r].x), score(z[r].y)), seen[r]);
            weights[(y + r * 8u) * ACROSS + x] = z[r].x;
            weights[(y + r * 8u) * ACROSS + x + 16u] = z[r].y;
        }
        workgroupBarrier();
        var now: array<f32, ROWS>;
        // A loop around a rolled one is not unrolled either, and must not index what shall lie in registers.
        var tops: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < times(ROWS); r++) { tops[r] = weights4((y + r * 8u) * ACROSS); }
        for (var i = 4u; i < rolled(TK); i += 4u) {
            for (var r = 0u; r < times(ROWS); r++) { tops[r] = max(tops[r], weights4((y + r * 8u) * ACROSS + i)); }
        }
        for (var r = 0u; r < times(ROWS); r++) {
            now[r] = max(most[r], max(max(tops[r].x, tops[r].y), max(tops[r].z, tops[r].w)));
        }
        workgroupBarrier();
        for (var r = 0u; r < times(ROWS); r++) {
            let shrink = exp(max(most[r] - now[r], -100.0));
            let p = select(vec2<f32>(0.0), exp(max(z[r] - now[r], vec2<f32>(-100.0))), seen[r]);
            weights[(y + r * 8u) * ACROSS + x] = p.x;
            weights[(y + r * 8u) * ACROSS + x + 16u] = p.y;
            sum[r] = sum[r] * shrink + p.x + p.y;
            most[r] = now[r];
            for (var i = 0u; i < times(HV); i++) { acc[i * ROWS + r] *= shrink; }
        }
        for (var i = 0u; i < times(HV); i++) {
            workgroupBarrier();
            for (var j = lane; j < TK * 16u; j += LANES) {
                let s = min(s0 + j / 16u, last - 1u);
                let h = min(i * 16u + j % 16u, width - 1u);
                tile[j] = widened(values[((b * capacity + s) * K + kv) * width + h]);
            }
            workgroupBarrier();
            for (var k = 0u; k < rolled(TK); k += 2u) {
                let v0 = tile[k * 16u + x];
                let v1 = tile[(k + 1u) * 16u + x];
                for (var r = 0u; r < times(ROWS); r++) {
                    let at = (y + r * 8u) * ACROSS + k;
                    acc[r] += weights[at] * v0 + weights[at + 1u] * v1;
                }
            }
            // The next slice moves to the front, as this loop must not index `acc`; after the last each is back in its
            // place.
            for (var r = 0u; r < times(ROWS); r++) {
                let done = acc[r];
                for (var j = 1u; j < times(HV); j++) { acc[(j - 1u) * ROWS + r] = acc[j * ROWS + r]; }
                acc[(HV - 1u) * ROWS + r] = done;
            }
        }
    }

    workgroupBarrier();
    for (var r = 0u; r < times(ROWS); r++) { weights[(y + r * 8u) * ACROSS + x] = sum[r]; }
    workgroupBarrier();
    for (var r = 0u; r < times(ROWS); r++) {
        let query = block + y + r * 8u;
        if query >= pairs || query / g >= step.rows { continue; }
        var parts = vec4<f32>(0.0);
        for (var i = 0u; i < times(16u); i += 4u) { parts += weights4((y + r * 8u) * ACROSS + i); }
        let total = parts.x + parts.y + parts.z + parts.w;
        let row = (b * T + query / g) * N + kv * g + query % g;
#if SPLITS == yes
        if x == 0u {
            let tail = BATCH * T * N * PARTS * width * VEC + (row * PARTS + wid.z) * 2u;
            scratch[tail] = most[r];
            scratch[tail + 1u] = total;
        }
        let scale = 1.0;
#else
        let scale = select(0.0, 1.0 / total, total > 0.0);
#endif
        for (var i = 0u; i < times(HV); i++) {
            let h = i * 16u + x;
            if h >= width { continue; }
            let result = acc[i * ROWS + r] * scale;
#if SPLITS == yes
            let to = (row * PARTS + wid.z) * width + h;
            for (var e = 0u; e < times(VEC); e++) { scratch[to * VEC + e] = result[e]; }
#else
            out[(row + step.sequence * N) * width + h] = result;
#endif
        }
    }
}
