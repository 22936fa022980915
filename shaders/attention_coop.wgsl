// Attention of many queries through cooperative matrices, as attention.wgsl defines it: the prefill of a decoder.
// Queries, keys, weights exp(score − base) and values are f16 there, sums f32. Each query is divided by a power of two
// so that it fits f16. Keys and values are clamped to ±65504, as in f16 caches.
// One workgroup: TQ = P*ROWS (t, head) pairs of one KV head, t slowest, over the keys [0, min(S, step.end)), or with
// SPLITS = yes over one of PARTS ranges of them. Keys go by tiles of TK; a tile that no query sees is not read.
// Results are four pieces, each of all queries and P*COLS elements of a head; scores of a tile are four pieces as well.
// Each subgroup takes one piece. Fewer subgroups take the others in further rounds; surplus ones only load, weigh and
// store.
// A matrix gives no access to its elements. So a row's base follows its largest score only from a distance of NEAR on.
// Only then do the sums go through workgroup memory, to be multiplied there.
// Grid, rows and scratch as in attention_tile.wgsl.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS.
// Options: TIER = subgroups, LANES (a power of two), ROLLED, P = 8 | 16 (the side of the device's tile),
//   ROWS = 1 | 2 | 4, COLS = ceil(H/(4*P)), VEC = 4 | 2, SOFTCAP, KEEP, SPLITS, KV = f32 | f16 (packed pairs),
//   WIDE = no, PROLOGUE = no. Subgroups may have any size, also one that differs from shader to shader.
enable f16;
enable wgpu_cooperative_matrix;
const LANES = ${LANES}u;
const P = ${P}u;
const ROWS = ${ROWS}u;
const COLS = ${COLS}u;
const TQ = P * ROWS;
const TK = max(4u * P / ROWS, 32u);
// A head with padding; the elements of it that keys have in workgroup memory at a time, and values, of which VALUES are
// there.
const DEPTH = 4u * P * COLS;
const KEY_SLICE = 128u * P / TK;
const VALUE_SLICE = 4u * P;
const VALUES = 32u;
// Rows begin at different banks.
const ACROSS_HEAD = DEPTH + 8u;
const ACROSS_KEYS = KEY_SLICE + 8u;
const ACROSS_VALUES = VALUE_SLICE + 8u;
const ACROSS_SCORES = TK + 4u;
const ACROSS_WEIGHTS = TK + 8u;
// Tiles of a piece of the scores.
const SCORES = ROWS * (TK / P) / 4u;
// Lanes that weigh a row together, and how many rows a lane has.
const TOGETHER = max(LANES / TQ, 1u);
const OWN = TQ * TOGETHER / LANES;
// Vectors of a slice of values that a lane moves at most.
const OWN_VALUES = max(VALUES * VALUE_SLICE / VEC / LANES, 1u);
// The largest logarithm of a weight, and the distance below the largest score that a base moves to, so that small
// weights are numbers of f16 too.
const NEAR = 8.0;
const BELOW = 3.0;
#include lib/subgroup.wgsl
#include lib/lanes_ends.wgsl
#include lib/attention.wgsl
#include lib/attention_block.wgsl
#include lib/times.wgsl
#include lib/half_units.wgsl
@group(0) @binding(0) var<storage, read> q: array<Values>;
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#endif

alias Left = coop_mat${P}x${P}<f16, A>;
alias Right = coop_mat${P}x${P}<f16, B>;
alias Sum = coop_mat${P}x${P}<f32, C>;
// Loops that index them must be unrolled, so that they lie in registers; others take the first and turn them.
alias Sums = array<array<Sum, ROWS>, COLS>;
var<workgroup> queries: array<f16, TQ * ACROSS_HEAD>;
// A slice of keys or of values.
var<workgroup> tile: array<f16, max(TK * ACROSS_KEYS, VALUES * ACROSS_VALUES)>;
// Scores of a tile; or a matrix of each subgroup.
var<workgroup> scores: array<f32, TQ * ACROSS_SCORES>;
var<workgroup> weights: array<f16, TQ * ACROSS_WEIGHTS>;
// Of each lane a number of each row that it has.
var<workgroup> met: array<f32, TQ * TOGETHER>;
// The factors of a row's sums.
var<workgroup> factors: array<f32, TQ>;
var<workgroup> is_seen: array<u32, TK>;
var<workgroup> some_seen: u32;

fn in_half(v: Values) -> vec${VEC}<f16> { return vec${VEC}<f16>(clamp(v, Values(-65504.0), Values(65504.0))); }

// Moves the vector `h` of a head to the tile; zeros past the head.
fn place(v: Values, at: u32, h: u32) {
    let halves = in_half(select(Values(0.0), v, h < H / VEC));
    for (var e = 0u; e < VEC; e++) { tile[at + e] = halves[e]; }
}

// The largest, or the sum, of the numbers that the lanes of a row have met.
fn largest_of(row: u32) -> f32 {
    var most = met[row * TOGETHER];
    for (var i = 1u; i < TOGETHER; i++) { most = max(most, met[row * TOGETHER + i]); }
    return most;
}
fn sum_of(row: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < TOGETHER; i++) { sum += met[row * TOGETHER + i]; }
    return sum;
}

// The second comes first, the first last. After all turns each is back in its place.
fn turn(acc: ptr<function, Sums>) {
    let first = (*acc)[0][0];
    for (var c = 0u; c < COLS; c++) {
        for (var r = 0u; r + 1u < ROWS; r++) { (*acc)[c][r] = (*acc)[c][r + 1u]; }
        if c + 1u < COLS { (*acc)[c][ROWS - 1u] = (*acc)[c + 1u][0]; }
    }
    (*acc)[COLS - 1u][ROWS - 1u] = first;
}

// naga holds matrices to the rule for derivatives, which knows no subgroups. Here each subgroup takes its way as one.
@compute @workgroup_size(LANES) @diagnostic(off, derivative_uniformity)
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

    let capacity = cache_rows();
    let among = lane % TOGETHER;
    let first_row = lane / TOGETHER;
    var bounds: array<vec2<i32>, OWN>;
    var unit: array<f32, OWN>;
    for (var r = 0u; r < OWN; r++) {
        let row = first_row + r * (LANES / TOGETHER);
        let query = min(block + row, pairs - 1u);
        bounds[r] = bounds_of(here, row);
        let at = ((b * T + query / g + step.sequence) * N + kv * g + query % g) * width;
        var most = 0.0;
        for (var h = among; h < width; h += TOGETHER) {
            let size = abs(q[at + h]);
            for (var e = 0u; e < VEC; e++) { most = max(most, size[e]); }
        }
        met[row * TOGETHER + among] = most;
    }
    let all = bounds_of_all(here);
    let ends = seen_rows(here, all, rows_of_part(wid.z, TK), lane);
    let first = ends.x;
    let last = ends.y;
    for (var r = 0u; r < OWN; r++) {
        let row = first_row + r * (LANES / TOGETHER);
        let query = min(block + row, pairs - 1u);
        let at = ((b * T + query / g + step.sequence) * N + kv * g + query % g) * width;
        let units = half_units(largest_of(row));
        unit[r] = units.x;
        for (var h = among; h < DEPTH / VEC; h += TOGETHER) {
            let halves = in_half(select(Values(0.0), q[at + min(h, width - 1u)] * units.y, h < width));
            for (var e = 0u; e < VEC; e++) { queries[row * ACROSS_HEAD + h * VEC + e] = halves[e]; }
        }
    }

    for (var first_piece = 0u; first_piece < 4u; first_piece += num_subgroups) {
        let piece = first_piece + subgroup_id;
        var base: array<f32, OWN>;
        // This lane's part of the sums.
        var sum: array<f32, OWN>;
        var acc: Sums;
        for (var r = 0u; r < OWN; r++) { base[r] = HIDDEN; }
        for (var s0 = first; s0 < last; s0 += TK) {
            for (var i = lane; i < TK; i += LANES) {
                let s = min(s0 + i, last - 1u);
                is_seen[i] = u32(sees(all, key_positions[b * capacity + s], b * capacity + s));
            }
            workgroupBarrier();
            if lane == 0u {
                var any = 0u;
                for (var i = 0u; i < TK; i++) { any |= is_seen[i]; }
                some_seen = any;
            }
            if workgroupUniformLoad(&some_seen) == 0u { continue; }

            for (var first_part = 0u; first_part < 4u; first_part += num_subgroups) {
                let part = first_part + subgroup_id;
                var z: array<Sum, SCORES>;
                for (var d = 0u; d < DEPTH; d += KEY_SLICE) {
                    workgroupBarrier();
                    for (var i = lane; i < TK * KEY_SLICE / VEC; i += LANES) {
                        let key = i / (KEY_SLICE / VEC);
                        let h = d / VEC + i % (KEY_SLICE / VEC);
                        let s = min(s0 + key, last - 1u);
                        let at = ((b * capacity + s) * K + kv) * width + min(h, width - 1u);
                        place(widened(keys[at]), key * ACROSS_KEYS + i % (KEY_SLICE / VEC) * VEC, h);
                    }
                    workgroupBarrier();
                    if part < 4u {
                        for (var k = 0u; k < rolled(KEY_SLICE); k += P) {
                            for (var j = 0u; j < SCORES; j++) {
                                let down = (part * SCORES + j) / (TK / P) * P;
                                let across = (part * SCORES + j) % (TK / P) * P;
                                // `coopLoadT` takes rows, `coopLoad` columns: the rows of keys are the columns of their
                                // transpose.
                                let own = coopLoadT<Left>(&queries[down * ACROSS_HEAD + d + k], ACROSS_HEAD);
                                let key = coopLoad<Right>(&tile[across * ACROSS_KEYS + k], ACROSS_KEYS);
                                z[j] = coopMultiplyAdd(own, key, z[j]);
                            }
                        }
                    }
                }
                if part < 4u {
                    for (var j = 0u; j < SCORES; j++) {
                        let down = (part * SCORES + j) / (TK / P) * P;
                        let across = (part * SCORES + j) % (TK / P) * P;
                        coopStoreT(z[j], &scores[down * ACROSS_SCORES + across], ACROSS_SCORES);
                    }
                }
            }
            workgroupBarrier();
            for (var r = 0u; r < OWN; r++) {
                let row = first_row + r * (LANES / TOGETHER);
                var most = HIDDEN;
                for (var i = among; i < TK; i += TOGETHER) {
                    let s = min(s0 + i, last - 1u);
                    let seen = s0 + i < last && sees(bounds[r], key_positions[b * capacity + s], b * capacity + s);
                    let z = select(HIDDEN, score(scores[row * ACROSS_SCORES + i] * unit[r]), seen);
                    scores[row * ACROSS_SCORES + i] = z;
                    most = max(most, z);
                }
                met[row * TOGETHER + among] = most;
            }
            workgroupBarrier();
            var follows = 1u;
            for (var r = 0u; r < OWN; r++) {
                let row = first_row + r * (LANES / TOGETHER);
                let most = largest_of(row);
                let now = select(base[r], most - BELOW, most > base[r] + NEAR);
                let factor = exp(max(base[r] - now, -100.0));
                // Before a row's first visible key its sums are zeros.
                if now != base[r] && base[r] > HIDDEN { follows = 0u; }
                base[r] = now;
                sum[r] *= factor;
                if among == 0u { factors[row] = factor; }
                for (var i = among; i < TK; i += TOGETHER) {
                    let z = scores[row * ACROSS_SCORES + i];
                    // Rounded as in the product, so that the divisor is the sum of the weights that were multiplied.
                    let weight = f16(select(exp(max(z - now, -100.0)), 0.0, z <= HIDDEN));
                    weights[row * ACROSS_WEIGHTS + i] = weight;
                    sum[r] += f32(weight);
                }
            }
            // 0 if the base of some row has moved: the least over all lanes.
            if lanes_ends(follows, 0u, lane).x == 0u {
                for (var m = 0u; m < rolled(ROWS * COLS); m++) {
                    workgroupBarrier();
                    if piece < 4u { coopStoreT(acc[0][0], &scores[subgroup_id * P * P], P); }
                    workgroupBarrier();
                    for (var i = lane; i < 4u * P * P; i += LANES) { scores[i] *= factors[m % ROWS * P + i / P % P]; }
                    workgroupBarrier();
                    if piece < 4u { acc[0][0] = coopLoadT<Sum>(&scores[subgroup_id * P * P], P); }
                    turn(&acc);
                }
            }
            for (var c = 0u; c < COLS; c++) {
                for (var s1 = 0u; s1 < TK; s1 += VALUES) {
                    workgroupBarrier();
                    for (var j = 0u; j < OWN_VALUES; j++) {
                        let i = j * LANES + lane;
                        let value = i / (VALUE_SLICE / VEC);
                        let column = i % (VALUE_SLICE / VEC) * VEC;
                        let h = (column / P * (COLS * P) + c * P + column % P) / VEC;
                        let s = min(s0 + s1 + value, last - 1u);
                        let at = ((b * capacity + s) * K + kv) * width + min(h, width - 1u);
                        if value < VALUES { place(widened(values[at]), value * ACROSS_VALUES + column, h); }
                    }
                    workgroupBarrier();
                    if piece < 4u {
                        for (var k = 0u; k < VALUES; k += P) {
                            let value = coopLoadT<Right>(&tile[k * ACROSS_VALUES + piece * P], ACROSS_VALUES);
                            for (var r = 0u; r < ROWS; r++) {
                                let weight = coopLoadT<Left>(&weights[r * P * ACROSS_WEIGHTS + s1 + k], ACROSS_WEIGHTS);
                                acc[c][r] = coopMultiplyAdd(weight, value, acc[c][r]);
                            }
                        }
                    }
                }
            }
        }

        workgroupBarrier();
        for (var r = 0u; r < OWN; r++) { met[(first_row + r * (LANES / TOGETHER)) * TOGETHER + among] = sum[r]; }
        workgroupBarrier();
        for (var r = 0u; r < OWN; r++) {
            let row = first_row + r * (LANES / TOGETHER);
            let total = sum_of(row);
#if SPLITS == yes
            let query = block + row;
            if among == 0u && query < pairs && query / g < step.rows {
                let result = (b * T + query / g) * N + kv * g + query % g;
                let tail = BATCH * T * N * PARTS * H + (result * PARTS + wid.z) * 2u;
                scratch[tail] = base[r];
                scratch[tail + 1u] = total;
            }
#else
            if among == 0u { factors[row] = select(0.0, 1.0 / total, total > 0.0); }
#endif
        }
        let pieces = min(num_subgroups, 4u - first_piece);
        for (var m = 0u; m < rolled(ROWS * COLS); m++) {
            workgroupBarrier();
            if piece < 4u { coopStoreT(acc[0][0], &scores[subgroup_id * P * P], P); }
            workgroupBarrier();
            for (var i = lane; i < pieces * P * P; i += LANES) {
                let row = m % ROWS * P + i / P % P;
                let h = ((first_piece + i / (P * P)) * COLS + m / ROWS) * P + i % P;
                let query = block + row;
                if query >= pairs || query / g >= step.rows || h >= H { continue; }
                let result = (b * T + query / g) * N + kv * g + query % g;
#if SPLITS == yes
                scratch[(result * PARTS + wid.z) * H + h] = scores[i];
#else
                out[(result + step.sequence * N) * H + h] = scores[i] * factors[row];
#endif
            }
            turn(&acc);
        }
    }
}
