//! The features and limits that the kernels cannot do without, and those that they would like.
//!
//! An application that makes its own `wgpu::Device` asks for [`wanted_features`] and [`wanted_limits`]; a device that
//! falls short of [`required_features`] or [`required_limits`] is refused with [`DeviceError::Limit`].

use super::{
    capabilities::{AdapterKind, KernelTier},
    gpu_options::GpuOptions,
};
use crate::{Error, Result, error::DeviceError};

/// Smallest binding that anything here works with; what a model needs beyond it, 64 rows of its widest tensor, is
/// checked when it is loaded.
const LEAST_BINDING: u64 = 16 << 10;

/// Features without which no kernel runs: none; the portable kernels are plain WebGPU.
pub fn required_features() -> wgpu::Features {
    wgpu::Features::empty()
}

/// Limits without which the portable kernels do not run; WebGPU's defaults satisfy all of them.
///
/// 256 invocations and 16 KiB − 32 of workgroup memory, 8 storage buffers a stage, bindings of 16 KiB, 65,535
/// workgroups a dimension. The other limits are those of WebGL 2 and never the reason for a refusal.
pub fn required_limits() -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffers_per_shader_stage: 8,
        max_storage_buffer_binding_size: LEAST_BINDING,
        max_buffer_size: LEAST_BINDING,
        max_compute_workgroup_storage_size: 16352,
        max_compute_invocations_per_workgroup: 256,
        max_compute_workgroup_size_x: 256,
        max_compute_workgroup_size_y: 256,
        max_compute_workgroup_size_z: 64,
        max_compute_workgroups_per_dimension: 65535,
        ..wgpu::Limits::downlevel_webgl2_defaults()
    }
}

/// The features worth asking `adapter` for: those that some kernel or tool uses and that it has. None is experimental.
pub fn wanted_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | wgpu::Features::IMMEDIATES
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
        | wgpu::Features::PIPELINE_CACHE;
    wanted & adapter.features()
}

/// Returns `true` if `adapter` is to be opened with cooperative matrices, an experimental feature: its kernels can use
/// them, and the options do not say otherwise. Software drivers emulate matrices. They are opened with them only where
/// the kernels made for GPUs are asked for. Mesa's (26.2) has them with subgroups of 8 alone. With 4 it lists tiles and
/// lacks the feature, which wgpu 30 does not look at; with 16 it crashes as it compiles.
pub(crate) fn multiplies_matrices(adapter: &wgpu::Adapter, options: &GpuOptions) -> bool {
    let info = adapter.get_info();
    let sound = AdapterKind::of(info.device_type) != AdapterKind::Software
        || (options.kernels == KernelTier::Subgroup && info.subgroup_max_size == 8);
    let offered = adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    options.cooperative_matrices && !options.kernels.is_portable() && sound && offered
}

/// The limits worth asking `adapter` for: its own, for all that compute shaders touch. Valid together with
/// [`wanted_features`].
pub fn wanted_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let most = adapter.limits();
    let base = wgpu::Limits::downlevel_defaults().or_worse_values_from(&most);
    let immediates = adapter.features().contains(wgpu::Features::IMMEDIATES);
    wgpu::Limits {
        max_bind_groups: most.max_bind_groups.min(8),
        max_bindings_per_bind_group: most.max_bindings_per_bind_group.min(1000),
        max_dynamic_uniform_buffers_per_pipeline_layout: most.max_dynamic_uniform_buffers_per_pipeline_layout,
        max_dynamic_storage_buffers_per_pipeline_layout: most.max_dynamic_storage_buffers_per_pipeline_layout,
        max_storage_buffers_per_shader_stage: most.max_storage_buffers_per_shader_stage,
        max_buffers_and_acceleration_structures_per_shader_stage: most.max_buffers_and_acceleration_structures_per_shader_stage,
        max_uniform_buffer_binding_size: most.max_uniform_buffer_binding_size,
        max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
        max_buffer_size: most.max_buffer_size,
        min_uniform_buffer_offset_alignment: most.min_uniform_buffer_offset_alignment,
        min_storage_buffer_offset_alignment: most.min_storage_buffer_offset_alignment,
        max_compute_workgroup_storage_size: most.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: most.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: most.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: most.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: most.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: most.max_compute_workgroups_per_dimension,
        max_immediate_size: if immediates { most.max_immediate_size.min(256) } else { 0 },
        ..base
    }
}

/// Checks features and limits. The error names the first that does not suffice, with both values.
pub(crate) fn check(name: &str, features: wgpu::Features, limits: &wgpu::Limits) -> Result<()> {
    if let Some((feature, _)) = (required_features() - features).iter_names().next() {
        let advice = "make the device with `required_features()` and `wanted_features()`";
        return Err(limit(name, feature, 0, 1, advice));
    }
    let mut short = None;
    required_limits().check_limits_with_fail_fn(limits, false, |limit_name, needed, available| {
        short.get_or_insert((limit_name, needed, available));
    });
    match short {
        None => Ok(()),
        Some((limit_name, needed, available)) => {
            let advice = "ask for `wanted_limits(adapter)` when making the device, or choose another adapter";
            Err(limit(name, limit_name, available, needed, advice))
        }
    }
}

pub(crate) fn limit(adapter: &str, name: &str, available: u64, needed: u64, advice: &str) -> Error {
    Error::Device(DeviceError::Limit {
        adapter: adapter.to_owned(),
        name: name.to_owned(),
        available,
        needed,
        advice: advice.to_owned(),
    })
}
