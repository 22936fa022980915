//! Capabilities of a device, as plain data.

use std::sync::Arc;

use crate::ir::{
    DType,
    kernel::{CooperativeTile, Target, Tier},
};

/// The kind of hardware behind an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU seen through a virtual machine.
    Virtual,
    /// Not told by the driver.
    Other,
    /// A driver that computes on the CPU (lavapipe, SwiftShader, WARP).
    Software,
}

impl AdapterKind {
    pub(crate) fn of(kind: wgpu::DeviceType) -> Self {
        match kind {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Other => AdapterKind::Other,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
        }
    }

    /// The word used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

impl std::fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KernelTier {
    /// Those that suit the adapter: [`Software`](Self::Software) where it computes on the CPU, else
    /// [`Subgroup`](Self::Subgroup), each as far as the adapter has one subgroup size, else
    /// [`Subgroups`](Self::Subgroups) where it has subgroup operations, else [`Portable`](Self::Portable) or
    /// [`PortableSoftware`](Self::PortableSoftware).
    #[default]
    Auto,
    /// Those made for GPUs that need no optional feature: no subgroup operations, no cooperative matrices.
    Portable,
    /// Those made for GPUs, also on an adapter that computes on the CPU.
    Subgroup,
    /// Those made for GPUs whose subgroups differ in size, also on an adapter that has one size.
    Subgroups,
    /// Those made for adapters that compute on the CPU: no barriers on the hot path, several rows a workgroup.
    Software,
    /// Those for adapters that compute on the CPU, without any optional feature: what a browser without a GPU has. Each
    /// lane works alone.
    PortableSoftware,
}

impl KernelTier {
    /// Returns `true` if the kernels need no optional feature.
    pub(crate) fn is_portable(self) -> bool {
        matches!(self, Self::Portable | Self::PortableSoftware)
    }
}

/// One shape that cooperative matrix instructions take: `C[m,n] += A[m,k] · B[k,n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CooperativeMatrix {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Element type of A and B.
    pub input: DType,
    /// Element type of C.
    pub output: DType,
}

/// Capabilities of an opened device: the features and limits it was opened with, not those of the adapter behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// The adapter's name as the driver gives it.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12`, …
    pub backend: String,
    /// The sort of hardware.
    pub kind: AdapterKind,
    /// The driver's name and version.
    pub driver: String,
    /// WGSL `f16` arithmetic.
    pub f16: bool,
    /// WGSL `u64` and `i64`.
    pub int64: bool,
    /// Subgroup operations in compute shaders.
    pub subgroups: bool,
    /// Smallest subgroup that a shader may run with; meaningful if [`Capabilities::subgroups`].
    pub subgroup_min: u32,
    /// Largest subgroup that a shader may run with.
    pub subgroup_max: u32,
    /// Timestamps at the edges of passes.
    pub timestamps: bool,
    /// Timestamps between dispatches of one pass.
    pub timestamps_inside_passes: bool,
    /// Nanoseconds of one timestamp tick.
    pub timestamp_period: f32,
    /// Compiled pipelines can be saved and loaded.
    pub pipeline_cache: bool,
    /// Bytes of immediates; 0 without the feature.
    pub max_immediate_bytes: u32,
    /// Largest storage buffer binding in bytes.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Storage buffers that one shader stage may bind.
    pub max_storage_buffers: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Invocations of one workgroup along x, y and z.
    pub max_workgroup_size: [u32; 3],
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Offsets of storage buffer bindings are multiples of this.
    pub min_storage_offset_alignment: u32,
    /// Which kernels were asked for.
    pub kernels: KernelTier,
    /// Shapes of cooperative matrices; empty where the adapter has none or
    /// [`GpuOptions::cooperative_matrices`](super::GpuOptions::cooperative_matrices) is off.
    pub cooperative_matrices: Vec<CooperativeMatrix>,
}

/// The name of an adapter; browsers may keep it to themselves.
pub(super) fn adapter_name(info: &wgpu::AdapterInfo) -> String {
    if info.name.is_empty() { "an adapter without a name".into() } else { info.name.clone() }
}

impl Capabilities {
    /// WebGPU's default limits and no optional feature: what every device has. For plans without a device.
    pub fn portable() -> Self {
        Self {
            adapter: "any device".into(),
            backend: "portable".into(),
            kind: AdapterKind::Other,
            driver: String::new(),
            f16: false,
            int64: false,
            subgroups: false,
            subgroup_min: 1,
            subgroup_max: 1,
            timestamps: false,
            timestamps_inside_passes: false,
            timestamp_period: 1.0,
            pipeline_cache: false,
            max_immediate_bytes: 0,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_storage_buffers: 8,
            max_workgroups: 65535,
            max_invocations: 256,
            max_workgroup_size: [256, 256, 64],
            max_workgroup_storage: 16 << 10,
            min_storage_offset_alignment: 256,
            kernels: KernelTier::Portable,
            cooperative_matrices: Vec::new(),
        }
    }

    pub(crate) fn of(adapter: &wgpu::Adapter, device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let info = adapter.get_info();
        let features = device.features();
        let limits = device.limits();
        let has = |feature| features.contains(feature);
        let cooperative_matrices = if has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            adapter.cooperative_matrix_properties().iter().map(cooperative_matrix).collect()
        } else {
            Vec::new()
        };
        Self {
            backend: info.backend.to_string(),
            kind: AdapterKind::of(info.device_type),
            driver: driver_text(&info),
            f16: has(wgpu::Features::SHADER_F16),
            int64: has(wgpu::Features::SHADER_INT64),
            subgroups: has(wgpu::Features::SUBGROUP),
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
            timestamps_inside_passes: has(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            timestamp_period: queue.get_timestamp_period(),
            pipeline_cache: has(wgpu::Features::PIPELINE_CACHE),
            max_immediate_bytes: if has(wgpu::Features::IMMEDIATES) { limits.max_immediate_size } else { 0 },
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_size: [
                limits.max_compute_workgroup_size_x,
                limits.max_compute_workgroup_size_y,
                limits.max_compute_workgroup_size_z,
            ],
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            min_storage_offset_alignment: limits.min_storage_buffer_offset_alignment,
            kernels: KernelTier::Auto,
            cooperative_matrices,
            adapter: adapter_name(&info),
        }
    }
}

impl Capabilities {
    /// The target that kernels are chosen for. A shader cannot ask for one subgroup size where a device has several.
    /// The kernels for drivers that compute on the CPU use no cooperative matrices, which are emulated there.
    pub fn target(&self) -> Target {
        let fixed = self.subgroup_min == self.subgroup_max && self.kernels != KernelTier::Subgroups;
        let tier = match self.subgroup_min {
            size @ (4 | 8 | 16 | 32 | 64) if self.subgroups && fixed => Tier::Subgroup(size),
            4.. if self.subgroups && self.subgroup_max <= 128 => Tier::Subgroups,
            _ => Tier::Portable,
        };
        let software = match self.kernels {
            KernelTier::Auto | KernelTier::Subgroups => self.kind == AdapterKind::Software,
            KernelTier::Subgroup | KernelTier::Portable => false,
            KernelTier::Software | KernelTier::PortableSoftware => true,
        };
        Target {
            tier,
            // As weights are split when they become resident.
            max_binding: self.max_binding.min(self.max_buffer) / 16 * 16,
            max_storage_buffers: self.max_storage_buffers,
            f16: self.f16,
            int64: self.int64,
            cooperative: if software { None } else { self.cooperative_tile(tier) },
            software,
            rolled: self.kind == AdapterKind::Software,
            // Tests run the other kernels for GPUs as GPUs do.
            sizes_are_data: software || (self.kind == AdapterKind::Software && self.kernels == KernelTier::Portable),
            choices: Arc::default(),
        }
    }

    /// The tile of the kernels that multiply f16 and sum in f32.
    fn cooperative_tile(&self, tier: Tier) -> Option<CooperativeTile> {
        let lanes = match tier {
            Tier::Portable => return None,
            Tier::Subgroup(size) => 4 * size,
            // Metal's GPUs with such matrices have subgroups of 32, whatever sizes are reported.
            Tier::Subgroups if self.backend == "metal" => 128,
            Tier::Subgroups => 256,
        };
        let halves = |shape: &&CooperativeMatrix| shape.input == DType::F16 && shape.output == DType::F32;
        let shapes = self.cooperative_matrices.iter().filter(halves).map(|shape| [shape.m, shape.n, shape.k]);
        let runs = self.f16 && lanes <= self.max_invocations && lanes <= self.max_workgroup_size[0];
        if runs { CooperativeTile::choose(shapes, lanes, self.max_workgroup_storage) } else { None }
    }
}

/// The driver's name and version in one line.
pub(crate) fn driver_text(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

fn cooperative_matrix(shape: &wgpu::CooperativeMatrixProperties) -> CooperativeMatrix {
    use wgpu::CooperativeScalarType as Scalar;
    let dtype = |scalar| match scalar {
        Scalar::F32 => DType::F32,
        Scalar::F16 => DType::F16,
        Scalar::I32 => DType::I32,
        Scalar::U32 => DType::U32,
    };
    CooperativeMatrix {
        m: shape.m_size,
        n: shape.n_size,
        k: shape.k_size,
        input: dtype(shape.ab_type),
        output: dtype(shape.cr_type),
    }
}

#[cfg(test)]
mod tests;
