//! Op cases on a device and on the reference.
#![allow(dead_code, unused_imports)] // Each test binary uses a part.

pub mod cases;
pub mod files;
pub mod gguf;
pub mod half;
pub mod multimodal;
pub mod oracle;
pub mod uniformity;

use std::sync::Arc;

pub use cases::{Inputs, cases, plan, plan_with, prepare, product, products, run, title};
use gemmaflow::{
    internals::ir::kernel::{Target, Tier},
    runtime::{Device, GpuContext, GpuOptions, KernelTier, Opened},
};

/// Opens the best adapter; a machine without one fails the test.
pub fn open(options: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(options).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// The device once for each tier that it has.
pub fn tiers() -> Vec<(&'static str, Arc<GpuContext>)> {
    let best = open(&GpuOptions::default());
    let portable = open(&GpuOptions { kernels: KernelTier::Portable, ..GpuOptions::default() });
    assert_eq!(portable.capabilities().target().tier, Tier::Portable);
    let gpu = open(&GpuOptions { kernels: KernelTier::Subgroup, ..GpuOptions::default() });
    let several = open(&GpuOptions { kernels: KernelTier::Subgroups, ..GpuOptions::default() });
    match best.capabilities().target() {
        Target { tier: Tier::Portable, software: true, .. } => vec![("software", best), ("portable", portable)],
        Target { tier: Tier::Portable, .. } => vec![("portable", portable)],
        Target { tier: Tier::Subgroups, .. } => vec![("subgroups", best), ("portable", portable)],
        Target { software: true, .. } => {
            let without = open(&GpuOptions { kernels: KernelTier::PortableSoftware, ..GpuOptions::default() });
            let software = [("software", best), ("portable software", without)];
            software.into_iter().chain([("subgroup", gpu), ("subgroups", several), ("portable", portable)]).collect()
        }
        _ => vec![("subgroup", best), ("subgroups", several), ("portable", portable)],
    }
}

/// The device with its cooperative matrices and the kernels for GPUs; nothing, and a note, where it has none that
/// multiply f16 and sum in f32.
pub fn cooperative() -> Option<Arc<GpuContext>> {
    let kernels = KernelTier::Subgroup;
    let context = open(&GpuOptions { kernels, cooperative_matrices: true, ..GpuOptions::default() });
    let found = context.capabilities().target().cooperative;
    if found.is_none() {
        eprintln!("{} has no cooperative matrices from f16 to f32: not run", context.capabilities().adapter);
    }
    found.map(|_| context)
}
