// What an entry point does first with lib/subgroup_inputs.wgsl. Options: TIER.
#if TIER == subgroups
    subgroup = Subgroup(subgroup_id, num_subgroups, subgroup_lane);
#endif
