// Reductions over the LANES invocations of a workgroup; every lane gets the result.
// Options: TIER = subgroup (the workgroup is one subgroup) | portable (LANES a power of two; call in uniform control flow).
#if TIER == subgroup
fn lanes_sum(v: f32, lane: u32) -> f32 { return subgroupAdd(v); }
fn lanes_max(v: f32, lane: u32) -> f32 { return subgroupMax(v); }
fn lanes_least(v: u32, lane: u32) -> u32 { return subgroupMin(v); }
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
    workgroupBarrier();
    return lanes_u32[0];
}
#endif
