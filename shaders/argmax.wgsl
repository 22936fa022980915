// Argmax of each row of logits [R, V], the lowest index among equals. It takes two dispatches, slices and merge. It
// takes one, maxima, where the kernel that wrote the logits kept the maximum of each slice (lib/maxima.wgsl).
// STAGE = slices: one workgroup finds the largest of SLICE neighbouring logits.
//   Grid: R*ceil(V/SLICE) folded over x and y.
//   0 logits f32 [R, V], 1 partials [R, ceil(V/SLICE)] of (the value as lib/ordered.wgsl orders it, index).
// STAGE = merge: one workgroup a row. Grid: R folded over x and y.
//   0 partials, 1 ids u32 [R].
// STAGE = maxima: one workgroup a row finds the first slice with the largest value, and in it the first such logit.
//   Grid: R folded over x and y.
//   0 logits, 1 ids u32 [R], 2 maxima u32 [R, ceil(V/SLICE)].
// A row with NaN in it, or with nothing above LOWEST, has the id 0xffffffff.
// Overrides: R, V, SLICE. Options: TIER, LANES, STAGE.
override R: u32;
override V: u32;
override SLICE: u32;

const LANES = ${LANES}u;
const NONE = 0xffffffffu;
#include lib/ordered.wgsl
#include lib/lanes.wgsl
#if STAGE == slices
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<vec2<u32>>;
#elif STAGE == merge
@group(0) @binding(0) var<storage, read> partials: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
#elif STAGE == maxima
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read> maxima: array<u32>;
#endif

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#include lib/subgroup_inputs.wgsl
) {
#include lib/subgroup_begin.wgsl
    let slices = (V + SLICE - 1u) / SLICE;
    let group = wid.x + wid.y * groups.x;
#if STAGE == maxima
    if group >= R { return; }
    var most = 0u;
    var slice = 0u;
    for (var s = lane; s < slices; s += LANES) {
        let found = maxima[group * slices + s];
        if found > most { most = found; slice = s; }
    }
    let top = ~lanes_least(~most, lane);
    let first = lanes_least(select(NONE, slice, most == top), lane) * SLICE;
    var id = NONE;
    for (var i = first + lane; i < min(first + SLICE, V); i += LANES) {
        if ordered(logits[group * V + i]) == top { id = min(id, i); }
    }
    let least = lanes_least(id, lane);
    if lane == 0u { ids[group] = select(least, NONE, top == 0u || top == NOT_A_NUMBER); }
#else
    var best = 0u;
    var id = NONE;
#if STAGE == slices
    if group >= R * slices { return; }
    let row = group / slices;
    let first = group % slices * SLICE;
    for (var i = first + lane; i < min(first + SLICE, V); i += LANES) {
        let v = ordered(logits[row * V + i]);
        if v > best { best = v; id = i; }
    }
#elif STAGE == merge
    if group >= R { return; }
    for (var i = lane; i < slices; i += LANES) {
        let p = partials[group * slices + i];
        if p.x > best { best = p.x; id = p.y; }
    }
#endif
    let top = ~lanes_least(~best, lane);
    let least = lanes_least(select(NONE, id, best == top), lane);
#if STAGE == slices
    if lane == 0u { partials[group] = vec2<u32>(top, least); }
#elif STAGE == merge
    if lane == 0u { ids[group] = select(least, NONE, top == 0u || top == NOT_A_NUMBER); }
#endif
#endif
}
