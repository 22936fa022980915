//! An opened device: submits, bounded waits, typed errors.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    capabilities::{AdapterKind, Capabilities, adapter_name},
    counters::Counters,
    device::OwnDevice,
    driver_cache::{DriverCache, PipelineBlob},
    gpu_options::GpuOptions,
    lost::Faults,
    read_back::StagingPool,
    requirements,
    tuning::Tuning,
    waiter::Waiter,
};
use crate::{
    Error, Result,
    error::DeviceError,
    ir::{KernelChoices, kernel::Target},
    platform,
};

/// The longest wait where the options say nothing.
fn default_timeout(capabilities: &Capabilities) -> Duration {
    Duration::from_secs(if capabilities.kind == AdapterKind::Software { 300 } else { 60 })
}

/// An opened GPU with its queue. Shared as `Arc<GpuContext>` between models and threads.
pub struct GpuContext {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    capabilities: Capabilities,
    timeout: Duration,
    memory_limit: u64,
    faults: Arc<Faults>,
    counters: Arc<Counters>,
    pub(crate) staging: Mutex<StagingPool>,
    pub(crate) waiter: Waiter,
    driver_cache: DriverCache,
    choices: Mutex<KernelChoices>,
    tuning: Tuning,
    checked: bool,
    blocks: bool,
}

impl GpuContext {
    /// Opens `adapter` with the features and limits that the kernels want.
    pub(crate) async fn open(adapter: wgpu::Adapter, options: &GpuOptions) -> Result<Arc<Self>> {
        let name = adapter_name(&adapter.get_info());
        requirements::check(&name, adapter.features(), &adapter.limits())?;
        let mut limits = requirements::wanted_limits(&adapter);
        lower(&mut limits.max_storage_buffer_binding_size, options.max_binding);
        lower(&mut limits.max_buffer_size, options.max_buffer);
        requirements::check(&name, adapter.features(), &limits)?;
        let mut features = requirements::wanted_features(&adapter);
        if options.kernels.is_portable() {
            features.remove(wgpu::Features::SUBGROUP);
        }
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if requirements::multiplies_matrices(&adapter, options) {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: a shader that uses an experimental feature wrongly may do anything. Those that use this one are
            // the crate's own: naga validates them, and the tests show that each subgroup meets every matrix together.
            experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gemmaflow"),
            required_features: features,
            required_limits: limits,
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| {
            Error::Device(DeviceError::Driver { what: format!("opening a device on '{name}'"), message: e.to_string() })
        })?;
        let faults = Arc::new(Faults::default());
        let on_lost = faults.clone();
        let on_error = faults.clone();
        device.set_device_lost_callback(move |reason, message| on_lost.lose(format!("{reason:?} {message}").trim_end()));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| on_error.uncaptured(error.to_string())));
        Ok(Arc::new(Self::assemble(adapter, device, queue, options, faults)))
    }

    /// Takes over an application's device, whose callbacks stay as the application set them.
    pub(crate) fn adopt(own: OwnDevice, options: &GpuOptions) -> Result<Arc<Self>> {
        let OwnDevice { adapter, device, queue } = own;
        requirements::check(&adapter_name(&adapter.get_info()), device.features(), &device.limits())?;
        Ok(Arc::new(Self::assemble(adapter, device, queue, options, Arc::new(Faults::default()))))
    }

    fn assemble(
        adapter: wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &GpuOptions,
        faults: Arc<Faults>,
    ) -> Self {
        let mut capabilities = Capabilities::of(&adapter, &device, &queue);
        lower(&mut capabilities.max_binding, options.max_binding);
        lower(&mut capabilities.max_buffer, options.max_buffer);
        capabilities.kernels = options.kernels;
        if options.kernels.is_portable() {
            capabilities.subgroups = false;
        }
        // An application's own device may have them, whatever the options say.
        if options.kernels.is_portable() || !options.cooperative_matrices {
            capabilities.cooperative_matrices.clear();
        }
        // The times of a run are a read-back of their own, which a run would wait for.
        capabilities.timestamps &= platform::BLOCKS;
        tracing::info!(
            adapter = %capabilities.adapter, backend = %capabilities.backend, kind = %capabilities.kind,
            f16 = capabilities.f16, subgroups = capabilities.subgroups, max_binding = capabilities.max_binding, "GPU opened"
        );
        let timeout = options.timeout.unwrap_or_else(|| default_timeout(&capabilities));
        let mut context = Self {
            adapter,
            device,
            queue,
            capabilities,
            timeout,
            memory_limit: options.memory_limit.unwrap_or(u64::MAX),
            faults,
            counters: Arc::default(),
            staging: Mutex::default(),
            waiter: Waiter::default(),
            driver_cache: DriverCache::default(),
            choices: Mutex::default(),
            tuning: options.tuning.clone(),
            checked: options.checked,
            blocks: platform::BLOCKS,
        };
        let (driver_cache, saved) = DriverCache::open(&context, options.pipeline_cache.as_deref());
        context.driver_cache = driver_cache;
        context.learn_choices(match &options.tuning {
            Tuning::Given(choices) => choices.clone(),
            _ => saved,
        });
        context
    }

    /// The adapter that was opened.
    pub fn adapter(&self) -> &wgpu::Adapter {
        &self.adapter
    }

    /// The device. Errors of calls made on it directly are seen only inside [`GpuContext::scoped`].
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue. Submit through [`GpuContext::submit`], which checks and counts.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The device's capabilities.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Running totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Findings about the device's kernels by all that share it: by loading models, or by an earlier start.
    pub fn kernel_choices(&self) -> KernelChoices {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds findings about kernels to the known ones.
    pub(crate) fn learn_choices(&self, found: KernelChoices) {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).learn(found);
    }

    /// The target that kernels are chosen for, with the findings about them.
    pub(crate) fn target(&self) -> Target {
        Target { choices: Arc::new(self.kernel_choices()), ..self.capabilities.target() }
    }

    /// False on a thread that may not block, as a browser's. Errors and the ends of submits then come by callbacks: an
    /// error is reported by a later call, a wait is a future, and what would block fails.
    pub(crate) fn blocks(&self) -> bool {
        self.blocks
    }

    pub(crate) fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The pipelines compiled so far, by all that share this device, and its [`kernel_choices`](Self::kernel_choices),
    /// as bytes for [`GpuOptions::pipeline_cache`]. `None` where there is neither: drivers hand out pipelines with
    /// Vulkan alone, and an application's own device must have `PIPELINE_CACHE`.
    pub fn pipeline_cache_bytes(&self) -> Option<Vec<u8>> {
        self.driver_cache.export(self)
    }

    /// The fate of [`GpuOptions::pipeline_cache`].
    pub fn pipeline_blob(&self) -> &PipelineBlob {
        &self.driver_cache.blob
    }

    pub(crate) fn driver_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.driver_cache.raw.as_ref()
    }

    pub(crate) fn shared_counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Returns `true` if shaders are compiled with checks; see [`GpuOptions::checked`].
    pub fn checked(&self) -> bool {
        self.checked
    }

    /// Most bytes that buffers may have at once.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    /// How long a single wait may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Checks that no loss of the device has been noticed. Also reports an error that no call caught, once.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] for ever after a loss; [`DeviceError::Driver`].
    pub fn check(&self) -> Result<()> {
        self.faults.check()
    }

    /// Asks wgpu whether the device is still there. A scope says nothing about a lost device, and an application's own
    /// loss callback must stay; but a tiny mapped buffer is only mapped on a live device.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.check()?;
        if self.maps_a_probe() { Ok(()) } else { Err(self.lose("destroyed or lost")) }
    }

    fn maps_a_probe(&self) -> bool {
        // A browser maps a new buffer of a lost device too, and tells of the loss itself.
        if !self.blocks {
            return true;
        }
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some("probe"), size: 4, usage, mapped_at_creation: true };
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let probe = self.device.create_buffer(&descriptor);
        // Without memory for four bytes nothing is known.
        let errors = [internal, memory].map(|scope| platform::at_once(scope.pop()).flatten());
        errors.iter().any(Option::is_some) || probe.slice(..).get_mapped_range_mut().is_ok()
    }

    /// The error of a call that wgpu refused. wgpu may refuse a call on a device that was just destroyed before
    /// anything tells of the loss.
    pub(crate) fn refused(&self, what: &str, message: String) -> Error {
        match self.faults.lost() {
            Some(lost) => lost,
            None if !self.maps_a_probe() => self.lose("destroyed or lost"),
            None => Error::Device(DeviceError::Driver { what: what.to_owned(), message }),
        }
    }

    pub(crate) fn lose(&self, reason: &str) -> Error {
        if self.faults.lost().is_none() {
            self.faults.lose(reason);
        }
        self.faults.lost().unwrap_or_else(|| Error::Device(DeviceError::Lost(reason.to_owned())))
    }

    /// Runs `call` with error scopes around it: wgpu's complaint comes back as an error. In a browser it comes later, as
    /// an error of [`check`](Self::check) and of all that begins with it; on an application's own device it goes to the
    /// application's handler alone.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] with wgpu's message, [`DeviceError::OutOfMemory`], [`DeviceError::Lost`].
    pub fn scoped<T>(&self, what: &str, call: impl FnOnce() -> T) -> Result<T> {
        self.scoped_allocation(what, 0, call)
    }

    pub(crate) fn scoped_allocation<T>(&self, what: &str, bytes: u64, call: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        // What a scope caught would have to be waited for; without one the next check reports it.
        if !self.blocks {
            return Ok(call());
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = call();
        // Natively these futures are ready as soon as they are made.
        let errors = [validation, internal, memory].map(|scope| platform::at_once(scope.pop()).flatten());
        match errors.into_iter().flatten().next() {
            None => Ok(value),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(Error::Device(DeviceError::OutOfMemory {
                what: what.to_owned(),
                bytes,
                adapter: self.capabilities.adapter.clone(),
            })),
            Some(error) => Err(self.refused(what, error.to_string())),
        }
    }

    /// Records commands and submits them in one go.
    ///
    /// # Errors
    /// Those of `record`; as [`GpuContext::scoped`].
    pub fn run(&self, what: &str, record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<wgpu::SubmissionIndex> {
        let commands = self.record(what, record)?;
        self.submit(what, [commands])
    }

    /// Records commands for a later [`GpuContext::submit`].
    ///
    /// # Errors
    /// As [`GpuContext::run`].
    pub(crate) fn record(
        &self,
        what: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<wgpu::CommandBuffer> {
        self.scoped(what, || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(what) });
            record(&mut encoder).map(|()| encoder.finish())
        })?
    }

    /// Hands commands to the device.
    ///
    /// # Errors
    /// As [`GpuContext::scoped`]. A device lost unnoticed is reported by the wait for the submission.
    pub fn submit(&self, what: &str, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Result<wgpu::SubmissionIndex> {
        let submission = self.scoped(what, || self.queue.submit(commands))?;
        self.counters.submitted();
        if !self.blocks {
            self.map_staged();
        }
        Ok(submission)
    }

    /// Writes a few bytes at `offset` (a multiple of 4) of `buffer`, before the next submit. For uniforms and token
    /// ids; weights go through [`super::WeightUploader`].
    ///
    /// # Errors
    /// As [`GpuContext::scoped`].
    pub fn write(&self, buffer: &super::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.scoped(buffer.label(), || self.queue.write_buffer(buffer.raw(), offset, bytes))?;
        self.counters.uploaded(bytes.len() as u64);
        Ok(())
    }
}

/// Equal when they are one. `wgpu` compares devices by numbers, which those of two instances may share.
impl PartialEq for GpuContext {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters, &other.counters)
    }
}

impl std::fmt::Debug for GpuContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuContext").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

fn lower(value: &mut u64, to: Option<u64>) {
    *value = to.map_or(*value, |to| to.min(*value));
}

#[cfg(test)]
mod tests;
