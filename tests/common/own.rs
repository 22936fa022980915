//! Devices that a test makes itself.
#![allow(dead_code)] // Each test binary uses a part.

use std::sync::Arc;

use gemmaflow::{
    Result,
    runtime::{Device, GpuContext, GpuOptions, Opened, OwnDevice, wgpu},
};

/// The first adapter, found without this crate.
pub fn any_adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    found.into_iter().next().expect("a GPU adapter (lavapipe will do)")
}

pub fn own(adapter: wgpu::Adapter, features: wgpu::Features, limits: wgpu::Limits) -> OwnDevice {
    let descriptor = wgpu::DeviceDescriptor { required_features: features, required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    OwnDevice { adapter, device, queue }
}

pub fn adopt(own: OwnDevice) -> Result<Arc<GpuContext>> {
    match Device::Own(own).open(&GpuOptions::default())? {
        Opened::Gpu(context) => Ok(context),
        Opened::Reference => panic!("an own device opened the reference"),
    }
}

/// Asks for the largest texture of the device's limits, called "a huge texture". With its adapter's limits that is
/// terabytes (8 TiB on lavapipe), which no driver has; buffers will not do, as software drivers promise some that they
/// do not have.
pub fn huge_texture(context: &GpuContext) -> Result<wgpu::Texture> {
    let limits = context.device().limits();
    let side = limits.max_texture_dimension_2d;
    let descriptor = wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width: side, height: side, depth_or_array_layers: limits.max_texture_array_layers },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba32Uint,
        usage: wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    };
    context.scoped("a huge texture", || context.device().create_texture(&descriptor))
}
