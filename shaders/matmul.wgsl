// A batched product of two activations, for custom stages, as models multiply by weights:
//   c[z, m, n] = Σ_k a[z, m, k]·b[z, k, n]; a [Z, M, K], b [Z, K, N], c [Z, M, N], f32.
// One workgroup: 64 elements of c, one an invocation.
// Grid: ceil(TOTAL/64) folded over x and y. Overrides: M, N, K, TOTAL (= Z*M*N).
override M: u32;
override N: u32;
override K: u32;
override TOTAL: u32;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (wid.x + wid.y * groups.x) * 64u + lane;
    if i >= TOTAL { return; }
    let batch = i / (M * N);
    let row = i / N * K;
    let column = batch * K * N + i % N;
    var sum = 0.0;
    for (var k = 0u; k < K; k++) { sum = fma(a[row + k], b[column + k * N], sum); }
    c[i] = sum;
}
