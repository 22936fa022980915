// The largest of each SLICE neighbouring results of one row, as lib/ordered.wgsl orders them; zeros before the run.
// Column 0 of the bound result is column FIRST of the row. The columns of a workgroup lie in one slice.
#include lib/ordered.wgsl
override FIRST: u32;
override SLICE: u32;
@group(0) @binding(5) var<storage, read_write> maxima: array<atomic<u32>>;

fn keep(n: u32, most: u32) { atomicMax(&maxima[(FIRST + n) / SLICE], most); }
