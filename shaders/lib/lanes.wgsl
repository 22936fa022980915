// Reductions over the LANES invocations of a workgroup; every lane gets the result.
// Options: TIER = subgroup (the workgroup is one subgroup)
//   | subgroups (the workgroup has several, whose results meet in workgroup memory; the entry point includes
//     lib/subgroup_inputs.wgsl and lib/subgroup_begin.wgsl)
//   | portable (LANES a power of two)
//   | alone (LANES = 1).
// With subgroups and portable they are called in uniform control flow. The result of lanes_least may bound a loop with
// barriers.
#include lib/subgroup.wgsl
#if TIER == subgroup
fn lanes_sum(v: f32, lane: u32) -> f32 { return subgroupAdd(v); }
fn lanes_max(v: f32, lane: u32) -> f32 { return subgroupMax(v); }
fn lanes_least(v: u32, lane: u32) -> u32 { return subgroupMin(v); }
#elif TIER == subgroups
var<workgroup> lanes_f32: array<f32, MOST_SUBGROUPS>;
var<workgroup> lanes_u32: array<u32, MOST_SUBGROUPS>;

// Of each subgroup, behind a barrier on either side.
fn meet_f32(own: f32) {
    workgroupBarrier();
    if subgroup.lane == 0u { lanes_f32[subgroup.id] = own; }
    workgroupBarrier();
}
fn lanes_sum(v: f32, lane: u32) -> f32 {
    meet_f32(subgroupAdd(v));
    var all = 0.0;
    for (var i = 0u; i < subgroup.count; i++) { all += lanes_f32[i]; }
    return all;
}
fn lanes_max(v: f32, lane: u32) -> f32 {
    meet_f32(subgroupMax(v));
    var all = lanes_f32[0];
    for (var i = 1u; i < subgroup.count; i++) { all = max(all, lanes_f32[i]); }
    return all;
}
fn lanes_least(v: u32, lane: u32) -> u32 {
    let own = subgroupMin(v);
    workgroupBarrier();
    if subgroup.lane == 0u { lanes_u32[subgroup.id] = own; }
    workgroupBarrier();
    if lane == 0u {
        for (var i = 1u; i < subgroup.count; i++) { lanes_u32[0] = min(lanes_u32[0], lanes_u32[i]); }
    }
    return workgroupUniformLoad(&lanes_u32[0]);
}
#elif TIER == alone
fn lanes_sum(v: f32, lane: u32) -> f32 { return v; }
fn lanes_max(v: f32, lane: u32) -> f32 { return v; }
fn lanes_least(v: u32, lane: u32) -> u32 { return v; }
#elif TIER == portable
var<workgroup> lanes_f32: array<f32, LANES>;
var<workgroup> lanes_u32: array<u32, LANES>;

fn lanes_sum(v: f32, lane: u32) -> f32 {
    workgroupBarrier();
    lanes_f32[lane] = v;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { lanes_f32[lane] += lanes_f32[lane + half]; }
    }
    workgroupBarrier();
    return lanes_f32[0];
}
fn lanes_max(v: f32, lane: u32) -> f32 {
    workgroupBarrier();
    lanes_f32[lane] = v;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { lanes_f32[lane] = max(lanes_f32[lane], lanes_f32[lane + half]); }
    }
    workgroupBarrier();
    return lanes_f32[0];
}
fn lanes_least(v: u32, lane: u32) -> u32 {
    workgroupBarrier();
    lanes_u32[lane] = v;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { lanes_u32[lane] = min(lanes_u32[lane], lanes_u32[lane + half]); }
    }
    return workgroupUniformLoad(&lanes_u32[0]);
}
#endif
