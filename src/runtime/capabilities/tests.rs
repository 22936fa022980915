use super::*;

fn gpu(cooperative_matrices: Vec<CooperativeMatrix>) -> Capabilities {
    Capabilities {
        adapter: "a GPU".into(),
        backend: "vulkan".into(),
        kind: AdapterKind::Discrete,
        f16: true,
        int64: true,
        subgroups: true,
        subgroup_min: 32,
        subgroup_max: 32,
        max_invocations: 1024,
        max_workgroup_storage: 32 << 10,
        kernels: KernelTier::Auto,
        cooperative_matrices,
        ..Capabilities::portable()
    }
}

#[test]
fn what_every_device_has_is_one_thing() {
    assert_eq!(Capabilities::portable().target(), Target::portable());
}

#[test]
fn cooperative_tiles_go_from_f16_to_f32_whatever_the_subgroups() {
    let shape = |[m, n, k]: [u32; 3], input, output| CooperativeMatrix { m, n, k, input, output };
    let tile = |side, output| shape([side; 3], DType::F16, output);
    let large = tile(16, DType::F32);
    let small = tile(8, DType::F32);
    let found = |capabilities: &Capabilities| capabilities.target().cooperative.map(|tile| (tile.m, tile.lanes));
    assert_eq!(found(&gpu(vec![])), None);
    assert_eq!(found(&gpu(vec![small, large])), Some((16, 128)));
    assert_eq!(found(&gpu(vec![small, tile(16, DType::F16)])), Some((8, 128)));
    assert_eq!(found(&gpu(vec![tile(16, DType::F16), shape([8; 3], DType::F32, DType::F32)])), None);
    let varying = |min, max| Capabilities { subgroup_min: min, subgroup_max: max, ..gpu(vec![large]) };
    assert_eq!(found(&varying(32, 64)), Some((16, 256)));
    assert_eq!(found(&varying(64, 64)), Some((16, 256)));
    let metal = Capabilities { backend: "metal".into(), cooperative_matrices: vec![small], ..varying(4, 64) };
    assert_eq!(found(&metal), Some((8, 128)));
    let without = [
        Capabilities { f16: false, ..gpu(vec![large]) },
        Capabilities { subgroups: false, ..gpu(vec![large]) },
        Capabilities { max_workgroup_storage: 16 << 10, ..gpu(vec![large]) },
        Capabilities { max_invocations: 64, ..gpu(vec![large]) },
        Capabilities { kind: AdapterKind::Software, ..gpu(vec![large]) },
    ];
    for capabilities in &without {
        assert_eq!(found(capabilities), None, "{capabilities:?}");
    }
    let tested = Capabilities { kind: AdapterKind::Software, kernels: KernelTier::Subgroup, ..gpu(vec![large]) };
    assert_eq!(found(&tested), Some((16, 128)), "a software driver where the kernels for GPUs are asked for");
}

#[test]
fn kernels_for_the_cpu_follow_from_the_adapter_unless_a_tier_is_asked_for() {
    let target = |kind, subgroups, kernels| {
        let target = Capabilities { kind, subgroups, kernels, ..gpu(vec![]) }.target();
        (target.software, target.tier)
    };
    use {AdapterKind::*, KernelTier as Asked};
    assert_eq!(target(Software, false, Asked::Auto), (true, Tier::Portable), "a browser without a GPU");
    assert_eq!(target(Software, true, Asked::Auto), (true, Tier::Subgroup(32)));
    assert_eq!(target(Other, false, Asked::Auto), (false, Tier::Portable), "a browser with one");
    assert_eq!(target(Software, false, Asked::Portable), (false, Tier::Portable));
    assert_eq!(target(Discrete, false, Asked::PortableSoftware), (true, Tier::Portable));
    assert_eq!(target(Software, true, Asked::Subgroup), (false, Tier::Subgroup(32)));
}
