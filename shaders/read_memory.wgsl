// Reads source once, to measure memory bandwidth. It writes nothing unless all of source xors to ones.
//
// source has a whole number of tiles of 4096 vectors (64 KiB). A workgroup reads one tile with 16 loads an invocation,
// consecutive invocations at consecutive vectors. Workgroups run over x, then y.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<u32>;

@compute @workgroup_size(256)
fn read_memory(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (group.y * groups.x + group.x) * 4096u + lane;
    if first >= arrayLength(&source) {
        return;
    }
    var bits = vec4<u32>(0u);
    for (var load = 0u; load < 16u; load++) {
        bits ^= source[first + load * 256u];
    }
    if all(bits == vec4<u32>(0xffffffffu)) {
        sink[0] = 1u;
    }
}
