//! What the adapter is, what it offers, and which kernels follow from it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use gemmaflow::{
    internals::ir::kernel::{Target, Tier},
    runtime::{AdapterKind, Capabilities, Device, GpuContext, GpuOptions, KernelTier, Opened, adapters},
};

use crate::{
    parts::Scope,
    report::{Adapter, without_folders},
};

/// A wait that takes longer is a hung driver, unless it compiles on the CPU meanwhile.
const WAIT: Duration = Duration::from_secs(20);
const SOFTWARE_WAIT: Duration = Duration::from_secs(120);

/// The device, opened with these kernels; waits end after a time that no submit of the doctor takes.
///
/// # Errors
/// As [`Device::open`]; the reference, which has no kernels.
pub fn open(device: &Device, options: GpuOptions, software: bool) -> Result<Arc<GpuContext>> {
    let timeout = Some(if software { SOFTWARE_WAIT } else { WAIT });
    match device.open(&GpuOptions { timeout, ..options })? {
        Opened::Gpu(context) => Ok(context),
        Opened::Reference => bail!("the reference computes on the CPU and has no kernels to examine; give another --device"),
    }
}

/// The section of the report.
///
/// # Errors
/// As [`open`].
pub fn describe(device: &Device, scope: &Scope) -> Result<()> {
    scope.at("listing the adapters");
    let found: Vec<String> = adapters().iter().map(|adapter| without_folders(&adapter.to_string())).collect();
    scope.at("opening the device");
    let context = open(device, GpuOptions::default(), true)?;
    let section = section(context.capabilities(), found);
    scope.update(|report| report.adapter = Some(section));
    Ok(())
}

fn section(device: &Capabilities, adapters: Vec<String>) -> Adapter {
    let target = device.target();
    Adapter {
        name: device.adapter.clone(),
        kind: device.kind.name(),
        backend: device.backend.clone(),
        driver: device.driver.clone(),
        software: device.kind == AdapterKind::Software,
        features: features(device),
        limits: limits(device),
        matrices: device
            .cooperative_matrices
            .iter()
            .map(|m| format!("{}x{}x{} {} to {}", m.m, m.n, m.k, m.input, m.output))
            .collect(),
        tier: tier(&target),
        tier_why: tier_why(device, &target),
        matrices_why: matrices_why(device, &target),
        adapters,
    }
}

fn features(device: &Capabilities) -> BTreeMap<&'static str, String> {
    let yes = |there: bool| if there { "yes" } else { "no" }.to_owned();
    let subgroups = match (device.subgroups, device.subgroup_min, device.subgroup_max) {
        (false, ..) => "no".into(),
        (true, least, most) if least == most => format!("of {least}"),
        (true, least, most) => format!("of {least} to {most}"),
    };
    BTreeMap::from([
        ("f16", yes(device.f16)),
        ("int64", yes(device.int64)),
        ("subgroups", subgroups),
        ("timestamps", yes(device.timestamps)),
        ("timestamps_inside_passes", yes(device.timestamps_inside_passes)),
        ("pipeline_cache", yes(device.pipeline_cache)),
    ])
}

fn limits(device: &Capabilities) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("binding_bytes", device.max_binding),
        ("buffer_bytes", device.max_buffer),
        ("storage_buffers", device.max_storage_buffers.into()),
        ("workgroups", device.max_workgroups.into()),
        ("invocations", device.max_invocations.into()),
        ("workgroup_bytes", device.max_workgroup_storage.into()),
        ("offset_alignment", device.min_storage_offset_alignment.into()),
        ("immediate_bytes", device.max_immediate_bytes.into()),
    ])
}

/// The tier in a word or two.
pub fn tier(target: &Target) -> String {
    let name = match target.tier {
        Tier::Portable => "portable".into(),
        Tier::Subgroups => "subgroups of any size".into(),
        Tier::Subgroup(size) => format!("subgroups of {size}"),
    };
    if target.software { format!("software, {name}") } else { name }
}

fn tier_why(device: &Capabilities, target: &Target) -> String {
    let Capabilities { subgroup_min: least, subgroup_max: most, .. } = device;
    let size = match target.tier {
        Tier::Portable if !device.subgroups => "it has no subgroup operations".into(),
        Tier::Portable => format!("its subgroups of {least} to {most} are none that the kernels take"),
        Tier::Subgroups => format!("its subgroups differ from shader to shader, from {least} to {most}"),
        Tier::Subgroup(size) => format!("all its shaders have subgroups of {size}"),
    };
    if target.software { format!("the adapter computes on the CPU; {size}") } else { size }
}

fn matrices_why(device: &Capabilities, target: &Target) -> String {
    match &target.cooperative {
        Some(tile) => {
            format!("tiles of {}x{}x{} in f16, summed in f32, by workgroups of {}", tile.m, tile.n, tile.k, tile.lanes)
        }
        None if target.software => "unused: a driver on the CPU only emulates them".into(),
        None if device.cooperative_matrices.is_empty() => "none: the driver offers none through wgpu".into(),
        None if !device.f16 => "unused: shaders have no f16".into(),
        None if target.tier == Tier::Portable => "unused: they need subgroups".into(),
        None => "unused: no shape that fits multiplies f16 and sums in f32".into(),
    }
}

/// The tiers that a device has, its own first, each with how it is asked for.
pub fn tiers(device: &Capabilities) -> Vec<(&'static str, KernelTier)> {
    let several = ("subgroups", KernelTier::Subgroups);
    let portable = ("portable", KernelTier::Portable);
    match device.target() {
        Target { tier: Tier::Portable, software: false, .. } => vec![portable],
        Target { tier: Tier::Portable, .. } => vec![("software", KernelTier::Auto), portable],
        Target { tier: Tier::Subgroups, software: false, .. } => vec![("subgroups", KernelTier::Auto), portable],
        Target { tier: Tier::Subgroups, .. } => vec![("software", KernelTier::Auto), several, portable],
        Target { software: true, .. } => {
            vec![("software", KernelTier::Auto), ("subgroup", KernelTier::Subgroup), several, portable]
        }
        Target { tier: Tier::Subgroup(_), .. } => vec![("subgroup", KernelTier::Auto), several, portable],
    }
}
