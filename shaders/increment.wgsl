// Adds 1 to the result of the dispatch before it, in one workgroup. It measures the cost of a dispatch that waits for
// another.

@group(0) @binding(0) var<storage, read_write> count: array<u32>;

@compute @workgroup_size(64)
fn increment(@builtin(local_invocation_index) lane: u32) {
    count[lane] += 1u;
}
