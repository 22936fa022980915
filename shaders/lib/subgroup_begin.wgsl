// The first statements of an entry point with lib/subgroup_inputs.wgsl. Options: TIER.
#if TIER == subgroups
    subgroup = Subgroup(subgroup_id, num_subgroups, subgroup_lane);
#endif
