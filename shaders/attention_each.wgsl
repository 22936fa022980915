// Attention for drivers on the CPU without subgroups of 8 lanes, as attention.wgsl defines it.
// One workgroup: LANES queries (b, t, head), head fastest, each of one lane, over the keys [0, min(S, step.end)), or with
// SPLITS = yes over one of PARTS ranges of them, four keys at a time. No barrier, no workgroup memory.
// Grid: x, y: ceil(B*T*N/LANES) folded; z: PARTS with SPLITS = yes, else 1. Rows t >= step.rows are not written.
// Row t of q, visible and out lies at row t + step.sequence. Scratch as in attention.wgsl.
// Overrides: BATCH (B), T, S (0: step.capacity), N, K, H, SCALE, CAP, PARTS.
// Options: LANES, WIDTH = H/VEC, VEC = 4 | 2, SOFTCAP, KEEP, SPLITS, KV = f32 | f16 (packed pairs), WIDE = no,
//   PROLOGUE = no.
const LANES = ${LANES}u;
const WIDTH = ${WIDTH}u;
#include lib/attention.wgsl
@group(0) @binding(0) var<storage, read> q: array<Values>;
#if SPLITS == no
@group(0) @binding(5) var<storage, read_write> out: array<Values>;
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = (wid.x + wid.y * groups.x) * LANES + lane;
    let head = pair % N;
    let t = pair / N % T;
    let b = pair / N / T;
    if b >= BATCH || t >= step.rows { return; }
    let capacity = cache_rows();
    let bounds = visible[b * T + t + step.sequence];
    let query = (pair + step.sequence * N) * WIDTH;
    let range = rows_of_part(wid.z, 4u);
    var most = HIDDEN;
    var sum = 0.0;
    var acc: array<Values, WIDTH>;
    for (var s = range.x; s < range.y; s += 4u) {
        let rows = s + vec4<u32>(0u, 1u, 2u, 3u);
        let held = b * capacity + min(rows, vec4<u32>(range.y - 1u));
        let seen = vec4<bool>(
            sees(bounds, key_positions[held.x], held.x), sees(bounds, key_positions[held.y], held.y),
            sees(bounds, key_positions[held.z], held.z), sees(bounds, key_positions[held.w], held.w),
        ) & (rows < vec4<u32>(range.y));
        // Such drivers compute both sides of a branch; a loop of no turn is skipped.
        let width = select(0u, WIDTH, any(seen));
        let start = (held * K + head / (N / K)) * WIDTH;
        var z = vec4<f32>();
        for (var h = 0u; h < width; h++) {
            let of_q = q[query + h];
            z += vec4<f32>(
                dot(of_q, widened(keys[start.x + h])), dot(of_q, widened(keys[start.y + h])),
                dot(of_q, widened(keys[start.z + h])), dot(of_q, widened(keys[start.w + h])),
            );
        }
        z = select(vec4<f32>(HIDDEN), vec4<f32>(score(z.x), score(z.y), score(z.z), score(z.w)), seen);
        let now = max(most, max(max(z.x, z.y), max(z.z, z.w)));
        let shrink = exp(max(most - now, -100.0));
        let weights = select(vec4<f32>(), exp(max(z - now, vec4<f32>(-100.0))), seen);
        sum = sum * shrink + weights.x + weights.y + weights.z + weights.w;
        most = now;
        for (var h = 0u; h < width; h++) {
            acc[h] = acc[h] * shrink
                + widened(values[start.x + h]) * weights.x + widened(values[start.y + h]) * weights.y
                + widened(values[start.z + h]) * weights.z + widened(values[start.w + h]) * weights.w;
        }
    }
#if SPLITS == yes
    let part = pair * PARTS + wid.z;
    for (var h = 0u; h < WIDTH; h++) {
        for (var e = 0u; e < VEC; e++) { scratch[(part * WIDTH + h) * VEC + e] = acc[h][e]; }
    }
    let tail = BATCH * T * N * PARTS * H + part * 2u;
    scratch[tail] = most;
    scratch[tail + 1u] = sum;
#else
    let scale = select(0.0, 1.0 / sum, sum > 0.0);
    for (var h = 0u; h < WIDTH; h++) { out[query + h] = acc[h] * scale; }
#endif
}
