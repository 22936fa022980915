//! The engine where no kernel of a device is right.

use std::sync::Arc;

use crate::{
    Error, Result,
    error::DeviceError,
    generate::{
        Engine, ModelGraphs, Profiles, ReferenceEngine,
        engine::{EngineOptions, GpuEngine},
    },
    runtime::{Device, GpuContext},
};

/// The engine on a device; where no kernel is right on one that was not asked for, that of the reference.
pub(super) async fn on_gpu(
    device: &Device,
    context: Arc<GpuContext>,
    model: Arc<ModelGraphs>,
    profiles: Profiles,
    options: EngineOptions,
) -> Result<Engine> {
    let chunk = options.chunk;
    let made = GpuEngine::new(context, model.clone(), profiles.clone(), options).await;
    or_reference(device, made.map(Engine::from), || Ok(ReferenceEngine::new(model, profiles, chunk)?.into()))
}

fn or_reference<T>(device: &Device, made: Result<T>, reference: impl FnOnce() -> Result<T>) -> Result<T> {
    match made {
        Err(why @ Error::Device(DeviceError::WrongKernel { .. })) if *device == Device::Auto => {
            tracing::warn!(%why, "computing on the CPU reference, which is slow");
            reference()
        }
        made => made,
    }
}

#[cfg(test)]
mod tests;
