//! The device memory of an embedder, before any of it is taken.

use super::{
    EmbedderOptions, GemmaEmbedder,
    batches::largest_runs,
    runs::{Room, build},
};
use crate::{
    Result,
    flow::{BuiltModel, ModelParams},
    gemma::GemmaConfig,
    generate::{MemoryPlan, largest},
    ir::{DimBinding, sym},
    runtime::{Capabilities, PlannedRuns, PlannedWeights, StagingRing},
    weights::{QuantisedLoader, WeightLoader, WeightMap},
};

impl GemmaEmbedder {
    /// The memory of an embedder with these options on a device with these capabilities; `context` is the most tokens
    /// of a text. It has the weights, then the inputs and intermediate results of the longest text and of the largest
    /// runs of 2, 4, 8 and 16 texts. There are no caches. Takes the weights out of the loader and reads none.
    ///
    /// Of a model that takes pictures or sounds it has the same runs with those among the texts too, and the
    /// [towers](EmbedderOptions::towers) that this build computes.
    ///
    /// The figures leave out the inputs of smaller runs, a few MB in all, and scratch that runs in ascending sizes make
    /// up to four times as large.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for options out of their range; a weight that is missing or misshapen;
    /// [`DeviceError::Limit`](crate::error::DeviceError::Limit) for one that no kernel could bind, and for a text so
    /// long that no kernel could bind its intermediate results.
    pub fn memory_plan(
        config: &GemmaConfig,
        loader: &mut dyn WeightLoader,
        device: &Capabilities,
        options: &EmbedderOptions,
    ) -> Result<MemoryPlan> {
        config.validate()?;
        let (most, _) = options.sizes(config)?;
        let room = Room { texts: 1, tokens: most, soft: false };
        let single = match options.quantise {
            Some(to) => build(config, room, options.flow.as_ref(), &mut QuantisedLoader::new(loader, to))?,
            None => build(config, room, options.flow.as_ref(), loader)?,
        };
        plan(config, &single.params, device, options)
    }
}

/// As [`GemmaEmbedder::memory_plan`], of weights that were taken.
pub(super) fn plan(
    config: &GemmaConfig,
    params: &ModelParams,
    device: &Capabilities,
    options: &EmbedderOptions,
) -> Result<MemoryPlan> {
    let (most, run_tokens) = options.sizes(config)?;
    let weights = PlannedWeights::of(device, params)?;
    let map = WeightMap::from_tensors(params.values().cloned().collect());
    let takes_media = config.multimodal.image.or(config.multimodal.audio).is_some();
    let rooms = |soft| largest_runs(run_tokens, most).into_iter().map(move |(texts, _)| Room { texts, tokens: most, soft });
    let graphs: Vec<(usize, BuiltModel)> = rooms(false)
        .chain(rooms(true).filter(|_| takes_media))
        .map(|room| Ok((room.texts, build(config, room, options.flow.as_ref(), &mut map.clone())?)))
        .collect::<Result<_>>()?;
    #[cfg(any(feature = "audio", feature = "vision"))]
    let towers = super::towers::memory(config, device, options);
    #[cfg(not(any(feature = "audio", feature = "vision")))]
    let towers = 0;
    let at = |context: usize| -> Result<MemoryPlan> {
        let rooms = largest_runs(run_tokens, context);
        let room = |texts: usize| rooms.iter().find(|(own, _)| *own == texts).map(|(_, room)| *room);
        let runs =
            graphs.iter().filter_map(|(texts, built)| Some((&built.graph, DimBinding::new().with(sym::SEQ, room(*texts)?))));
        let runs = PlannedRuns::of_graphs(device, runs, &options.profile)?;
        Ok(MemoryPlan {
            device: device.adapter.clone(),
            context,
            tensors: params.len(),
            weights: weights.bytes,
            scratch: runs.bytes,
            towers,
            loading: StagingRing::bytes(device),
            largest_binding: runs.largest_binding.max(weights.largest_binding()),
            max_binding: device.target().max_binding,
            budget: options.memory_budget,
            longest_context: most,
            ..MemoryPlan::default()
        })
    };
    let plan = at(most)?;
    let Some(budget) = options.memory_budget else { return Ok(plan) };
    let longest_context = largest(most, budget, |context| at(context).map(|plan| plan.peak()))?;
    Ok(MemoryPlan { longest_context, ..plan })
}
