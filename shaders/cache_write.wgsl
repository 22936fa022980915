// Cache write: cache[b, positions[b, t] mod S, :] = rows[b, t, :] for t < step.rows. Negative positions are skipped.
// rows [B, T, C] 32-bit words of any type, cache [B, S, C]. With KV = f16 rows are f32, C is even, and the cache holds
// f16 pairs [B, S, C/2], the earlier element in the low half, rounded within ±65504.
// Two live rows of one call must not meet in one cache row. Row t of rows and positions lies at row t + step.sequence.
// One workgroup: LANES words of the cache, one an invocation. Grid: ceil(B*T*words / LANES) folded over x and y, where
// words = C (KV = f32) or C/2 (KV = f16).
// Overrides: B, T, S (0: step.capacity), C. Options: LANES, KV = f32 (copies words of any type) | f16.
override B: u32;
override T: u32;
override S: u32;
override C: u32;

const LANES = ${LANES}u;
#include lib/step.wgsl
@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read_write> cache: array<u32>;
@group(0) @binding(2) var<storage, read> positions: array<i32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
#if KV == f32
    let words = C;
#elif KV == f16
    let words = C / 2u;
#endif
    let i = (wid.x + wid.y * groups.x) * LANES + lane;
    let row = i / words;
    if row >= B * T || row % T >= step.rows { return; }
    let capacity = select(S, step.capacity, S == 0u);
    let position = positions[row + step.sequence];
    if position < 0 { return; }
    let source = i + step.sequence * words;
    let to = (row / T * capacity + u32(position) % capacity) * words + i % words;
#if KV == f32
    cache[to] = rows[source];
#elif KV == f16
    let pair = bitcast<vec2<f32>>(vec2<u32>(rows[2u * source], rows[2u * source + 1u]));
    cache[to] = pack2x16float(clamp(pair, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
#endif
}
