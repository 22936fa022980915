//! Which device to compute on.

use std::{fmt, str::FromStr, sync::Arc};

use super::{
    capabilities::{AdapterKind, adapter_name, driver_text},
    context::GpuContext,
    gpu_options::GpuOptions,
    requirements,
};
use crate::{Error, Result, error::DeviceError, platform};

/// The device to compute on, before it is opened.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Device {
    /// The discrete GPU, else the integrated one, else a software adapter with a warning, else the CPU reference with a
    /// warning.
    #[default]
    Auto,
    /// The best adapter, software ones included; no adapter is an error.
    Gpu,
    /// The CPU reference.
    Cpu,
    /// An adapter by its index in [`adapters`].
    Adapter(usize),
    /// The best adapter whose name contains this text, in any case.
    Named(String),
    /// A device that the application made.
    Own(OwnDevice),
    /// A device that this crate has opened already, shared between models. The options of its opening hold.
    Context(Arc<GpuContext>),
}

/// A device that an application made and shares. Its error and loss callbacks stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnDevice {
    /// The adapter that the device was made from.
    pub adapter: wgpu::Adapter,
    /// The device, made with [`super::wanted_features`] and [`super::wanted_limits`] if possible.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
}

/// An opened device.
#[derive(Debug, Clone)]
pub enum Opened {
    /// A GPU (or a software driver that behaves as one).
    Gpu(Arc<GpuContext>),
    /// The CPU reference, which needs no device.
    Reference,
}

/// One adapter of this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterDescription {
    /// Position in the listing, for [`Device::Adapter`].
    pub index: usize,
    /// The name as the driver gives it.
    pub name: String,
    /// The sort of hardware.
    pub kind: AdapterKind,
    /// `vulkan`, `metal`, `dx12`, …
    pub backend: String,
    /// The driver's name and version.
    pub driver: String,
    /// True if it computes on the CPU.
    pub is_software: bool,
    /// WGSL `f16` arithmetic.
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Storage buffers that one shader stage may bind.
    pub max_storage_buffers: u32,
    /// Why the kernels cannot run on it, if they cannot.
    pub shortfall: Option<String>,
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {}, {})", self.index, self.name, self.kind, self.backend, self.driver)?;
        self.shortfall.as_ref().map_or(Ok(()), |why| write!(f, " [unusable: {why}]"))
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `gpu`, `cpu` (any case), or a part of an adapter's name.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        match text.to_lowercase().as_str() {
            "" => Err(Error::Device(DeviceError::NoAdapter(
                "the device's name is empty; give auto, gpu, cpu or a part of an adapter's name".into(),
            ))),
            "auto" => Ok(Device::Auto),
            "gpu" => Ok(Device::Gpu),
            "cpu" => Ok(Device::Cpu),
            _ => Ok(Device::Named(text.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Gpu => f.write_str("gpu"),
            Device::Cpu => f.write_str("cpu"),
            Device::Adapter(index) => write!(f, "adapter {index}"),
            Device::Named(name) => f.write_str(name),
            Device::Own(own) => write!(f, "{} (the application's)", own.adapter.get_info().name),
            Device::Context(context) => write!(f, "{} (opened)", context.capabilities().adapter),
        }
    }
}

/// The adapters of this machine, best first: discrete, integrated, virtual, unknown, software; Vulkan and Metal before
/// DX12; else in the drivers' own order. A browser has [`adapters_async`] alone.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters() -> Vec<AdapterDescription> {
    platform::at_once(adapters_async()).unwrap_or_default()
}

/// As `adapters`, without blocking; in a browser the one that it hands out.
pub async fn adapters_async() -> Vec<AdapterDescription> {
    let found = enumerate().await;
    found.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::BROWSER_WEBGPU;
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // No kernel dispatches indirectly, so nothing needs that check's own pipelines.
    descriptor.flags = wgpu::InstanceFlags::from_build_config() - wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL;
    let instance = wgpu::Instance::new(descriptor);
    let mut found = instance.enumerate_adapters(backends).await;
    found.sort_by_key(|adapter| rank(&adapter.get_info()));
    found
}

fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match AdapterKind::of(info.device_type) {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Other => 3,
        AdapterKind::Software => 4,
    };
    (kind, u8::from(info.backend == wgpu::Backend::Dx12))
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterDescription {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    AdapterDescription {
        index,
        kind: AdapterKind::of(info.device_type),
        backend: info.backend.to_string(),
        driver: driver_text(&info),
        is_software: info.device_type == wgpu::DeviceType::Cpu,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_storage: limits.max_compute_workgroup_storage_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        shortfall: requirements::check(&adapter_name(&info), features, &limits).err().map(|e| e.to_string()),
        name: adapter_name(&info),
    }
}

impl Device {
    /// Opens the device, blocking.
    ///
    /// # Errors
    /// [`DeviceError::NoAdapter`] with the list of those present, [`DeviceError::Limit`] naming what is short,
    /// [`DeviceError::Driver`]; [`DeviceError::WouldBlock`] in a browser, where [`open_async`](Self::open_async) opens it
    /// and [`Device::Context`] hands it on.
    pub fn open(&self, options: &GpuOptions) -> Result<Opened> {
        platform::wait("opening a device", self.open_async(options))
    }

    /// [`Device::open`] without blocking.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub async fn open_async(&self, options: &GpuOptions) -> Result<Opened> {
        match self {
            Device::Cpu => return Ok(Opened::Reference),
            Device::Own(own) => return GpuContext::adopt(own.clone(), options).map(Opened::Gpu),
            Device::Context(context) => return context.check().map(|()| Opened::Gpu(context.clone())),
            _ => {}
        }
        let found = enumerate().await;
        let listing = listing(&found);
        match self {
            Device::Adapter(index) => match found.into_iter().nth(*index) {
                Some(adapter) => GpuContext::open(adapter, options).await.map(Opened::Gpu),
                None => Err(Error::Device(DeviceError::NoAdapter(format!("there is no adapter {index}; {listing}")))),
            },
            Device::Named(name) => {
                let wanted = name.to_lowercase();
                let named = found.into_iter().filter(|a| a.get_info().name.to_lowercase().contains(&wanted)).collect();
                first_that_opens(named, options).await.map_err(|failure| {
                    failure.unwrap_or_else(|| {
                        Error::Device(DeviceError::NoAdapter(format!("no adapter's name contains '{name}'; {listing}")))
                    })
                })
            }
            Device::Auto => match first_that_opens(found, options).await {
                Ok(opened) => {
                    warn_of_software(&opened);
                    Ok(opened)
                }
                Err(failure) => {
                    let why = failure.map_or(listing, |e| e.to_string());
                    tracing::warn!(%why, "no usable GPU: computing on the CPU reference, which is slow");
                    Ok(Opened::Reference)
                }
            },
            _ => first_that_opens(found, options)
                .await
                .map_err(|failure| failure.unwrap_or(Error::Device(DeviceError::NoAdapter(listing)))),
        }
    }
}

/// The first adapter that opens, in order; else why the best one does not, or nothing if there is none.
async fn first_that_opens(candidates: Vec<wgpu::Adapter>, options: &GpuOptions) -> Result<Opened, Option<Error>> {
    let mut failure = None;
    for adapter in candidates {
        let name = adapter_name(&adapter.get_info());
        match GpuContext::open(adapter, options).await {
            Ok(context) => return Ok(Opened::Gpu(context)),
            Err(error) => {
                tracing::warn!(adapter = %name, %error, "adapter passed over");
                failure.get_or_insert(error);
            }
        }
    }
    Err(failure)
}

fn warn_of_software(opened: &Opened) {
    if let Opened::Gpu(context) = opened
        && context.capabilities().kind == AdapterKind::Software
    {
        let adapter = &context.capabilities().adapter;
        tracing::warn!(%adapter, "only a software adapter was found: it computes on the CPU, correctly but slowly");
    }
}

fn listing(found: &[wgpu::Adapter]) -> String {
    match found {
        [] if !platform::BLOCKS => {
            "none was found; is WebGPU switched on in this browser, and is the page served over HTTPS or from localhost?"
                .to_owned()
        }
        [] => "none was found; is a Vulkan, Metal or DX12 driver installed?".to_owned(),
        _ => {
            let lines: Vec<_> = found.iter().enumerate().map(|(index, a)| describe(index, a).to_string()).collect();
            format!("there are: {}", lines.join("; "))
        }
    }
}
