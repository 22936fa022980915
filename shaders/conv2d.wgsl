// Conv2d over pictures with channels innermost, a correlation as in torch:
//   y[b, i, j, o] = epilogue(its index, Σ x[b, i*STRIDE + r − TOP, j*STRIDE + s − LEFT, c]·W[o, c, r, s] + β[o]);
//   x [B, IN_HEIGHT, IN_WIDTH, C], W [O, C, KH, KW] (GROUPS = all: [O, 1, KH, KW], C = O), y [B, OUT_HEIGHT, OUT_WIDTH, O].
// x is zero outside. P = B*OUT_HEIGHT*OUT_WIDTH positions; IN = C*KH*KW (GROUPS = all: KH*KW).
// GROUPS = one: o sums over all c. One workgroup: 64 positions by 64 channels o with 16x16 invocations, each with the
//   positions p0 + 16j + (its row) and the channels n0 + 16r + (its column). The sum goes in steps of 16, channels of a
//   tap first, through workgroup memory. Grid, folded over x and y: ceil(P/64) * ceil(O/64), positions fastest.
// GROUPS = all: o sums over c = o. One workgroup: 64 invocations, each one channel of four positions.
//   Grid: ceil(ceil(P/4)*O / 64) folded over x and y.
// Overrides: P, IN_HEIGHT, IN_WIDTH, C, OUT_HEIGHT, OUT_WIDTH, O, IN, KH, KW, STRIDE, TOP, LEFT.
// Options: GROUPS, BIAS = yes | no (no binding 3), WEIGHT, VEC = 1, WEIGHTS = 1.
// Hole: epilogue(i: u32, v: f32) -> f32.
#include lib/convolution.wgsl

#if GROUPS == one
// Tiles lie [16][65], so that neighbours of a step go to different banks.
var<workgroup> tile_x: array<f32, 1040>;
var<workgroup> tile_w: array<f32, 1040>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = wid.x + wid.y * groups.x;
    let tiles = (P + 63u) / 64u;
    let p0 = group % tiles * 64u;
    let n0 = group / tiles * 64u;
    if n0 >= O { return; }
    let row = lane / 16u;
    let column = lane % 16u;
    var corners: array<Corner, 4>;
    for (var j = 0u; j < 4u; j++) { corners[j] = corner_of(min(p0 + 16u * j + row, P - 1u)); }
    var acc: array<f32, 16>;
    for (var k0 = 0u; k0 < IN; k0 += 16u) {
        // What lies past the end is not read.
        let k = min(k0 + column, IN - 1u);
        let tap = k / C;
        let c = k % C;
        for (var j = 0u; j < 4u; j++) {
            let n = min(n0 + 16u * j + row, O - 1u);
            tile_x[column * 65u + 16u * j + row] = pixel(corners[j], tap / KW, tap % KW, c);
            tile_w[column * 65u + 16u * j + row] = element0(n, c * KH * KW + tap);
        }
        workgroupBarrier();
        // A loop whose turns are data stays one: drivers on the CPU take seconds to compile it unrolled.
        for (var k = 0u; k < min(16u, IN - k0); k++) {
            var xs: array<f32, 4>;
            for (var j = 0u; j < 4u; j++) { xs[j] = tile_x[k * 65u + 16u * j + row]; }
            for (var r = 0u; r < 4u; r++) {
                let w = tile_w[k * 65u + 16u * r + column];
                for (var j = 0u; j < 4u; j++) { acc[r * 4u + j] = fma(w, xs[j], acc[r * 4u + j]); }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 16u; i++) {
        let n = n0 + (i / 4u) * 16u + column;
        let p = p0 + (i % 4u) * 16u + row;
        if n < O && p < P { y[p * O + n] = epilogue(p * O + n, acc[i] + bias(n)); }
    }
}
#elif GROUPS == all
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (wid.x + wid.y * groups.x) * 64u + lane;
    let p0 = i / O * 4u;
    if p0 >= P { return; }
    let o = i % O;
    var corners: array<Corner, 4>;
    for (var j = 0u; j < 4u; j++) { corners[j] = corner_of(min(p0 + j, P - 1u)); }
    var acc: array<f32, 4>;
    for (var r = 0u; r < KH; r++) {
        for (var s = 0u; s < KW; s++) {
            let w = element0(o, r * KW + s);
            for (var j = 0u; j < 4u; j++) { acc[j] = fma(w, pixel(corners[j], r, s, o), acc[j]); }
        }
    }
    for (var j = 0u; j < 4u; j++) {
        let p = p0 + j;
        if p < P { y[p * O + o] = epilogue(p * O + o, acc[j] + bias(o)); }
    }
}
#endif
