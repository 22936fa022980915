// An elementwise region: out[i] = element(i), 0 <= i < TOTAL.
// One workgroup: 64 elements, one an invocation. Grid: ceil(TOTAL/64) folded over x and y.
// Overrides: TOTAL. Options: OUT = f32 | i32 | u32.
// Hole: element(i: u32) -> OUT, with the bindings 1, 2, … that it reads.
override TOTAL: u32;

@group(0) @binding(0) var<storage, read_write> out: array<${OUT}>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (wid.x + wid.y * groups.x) * 64u + lane;
    if i >= TOTAL { return; }
    out[i] = element(i);
}
