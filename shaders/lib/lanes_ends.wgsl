// The first and the end of the ranges of all LANES invocations of a workgroup: the least of the firsts, the largest of
// the ends. They may bound a loop with barriers. Options and conditions as in lib/lanes.wgsl.
#if TIER == subgroup
fn lanes_ends(first: u32, end: u32, lane: u32) -> vec2<u32> { return vec2<u32>(subgroupMin(first), subgroupMax(end)); }
#else
#if TIER == subgroups
var<workgroup> ends_met: array<vec2<u32>, MOST_SUBGROUPS>;
#elif TIER == portable
var<workgroup> ends_met: array<vec2<u32>, LANES>;
#endif

fn wider(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> { return vec2<u32>(min(a.x, b.x), max(a.y, b.y)); }

fn lanes_ends(first: u32, end: u32, lane: u32) -> vec2<u32> {
#if TIER == subgroups
    let own = vec2<u32>(subgroupMin(first), subgroupMax(end));
    workgroupBarrier();
    if subgroup.lane == 0u { ends_met[subgroup.id] = own; }
    workgroupBarrier();
    if lane == 0u {
        for (var i = 1u; i < subgroup.count; i++) { ends_met[0] = wider(ends_met[0], ends_met[i]); }
    }
#elif TIER == portable
    workgroupBarrier();
    ends_met[lane] = vec2<u32>(first, end);
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { ends_met[lane] = wider(ends_met[lane], ends_met[lane + half]); }
    }
#endif
    return workgroupUniformLoad(&ends_met[0]);
}
#endif
