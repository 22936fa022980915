// Multiplies tiles of f16 and sums them in f32 by cooperative matrices, to measure the rate. It keeps nothing where
// there are several workgroups. The host puts in M, N, K and LANES where they stand as ${…}.
//
// A subgroup runs ROUNDS rounds of 8 products of tiles, two by four as `linear_coop` has them: 16·M·N·K multiplications
// and additions a round. The sizes of subgroups are not known before: the first workgroup writes how many it has.
enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat${K}x${M}<f16, A>;
alias Right = coop_mat${N}x${K}<f16, B>;
alias Sum = coop_mat${N}x${M}<f32, C>;
const LANES = ${LANES}u;
const M = ${M}u;
const N = ${N}u;
const K = ${K}u;
const ROUNDS = 256u;

@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> sink: array<f32>;
var<workgroup> left: array<f16, 2u * M * K>;
var<workgroup> right: array<f16, 4u * K * N>;

// naga holds matrices to the rule for derivatives, which knows no subgroups. Here each subgroup takes its way as one.
@compute @workgroup_size(LANES) @diagnostic(off, derivative_uniformity)
fn multiply_matrices(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    for (var i = lane; i < 2u * M * K; i += LANES) { left[i] = f16(f32((i + wid.x) % 16u) * 0.0625); }
    for (var i = lane; i < 4u * K * N; i += LANES) { right[i] = f16(f32((i * 3u + wid.x) % 16u) * 0.0625); }
    workgroupBarrier();
    let a0 = coopLoadT<Left>(&left[0], K);
    let a1 = coopLoadT<Left>(&left[M * K], K);
    let b0 = coopLoad<Right>(&right[0], K);
    let b1 = coopLoad<Right>(&right[N * K], K);
    let b2 = coopLoad<Right>(&right[2u * N * K], K);
    let b3 = coopLoad<Right>(&right[3u * N * K], K);
    var s00 = Sum();
    var s01 = Sum();
    var s02 = Sum();
    var s03 = Sum();
    var s10 = Sum();
    var s11 = Sum();
    var s12 = Sum();
    var s13 = Sum();
    for (var round = 0u; round < ROUNDS; round++) {
        s00 = coopMultiplyAdd(a0, b0, s00);
        s01 = coopMultiplyAdd(a0, b1, s01);
        s02 = coopMultiplyAdd(a0, b2, s02);
        s03 = coopMultiplyAdd(a0, b3, s03);
        s10 = coopMultiplyAdd(a1, b0, s10);
        s11 = coopMultiplyAdd(a1, b1, s11);
        s12 = coopMultiplyAdd(a1, b2, s12);
        s13 = coopMultiplyAdd(a1, b3, s13);
    }
    if wid.x == 0u && lane == 0u { counts[0] = subgroups; }
    // There are more, which no compiler can know.
    if groups.x == 1u {
        coopStoreT(s00, &sink[0], N);
        coopStoreT(s01, &sink[M * N], N);
        coopStoreT(s02, &sink[2u * M * N], N);
        coopStoreT(s03, &sink[3u * M * N], N);
        coopStoreT(s10, &sink[4u * M * N], N);
        coopStoreT(s11, &sink[5u * M * N], N);
        coopStoreT(s12, &sink[6u * M * N], N);
        coopStoreT(s13, &sink[7u * M * N], N);
    }
}
