// Rotary embedding of the first N_ROT dimensions of a head, in half-split pairs, for j < N_ROT/2:
//   y[j] = x[j]·cos_j − x[j+N_ROT/2]·sin_j, y[j+N_ROT/2] = x[j+N_ROT/2]·cos_j + x[j]·sin_j.
// The other dimensions are copied. x, y [B, T, heads, H].
// table [B, T, TABLE]: TABLE/2 cosines, then TABLE/2 sines, of the row's position; N_ROT <= TABLE.
// One workgroup: LANES pairs, one an invocation. Grid: ceil(ROWS*HEADS*H/2 / LANES) folded over x and y.
// Overrides: ROWS (= B*T), HEADS, H, N_ROT, TABLE, the last three even. Options: LANES.
override ROWS: u32;
override HEADS: u32;
override H: u32;
override N_ROT: u32;
override TABLE: u32;

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
    let pairs = H / 2u;
    if pair >= ROWS * HEADS * pairs { return; }
    let j = pair % pairs;
    let head = pair / pairs * H;
    let half = N_ROT / 2u;
    if j >= half {
        y[head + 2u * j] = x[head + 2u * j];
        y[head + 2u * j + 1u] = x[head + 2u * j + 1u];
        return;
    }
    let angle = pair / pairs / HEADS * TABLE + j;
    let c = table[angle];
    let s = table[angle + TABLE / 2u];
    let i = head + j;
    let a = x[i];
    let b = x[i + half];
    y[i] = a * c - b * s;
    y[i + half] = b * c + a * s;
}
