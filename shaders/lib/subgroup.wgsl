// Subgroups of a workgroup of LANES invocations. Their size is not known: 4 to 128, and another shader's may differ.
// Options: TIER, LANES.
#if TIER == subgroups
const MOST_SUBGROUPS = LANES / 4u;
struct Subgroup {
    id: u32,
    // Subgroups of the workgroup.
    count: u32,
    // The invocation in its subgroup.
    lane: u32,
}
var<private> subgroup: Subgroup;
#endif
