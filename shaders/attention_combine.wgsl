// Merges the partial results of attention with SPLITS = yes: out[i, h] = Σ_p e_p·o[i, p, h] / Σ_p e_p·sum[i, p],
// e_p = exp(max[i, p] − max_p max[i, p]); i runs over (b, t, n). A row that saw no key gives zeros.
// Row i of out lies at row i + step.sequence * N.
// One workgroup: one row i. Grid: B*T*N folded over x and y. Rows t >= step.rows are not written.
// 5 out [B, T, N, H], 7 scratch f32: [B*T*N, PARTS, H], then [B*T*N, PARTS, 2] (max, sum), 8 step.
// Overrides: BATCH (B), T, N, H, PARTS. Options: LANES.
override BATCH: u32;
override T: u32;
override N: u32;
override H: u32;
override PARTS: u32;

const LANES = ${LANES}u;
#include lib/step.wgsl
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read> scratch: array<f32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = wid.x + wid.y * groups.x;
    if i >= BATCH * T * N || i / N % T >= step.rows { return; }
    let tail = BATCH * T * N * PARTS * H + i * PARTS * 2u;
    var most = -1e30;
    for (var p = 0u; p < PARTS; p++) { most = max(most, scratch[tail + 2u * p]); }
    var sum = 0.0;
    for (var p = 0u; p < PARTS; p++) {
        sum += exp(max(scratch[tail + 2u * p] - most, -100.0)) * scratch[tail + 2u * p + 1u];
    }
    let scale = select(0.0, 1.0 / sum, sum > 0.0);
    for (var h = lane; h < H; h += LANES) {
        var v = 0.0;
        for (var p = 0u; p < PARTS; p++) {
            v += exp(max(scratch[tail + 2u * p] - most, -100.0)) * scratch[(i * PARTS + p) * H + h];
        }
        out[(i + step.sequence * N) * H + h] = v * scale;
    }
}
