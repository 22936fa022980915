// Attention over a new row that is still a projection: norms and rotates the queries of a block and the key, and writes
// key and value to the caches.
// The first N_ROT dimensions of a head rotate, by a table of TABLE columns, as in rope.wgsl.
// Overrides: N_ROT, TABLE. Options: LANES, QUERIES, VEC, HV, KV of attention.wgsl; those of lib/row_gains.wgsl.
override N_ROT: u32;
override TABLE: u32;
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(9) var<storage, read> new_key: array<f32>;
@group(0) @binding(10) var<storage, read> new_value: array<f32>;
@group(0) @binding(11) var<storage, read> table: array<f32>;
#include lib/row_gains.wgsl

// Queries of the block, then the key and the value, each H/VEC vectors.
var<workgroup> fresh: array<Values, (QUERIES + 2u) * HV * LANES>;

// The other element of the pair of h; h itself where it does not rotate.
fn partner(h: u32) -> u32 { return select(h, select(h - N_ROT / 2u, h + N_ROT / 2u, h < N_ROT / 2u), h < N_ROT); }

// Element h of a rotated head: `own` is its element h, `other` that at partner(h).
fn rotated(own: f32, other: f32, h: u32, b: u32) -> f32 {
    if h >= N_ROT { return own; }
    let j = b * TABLE + h % (N_ROT / 2u);
    let turned = other * table[j + TABLE / 2u];
    return own * table[j] + select(turned, -turned, h < N_ROT / 2u);
}

fn query_scale(at: u32, lane: u32) -> f32 {
#if GAIN == none
    return 1.0;
#else
    var squares = 0.0;
    for (var h = lane; h < H; h += LANES) { squares = fma(q[at + h], q[at + h], squares); }
    return 1.0 / sqrt(lanes_sum(squares, lane) / f32(H) + EPS);
#endif
}
fn key_scale(at: u32, lane: u32) -> f32 {
#if GAIN == none
    return 1.0;
#else
    var squares = 0.0;
    for (var h = lane; h < H; h += LANES) { squares = fma(new_key[at + h], new_key[at + h], squares); }
    return 1.0 / sqrt(lanes_sum(squares, lane) / f32(H) + EPS);
#endif
}

// Fills `fresh`.
fn prepare_row(b: u32, kv: u32, block: u32, lane: u32) {
    let g = N / K;
    let width = H / VEC;
    // VEC, read at run time: software drivers take seconds to compile the loads of an unrolled loop.
    let elements = select(VEC, 0u, step.rows == 0u);
    for (var r = 0u; r < QUERIES; r++) {
        let at = (b * N + kv * g + min(block * QUERIES + r, g - 1u)) * H;
        let scale = query_scale(at, lane);
        for (var i = lane; i < width; i += LANES) {
            var v: Values;
            for (var e = 0u; e < elements; e++) {
                let h = i * VEC + e;
                let far = partner(h);
                v[e] = rotated(q[at + h] * scale * gain0(h), q[at + far] * scale * gain0(far), h, b);
            }
            fresh[r * width + i] = v;
        }
    }
    let at = (b * K + kv) * H;
    let scale = key_scale(at, lane);
    for (var i = lane; i < width; i += LANES) {
        var k: Values;
        var v: Values;
        for (var e = 0u; e < elements; e++) {
            let h = i * VEC + e;
            let far = partner(h);
            k[e] = rotated(new_key[at + h] * scale * gain1(h), new_key[at + far] * scale * gain1(far), h, b);
            v[e] = new_value[at + h];
        }
        fresh[QUERIES * width + i] = rounded(k);
        fresh[(QUERIES + 1u) * width + i] = rounded(v);
    }
    workgroupBarrier();
}

// Key and value into the vectors from `to` on of the caches.
fn keep_row(to: u32, lane: u32) {
    let width = H / VEC;
    for (var i = lane; i < width; i += LANES) {
        let k = fresh[QUERIES * width + i];
        let v = fresh[(QUERIES + 1u) * width + i];
        keys[to + i] = narrowed(k);
        values[to + i] = narrowed(v);
    }
}
