//! Compiled kernels, shared by everything that runs on one device.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::context::GpuContext;
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::DeviceError,
    ir::kernel::Kernel,
    platform,
    shader::{Access, Binding, Reflected, Size, Sizes, reflect},
};

/// Threads that compile at once; drivers serialise parts of the work, so more gain little.
const COMPILERS: usize = 4;

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    /// The pipeline.
    pub raw: wgpu::ComputePipeline,
    /// The layout of group 0.
    pub layout: wgpu::BindGroupLayout,
    /// The buffers of group 0, as the shader declares them.
    pub bindings: Vec<Binding>,
    /// The words of the uniform with the sizes; empty where they are constants.
    pub sizes: Vec<Size>,
}

/// The pipelines of one device by [`Sizes::key`], shared by all executables on it.
#[derive(Debug)]
pub struct PipelineCache {
    context: Arc<GpuContext>,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
}

impl PipelineCache {
    /// An empty cache.
    pub fn new(context: &Arc<GpuContext>) -> Self {
        Self { context: context.clone(), pipelines: Mutex::default() }
    }

    /// The pipeline of `kernel`, compiled if it is not there yet.
    ///
    /// # Errors
    /// [`DeviceError::Shader`] for a mistake in the shader, [`DeviceError::Driver`] where the driver refuses it,
    /// [`DeviceError::Lost`].
    pub fn get(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        let key = self.sizes().key(kernel);
        if let Some(found) = self.find(&key) {
            return Ok(found);
        }
        let made = Arc::new(self.compile(kernel)?);
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(pipelines.entry(key).or_insert(made).clone())
    }

    /// Compiles those of `kernels` that are not there yet, several at a time.
    ///
    /// # Errors
    /// As [`PipelineCache::get`]; the first failure.
    pub fn prepare<'a>(&self, kernels: impl IntoIterator<Item = &'a Kernel>) -> Result<()> {
        self.prepare_unless(kernels, &CancelToken::new())
    }

    /// As [`PipelineCache::prepare`], until `cancel` is cancelled: what was compiled stays.
    ///
    /// # Errors
    /// As [`PipelineCache::prepare`]; [`Error::Cancelled`].
    pub(crate) fn prepare_unless<'a>(&self, kernels: impl IntoIterator<Item = &'a Kernel>, cancel: &CancelToken) -> Result<()> {
        let mut missing = self.distinct(kernels);
        missing.retain(|kernel| self.find(&self.sizes().key(kernel)).is_none());
        if missing.is_empty() {
            return Ok(());
        }
        let _span = tracing::debug_span!("compile", pipelines = missing.len()).entered();
        let next = AtomicUsize::new(0);
        let compile = || {
            while let Some(kernel) = missing.get(next.fetch_add(1, Relaxed)) {
                cancel.check("compiling a run of the model")?;
                self.get(kernel)?;
            }
            Ok(())
        };
        let extra = missing.len().min(COMPILERS).min(platform::cores()).saturating_sub(1);
        let (own, others) = platform::on_threads(extra, compile);
        let panicked =
            |_| Err(Error::Device(DeviceError::Driver { what: "compiling shaders".into(), message: "a thread panicked".into() }));
        others.into_iter().fold(own, |so_far, other| so_far.and(other.unwrap_or_else(panicked)))
    }

    /// As [`GpuContext::pipeline_cache_bytes`].
    pub fn pipeline_cache_bytes(&self) -> Option<Vec<u8>> {
        self.context.pipeline_cache_bytes()
    }

    /// The device.
    pub fn context(&self) -> &Arc<GpuContext> {
        &self.context
    }

    /// One of those of `kernels` that share a pipeline, in order.
    pub(crate) fn distinct<'a>(&self, kernels: impl IntoIterator<Item = &'a Kernel>) -> Vec<&'a Kernel> {
        let mut seen = HashSet::new();
        kernels.into_iter().filter(|kernel| seen.insert(self.sizes().key(kernel))).collect()
    }

    /// Drivers on the CPU take up to seconds to compile a kernel and gain nothing by constants.
    fn sizes(&self) -> Sizes {
        if self.context.capabilities().target().sizes_are_data { Sizes::Uniform } else { Sizes::Constants }
    }

    fn find(&self, key: &str) -> Option<Arc<Pipeline>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn compile(&self, kernel: &Kernel) -> Result<Pipeline> {
        let Reflected { module, bindings, sizes, .. } = reflect(kernel, self.sizes())?;
        let label = self.sizes().key(kernel);
        let constants = if self.sizes() == Sizes::Constants { &kernel.overrides[..] } else { &[] };
        let device = self.context.device();
        let checks =
            if self.context.checked() { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
        let (raw, layout) = self.context.scoped(&format!("shader '{label}'"), || {
            let descriptor =
                wgpu::ShaderModuleDescriptor { label: Some(kernel.shader), source: wgpu::ShaderSource::Naga(Cow::Owned(module)) };
            // SAFETY: the module has passed naga's validation above and comes from this crate's own files and
            // generators, which keep the rules that the checks would enforce. Every index is guarded by sizes that the
            // plan takes from the same types as the buffers' sizes. Indices read from buffers are guarded too. Loops
            // are bounded by sizes, and divisors are sizes of at least 1.
            let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
            let entries: Vec<_> = bindings.iter().map(entry).collect();
            let layout = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.shader), entries: &entries });
            let layouts = [Some(&layout)];
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.shader),
                bind_group_layouts: &layouts,
                ..Default::default()
            });
            let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants,
                    // Kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: self.context.driver_cache(),
            });
            (raw, layout)
        })?;
        self.context.counters().pipeline_created();
        Ok(Pipeline { raw, layout, bindings, sizes })
    }
}

fn entry(binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding.access {
        Access::Uniform => wgpu::BufferBindingType::Uniform,
        access => wgpu::BufferBindingType::Storage { read_only: access == Access::Read },
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding.number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
