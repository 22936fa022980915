// Rotary embedding, half-split pairs: y[j] = x[j]·cos_j − x[j+H/2]·sin_j, y[j+H/2] = x[j+H/2]·cos_j + x[j]·sin_j, j < H/2.
// x, y [B, T, heads, H]; table [B, T, H]: H/2 cosines, then H/2 sines, of the row's position.
// One workgroup: LANES pairs, one an invocation. Grid: ceil(ROWS*HEADS*H/2 / LANES) folded over x and y.
// Overrides: ROWS (= B*T), HEADS, H. Options: LANES.
override ROWS: u32;
override HEADS: u32;
override H: u32;

const LANES = ${LANES}u;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = (wid.x + wid.y * groups.x) * LANES + lane;
    let half = H / 2u;
    if pair >= ROWS * HEADS * half { return; }
    let j = pair % half;
    let angle = pair / half / HEADS * H + j;
    let c = table[angle];
    let s = table[angle + half];
    let i = pair / half * H + j;
    let a = x[i];
    let b = x[i + half];
    y[i] = a * c - b * s;
    y[i + half] = b * c + a * s;
}
