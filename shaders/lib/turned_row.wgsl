// A new row that is still a projection, for a workgroup of at least H/VEC lanes: lane i has vector i of each head.
// The first N_ROT dimensions of a head rotate, by a table of TABLE columns, as in rope.wgsl.
// Overrides: N_ROT, TABLE. Options: QUERIES, VEC of the kernel; those of lib/row_gains.wgsl.
override N_ROT: u32;
override TABLE: u32;
@group(0) @binding(9) var<storage, read> new_key: array<Values>;
@group(0) @binding(10) var<storage, read> new_value: array<Values>;
@group(0) @binding(11) var<storage, read> table: array<Values>;
#include lib/row_gains.wgsl
fn query_gain(i: u32) -> Values {
    var v: Values;
    for (var e = 0u; e < times(VEC); e++) { v[e] = gain0(i * VEC + e); }
    return v;
}
fn key_gain(i: u32) -> Values {
    var v: Values;
    for (var e = 0u; e < times(VEC); e++) { v[e] = gain1(i * VEC + e); }
    return v;
}

struct TurnedRow {
    // Of each query and, behind them, of nothing: the part of its product with the key that this lane's vectors give.
    products: array<f32, EACH>,
    key: Values,
    value: Values,
}

// Vector i of a rotated head: `own` is its vector i, `other` that of the other half.
fn turned(own: Values, other: Values, i: u32, cos: Values, sin: Values) -> Values {
    let half = N_ROT / (2u * VEC);
    if i >= 2u * half { return own; }
    return own * cos + select(other * sin, -other * sin, i < half);
}

// The queries of `block`, which it leaves in `queries`, and the key and the value of row b and KV head kv, as a cache
// gives the two back. Called in uniform control flow; a barrier must follow before `queries` are read.
fn turned_rows(b: u32, kv: u32, block: u32, lane: u32) -> TurnedRow {
    let width = H / VEC;
    let g = N / K;
    let half = N_ROT / (2u * VEC);
    let i = min(lane, width - 1u);
    let far = select(i, select(i - half, i + half, i < half), i < 2u * half);
    let angle = b * (TABLE / VEC) + i % half;
    let cos = table[angle];
    let sin = table[angle + TABLE / (2u * VEC)];
    // Of each head this lane's vector and that of the other half.
    var own: array<Values, EACH>;
    var other: array<Values, EACH>;
    for (var r = 0u; r < times(QUERIES); r++) {
        let at = (b * N + kv * g + min(block * QUERIES + r, g - 1u)) * width;
        own[r] = q[at + i];
        other[r] = q[at + far];
    }
    let at = (b * K + kv) * width;
    own[QUERIES] = new_key[at + i];
    other[QUERIES] = new_key[at + far];
    let value = new_value[at + i];
#if GAIN != none
    var squares: array<f32, EACH>;
    for (var r = 0u; r < times(EACH); r++) { squares[r] = select(0.0, dot(own[r], own[r]), lane < width); }
    squares = lanes_sum_each(squares, lane);
    let query_gains = array(query_gain(i), query_gain(far));
    for (var r = 0u; r < times(QUERIES); r++) {
        let scale = 1.0 / sqrt(squares[r] / f32(H) + EPS);
        own[r] *= scale * query_gains[0];
        other[r] *= scale * query_gains[1];
    }
    let scale = 1.0 / sqrt(squares[QUERIES] / f32(H) + EPS);
    own[QUERIES] *= scale * key_gain(i);
    other[QUERIES] *= scale * key_gain(far);
#endif
    var row: TurnedRow;
    row.key = rounded(turned(own[QUERIES], other[QUERIES], i, cos, sin));
    row.value = rounded(value);
    for (var r = 0u; r < times(QUERIES); r++) {
        let query = turned(own[r], other[r], i, cos, sin);
        if lane < width { queries[r * width + i] = query; }
        row.products[r] = select(0.0, dot(query, row.key), lane < width);
    }
    return row;
}
