//! The memory plan of a model with its towers.

use super::{Model, model::Parts, senses::Towers};
use crate::{
    Error, Result,
    files::ModelPath,
    generate::{GeneratorOptions, MemoryPlan, no_device},
    runtime::{Device, Opened},
};

impl Parts {
    /// Bytes that a budget of memory must leave for the towers; 0 without a budget.
    pub(super) async fn towers_within(&self, device: &Device, options: &GeneratorOptions) -> Result<u64> {
        if options.memory_budget.is_none() || !self.has_towers() {
            return Ok(0);
        }
        match device.open_async(&options.gpu).await? {
            Opened::Gpu(gpu) => Ok(self.senses.memory(&self.config, gpu.capabilities(), options)),
            Opened::Reference => Ok(0),
        }
    }

    fn has_towers(&self) -> bool {
        let multimodal = &self.config.multimodal;
        multimodal.vision.is_some() || multimodal.audio_tower.is_some()
    }
}

impl Model {
    /// The memory plan of a model that is [opened](Self::open_with_towers) with these options: as
    /// [`MemoryPlan::for_model`], with room for a picture, and with the towers that the model has and this build
    /// computes, unless they are never loaded. Reads headers; opens the device and allocates nothing on it.
    ///
    /// Soft tokens are kept on the host.
    ///
    /// # Errors
    /// As [`MemoryPlan::for_model`] and [`MemoryPlan::for_options`].
    pub fn memory_plan(
        path: impl Into<ModelPath>,
        device: &Device,
        options: GeneratorOptions,
        towers: Towers,
    ) -> Result<MemoryPlan> {
        Self::memory_plan_of(&path.into(), device, options, towers)
    }

    fn memory_plan_of(path: &ModelPath, device: &Device, options: GeneratorOptions, towers: Towers) -> Result<MemoryPlan> {
        let (mut loader, mut parts) = Parts::near_weights(path, None, towers)?;
        let Opened::Gpu(gpu) = device.open(&options.gpu)? else {
            return Err(no_device());
        };
        let device = gpu.capabilities();
        let options = parts.senses.with_room(options, &parts.config);
        parts.senses.follow(&options);
        let budget = options.memory_budget;
        let towers = parts.senses.memory(&parts.config, device, &options);
        let options = beside(options, towers);
        let plan = MemoryPlan::for_options(parts.config, loader.as_mut(), device, &options)?;
        Ok(MemoryPlan { towers, budget, ..plan })
    }
}

/// The options with a budget that leaves so many bytes for the towers.
pub(super) fn beside(options: GeneratorOptions, towers: u64) -> GeneratorOptions {
    let memory_budget = options.memory_budget.map(|budget| budget.saturating_sub(towers));
    GeneratorOptions { memory_budget, ..options }
}

/// The error of a generator whose budget leaves so many bytes for the towers.
pub(super) fn told(error: Error, towers: u64, budget: Option<u64>) -> Error {
    match error {
        Error::DoesNotFit(plan) => Error::DoesNotFit(Box::new(MemoryPlan { towers, budget, ..*plan })),
        other => other,
    }
}
