// Rows of a table: out[r, c] = epilogue(r*C + c, table[ids[r] − BASE + r/GROUP*STRIDE, c]) widened to f32.
// ids [R], out [R, C]. STRIDE = 0: one table for all ids; else a table of STRIDE rows for every GROUP ids.
// The table is the shard that holds the rows FIRST .. FIRST+ROWS. Ids outside leave their row of out as it is.
// Ids before BASE and from BASE + LIMIT on take row 0, unless LIMIT is 2^32 − 1.
// One workgroup: LANES chunks of eight elements, one an invocation.
// Grid: ceil(R*ceil(C/8) / LANES) folded over x and y.
// Overrides: R, C, FIRST, ROWS, STRIDE, GROUP, BASE, LIMIT.
// Options: LANES, WEIGHT, VEC (8: C divisible by 8 | 1), WEIGHTS = 1.
// Hole: epilogue(i: u32, v: f32) -> f32.
override R: u32;
override C: u32;
override FIRST: u32;
override ROWS: u32;
override STRIDE: u32;
override GROUP: u32;
override BASE: u32;
override LIMIT: u32;
override IN: u32 = C;

const LANES = ${LANES}u;
#include lib/weight.wgsl
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> w0: array<Stored>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunks = (C + 7u) / 8u;
    let i = (wid.x + wid.y * groups.x) * LANES + lane;
    let r = i / chunks;
    if r >= R { return; }
    let given = ids[r] - BASE;
    let id = select(given, 0u, given >= LIMIT);
    if id < FIRST || id - FIRST >= ROWS { return; }
    let chunk = i % chunks;
    var values = weight0(id - FIRST + r / GROUP * STRIDE, chunk);
    for (var e = 0u; e < 8u; e++) {
        let c = chunk * 8u + e;
        if c < C { out[r * C + c] = epilogue(r * C + c, values[e / 4u][e % 4u]); }
    }
}
