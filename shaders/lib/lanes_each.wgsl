// Reductions of EACH values at once over the LANES invocations of a workgroup; every lane gets the results.
// Called in uniform control flow, with lib/subgroup.wgsl's options. EACH is a constant of the kernel.
#if TIER == subgroups
const MET = MOST_SUBGROUPS;
#elif TIER == portable
const MET = LANES;
#endif
var<workgroup> each_met: array<f32, EACH * MET>;

#if TIER == subgroups
fn lanes_sum_each(v: array<f32, EACH>, lane: u32) -> array<f32, EACH> {
    var own = v;
    for (var r = 0u; r < times(EACH); r++) { own[r] = subgroupAdd(own[r]); }
    workgroupBarrier();
    if subgroup.lane == 0u {
        for (var r = 0u; r < times(EACH); r++) { each_met[r * MET + subgroup.id] = own[r]; }
    }
    workgroupBarrier();
    var all: array<f32, EACH>;
    for (var i = 0u; i < subgroup.count; i++) {
        for (var r = 0u; r < times(EACH); r++) { all[r] += each_met[r * MET + i]; }
    }
    return all;
}
fn lanes_max_each(v: array<f32, EACH>, lane: u32) -> array<f32, EACH> {
    var own = v;
    for (var r = 0u; r < times(EACH); r++) { own[r] = subgroupMax(own[r]); }
    workgroupBarrier();
    if subgroup.lane == 0u {
        for (var r = 0u; r < times(EACH); r++) { each_met[r * MET + subgroup.id] = own[r]; }
    }
    workgroupBarrier();
    var all = own;
    for (var i = 0u; i < subgroup.count; i++) {
        for (var r = 0u; r < times(EACH); r++) { all[r] = max(all[r], each_met[r * MET + i]); }
    }
    return all;
}
#elif TIER == portable
fn lanes_sum_each(v: array<f32, EACH>, lane: u32) -> array<f32, EACH> {
    var own = v;
    workgroupBarrier();
    for (var r = 0u; r < times(EACH); r++) { each_met[r * MET + lane] = own[r]; }
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            for (var r = 0u; r < times(EACH); r++) { each_met[r * MET + lane] += each_met[r * MET + lane + half]; }
        }
    }
    workgroupBarrier();
    for (var r = 0u; r < times(EACH); r++) { own[r] = each_met[r * MET]; }
    return own;
}
fn lanes_max_each(v: array<f32, EACH>, lane: u32) -> array<f32, EACH> {
    var own = v;
    workgroupBarrier();
    for (var r = 0u; r < times(EACH); r++) { each_met[r * MET + lane] = own[r]; }
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            for (var r = 0u; r < times(EACH); r++) {
                each_met[r * MET + lane] = max(each_met[r * MET + lane], each_met[r * MET + lane + half]);
            }
        }
    }
    workgroupBarrier();
    for (var r = 0u; r < times(EACH); r++) { own[r] = each_met[r * MET]; }
    return own;
}
#endif
