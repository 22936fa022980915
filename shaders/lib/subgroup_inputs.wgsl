// Parameters of an entry point whose workgroup holds several subgroups; lib/subgroup_begin.wgsl takes them.
// Options: TIER.
#if TIER == subgroups
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) num_subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
    @builtin(subgroup_size) subgroup_size: u32,
#endif
