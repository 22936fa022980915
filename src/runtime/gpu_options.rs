//! The caller's requests to a device.

use std::time::Duration;

#[cfg(doc)]
use super::{Capabilities, GpuContext};
use super::{capabilities::KernelTier, tuning::Tuning};
#[cfg(doc)]
use crate::Error;

/// How to open a device.
#[derive(Clone, PartialEq)]
pub struct GpuOptions {
    /// Lower the largest storage binding to this many bytes; the device is opened with the lower limit.
    pub max_binding: Option<u64>,
    /// Lower the largest buffer to this many bytes.
    pub max_buffer: Option<u64>,
    /// Most bytes that buffers may have at once, all models on this device together; one too many is refused with
    /// [`DeviceError::OutOfMemory`](crate::error::DeviceError::OutOfMemory), and what exists goes on. For applications
    /// that need the rest of the device's memory themselves. Default: as much as the driver gives.
    pub memory_limit: Option<u64>,
    /// How long any single wait for the device may take. Default: 60 s; 300 s for an adapter that computes on the CPU,
    /// which compiles kernels when they first run.
    pub timeout: Option<Duration>,
    /// Use cooperative matrices where the adapter has them. Products of 32 rows or more then go through them where the
    /// device multiplies square tiles of f16 and sums them in f32 ([`Capabilities::cooperative_matrices`]), unless a
    /// profile says `precision.compute = "f32"`. They are an experimental feature of wgpu: off, the device is opened
    /// without any such feature, and its products are exact. Default: on, off with the feature `exact`.
    pub cooperative_matrices: bool,
    /// Which kernels run. Default: those that suit the adapter.
    pub kernels: KernelTier,
    /// Compile shaders with wgpu's checks of bounds, loops and divisions: slower, for finding a fault in a kernel.
    /// Default: off, on with the feature `checked`.
    pub checked: bool,
    /// Testing and timing of kernels when a model is loaded, and its time limit. The device keeps the findings
    /// ([`GpuContext::kernel_choices`]), and they travel with [`GpuContext::pipeline_cache_bytes`], so that a second
    /// start tries nothing. Generators that are [deterministic](crate::generate::GeneratorOptions::deterministic)
    /// ignore the times. Default: a second on adapters that do not compute on the CPU.
    pub tuning: Tuning,
    /// The pipelines that an earlier run compiled, as [`GpuContext::pipeline_cache_bytes`] gave them (Vulkan): the
    /// driver then compiles little or nothing. Bytes of another adapter or driver, cut or corrupt ones are ignored with
    /// a warning, and [`GpuContext::pipeline_blob`] says why. A driver trusts these bytes as it trusts its own files,
    /// and the checksum finds accidents, not attacks: keep them where only trusted programs write. Default: none.
    pub pipeline_cache: Option<Vec<u8>>,
}

impl std::fmt::Debug for GpuOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuOptions")
            .field("max_binding", &self.max_binding)
            .field("max_buffer", &self.max_buffer)
            .field("memory_limit", &self.memory_limit)
            .field("timeout", &self.timeout)
            .field("cooperative_matrices", &self.cooperative_matrices)
            .field("kernels", &self.kernels)
            .field("checked", &self.checked)
            .field("tuning", &self.tuning)
            .field("pipeline_cache bytes", &self.pipeline_cache.as_ref().map(Vec::len))
            .finish()
    }
}

impl Default for GpuOptions {
    fn default() -> Self {
        let cooperative_matrices = !cfg!(feature = "exact");
        let checked = cfg!(feature = "checked");
        let kernels = KernelTier::Auto;
        let max_binding = None;
        let max_buffer = None;
        let memory_limit = None;
        let timeout = None;
        let pipeline_cache = None;
        let tuning = Tuning::Quick;
        Self { max_binding, max_buffer, memory_limit, timeout, cooperative_matrices, kernels, checked, tuning, pipeline_cache }
    }
}
