// A reduction of the innermost dimension: y[r] = combine over c of x[r, c], from START on; x [R, C], y [R], f32.
// One workgroup: 64 rows, one an invocation; for the few small rows of custom stages. Grid: ceil(R/64) folded over x and y.
// Overrides: R, C. Options: START, and COMBINE, an expression over a (so far) and b (the next element).
override R: u32;
override C: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn combine(a: f32, b: f32) -> f32 { return ${COMBINE}; }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = (wid.x + wid.y * groups.x) * 64u + lane;
    if r >= R { return; }
    var so_far = f32(${START});
    for (var c = 0u; c < C; c++) { so_far = combine(so_far, x[r * C + c]); }
    y[r] = so_far;
}
