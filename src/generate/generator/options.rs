//! How a model is loaded for generation.

use std::{sync::Arc, time::Duration};

use crate::{
    Error, Result,
    files::ModelPath,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{CancelToken, FlowHook, MemoryPlan, ModelGraphs, Profiles},
    profile::CompileProfile,
    runtime::{Capabilities, GpuOptions, OnProgress},
    weights::{Quantise, QuantisedLoader, WeightLoader},
};

/// Where a table is kept of which each token reads one row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TablePlacement {
    /// On the device, unless a [`memory_budget`](GeneratorOptions::memory_budget) leaves no room for it there.
    #[default]
    Auto,
    /// On the device.
    Device,
    /// On the host, in the file: rows travel with the tokens of a run. As the host must know a token to look up its
    /// row, no step begins before the last one is read.
    Host,
}

/// How to load a model for generation.
#[derive(Default)]
pub struct GeneratorOptions {
    /// Most tokens the context may hold; default and upper limit: the model's own `max_position_embeddings`.
    pub context: Option<usize>,
    /// Most tokens of one prefill submit; a power of two. Default: 128.
    pub prefill_chunk: Option<usize>,
    /// About how long one submit of a run may keep the device: an application that draws on the same device gets its
    /// own submits in between. A run that takes longer goes to the device in several submits of consecutive dispatches,
    /// each when the one before is done; the values are the same to the bit. A dispatch is never cut: fewer tokens of a
    /// prompt are run at once where one would take longer. The largest dispatch of a single token, mostly the head's
    /// product, is the least that can be had. A lower [`GpuOptions::max_binding`] makes several dispatches of it. The
    /// first run of a plan is cut by what the slowest device would take, later ones by what was measured. Steps run
    /// ahead only where two fit. An answer is cancelled between two slices, and async ways to generate wait for none of
    /// them; steps of several generators, with a drafter, and with hooks beside others wait for all slices of a step.
    /// Uploads while loading and the drafter's own runs are not cut. No effect on the reference. Default: no bound, one
    /// submit a run.
    pub submit_time: Option<Duration>,
    /// Conversations that shall run at once, each with a context of that length: [`MemoryPlan`] counts their caches,
    /// and what steps of all together take ([`GemmaGenerator::decode_batch`](super::GemmaGenerator::decode_batch)).
    /// More can be opened as long as there is memory. Default: 1.
    pub conversations: Option<usize>,
    /// Most bytes of device memory that loading and running may take, as [`MemoryPlan::peak`] counts them; a model that
    /// needs more is refused before anything is allocated. The caches are then made at once for the whole context and
    /// never grow. A [`Model`](crate::conversation::Model) leaves room for its towers. No effect on the reference.
    /// Default: no limit.
    pub memory_budget: Option<u64>,
    /// Where the context does not fit the budget or the device's limits, take the longest that does
    /// ([`GemmaGenerator::max_context`](super::GemmaGenerator::max_context) tells) instead of refusing. Default: no.
    pub shorten_context: bool,
    /// Most soft tokens of a picture in models whose pictures' tokens see each other (Gemma 3; Gemma 4 without PLE):
    /// they are run at once, and the caches of the sliding layers have room for so many rows besides their window. No
    /// effect on other models. Default: none, for text alone.
    pub longest_picture: Option<usize>,
    /// How to open the GPU.
    pub gpu: GpuOptions,
    /// How runs of several tokens and whole sequences are compiled. Default: the preset.
    pub prefill_profile: CompileProfile,
    /// How runs of one token are compiled. Its `precision.kv` must be that of `prefill_profile`. Default: the preset.
    pub decode_profile: CompileProfile,
    /// Packs f32, f16 and bf16 matrices as they are loaded ([`QuantisedLoader`] says which). Default: they stay as they
    /// are.
    pub quantise: Option<Quantise>,
    /// Where the tables are kept that each layer has of its own (Gemma 3n, Gemma 4's E-series). No effect on other
    /// families.
    pub per_layer_tables: TablePlacement,
    /// The same tokens give the same logits, to the bit, on one device with one driver: whatever was cached before,
    /// however a text came about, in one prompt or step by step, alone or
    /// [together](super::GemmaGenerator::decode_batch) with others. Without it numbers of different kernels meet, and
    /// where two tokens are as likely up to rounding either may come. Costs speed: prompts go in runs of 16 tokens and
    /// of one, too few for cooperative matrices, steps together one after the other, and every 16th step takes a run of
    /// so many. The bits are those of the plans for steps too
    /// ([`GemmaGenerator::with_decode_cache`](super::GemmaGenerator::with_decode_cache)), of the context's length where
    /// it is no power of two, and of the profiles. Default: no.
    pub deterministic: bool,
    /// Checkpoints ([`GemmaGenerator::checkpoint`](super::GemmaGenerator::checkpoint)) that a generator keeps, each of
    /// which may come to hold a copy of the sliding layers' caches ([`MemoryPlan::sliding_cache`]), which no plan
    /// counts. Default: 2; none under a memory budget.
    pub checkpoints: Option<usize>,
    /// Load progress.
    pub on_progress: Option<OnProgress>,
    /// Ends loading with [`Error::Cancelled`] when it is cancelled.
    pub cancel: Option<CancelToken>,
    /// Changes the flow; see [`with_flow`](Self::with_flow).
    pub flow: Option<FlowHook>,
}

impl GeneratorOptions {
    /// Most tokens that the context may hold, before a device is looked at.
    pub(in crate::generate) fn capacity(&self, config: &GemmaConfig) -> Result<usize> {
        if let Some(found) = self.prefill_chunk.filter(|c| !c.is_power_of_two()) {
            let option = "GeneratorOptions::prefill_chunk";
            let expected = "a power of two".to_string();
            return Err(Error::Option { option, found, expected });
        }
        if self.conversations == Some(0) {
            let option = "GeneratorOptions::conversations";
            let expected = "at least 1".to_string();
            return Err(Error::Option { option, found: 0, expected });
        }
        let limit = config.max_position_embeddings;
        match self.context.unwrap_or(limit) {
            capacity if (1..=limit).contains(&capacity) => Ok(capacity),
            capacity => Err(Error::ContextFull { needed: capacity, capacity: limit }),
        }
    }

    /// The model whose weights `loader` gives, as these options change them.
    pub(in crate::generate) fn model(&self, config: &GemmaConfig, loader: &mut dyn WeightLoader) -> Result<ModelGraphs> {
        let flow = self.flow.clone();
        let model = match self.quantise {
            Some(to) => ModelGraphs::new(config.clone(), &mut QuantisedLoader::new(loader, to), flow)?,
            None => ModelGraphs::new(config.clone(), loader, flow)?,
        };
        let model = model.with_longest_picture(self.longest_picture.unwrap_or(0));
        model.tell_unused()?;
        Ok(model)
    }

    /// The model with its tables where these options want them.
    pub(in crate::generate) fn placed(
        &self,
        device: &Capabilities,
        model: ModelGraphs,
        profiles: &Profiles,
        context: usize,
    ) -> Result<ModelGraphs> {
        let host = match self.per_layer_tables {
            TablePlacement::Device => false,
            TablePlacement::Host => true,
            TablePlacement::Auto if self.memory_budget.is_none() => false,
            TablePlacement::Auto => !MemoryPlan::of(device, &model, profiles, context, self)?.fits(),
        };
        Ok(if host { model.with_host_tables() } else { model })
    }

    /// The context that the device has room for.
    pub(super) fn fitting(
        &self,
        device: &Capabilities,
        model: &ModelGraphs,
        profiles: &Profiles,
        context: usize,
    ) -> Result<usize> {
        // Caches that may never grow to the model's own limit are no reason to refuse it.
        if self.context.is_none() && self.memory_budget.is_none() && !self.shorten_context {
            return Ok(context);
        }
        let plan = MemoryPlan::of(device, model, profiles, context, self)?;
        tracing::debug!(%plan, "planned memory");
        if self.shorten_context && !plan.fits() && plan.longest_context > 0 {
            return Ok(plan.longest_context);
        }
        plan.check().map(|()| context)
    }

    /// Changes the flow of every graph that the generator builds, before it chooses the head. Weights that stages add
    /// of their own travel with the model's; a layer that is left out has neither weights on the device nor a cache.
    pub fn with_flow(mut self, f: impl for<'a> Fn(GemmaFlow<'a>) -> GemmaFlow<'a> + Send + Sync + 'static) -> Self {
        self.flow = Some(Arc::new(f));
        self
    }

    /// The defaults with the profiles of the file [`GEMMA_PROFILE_FILE`](crate::profile::GEMMA_PROFILE_FILE) beside the
    /// weights, or with the presets where there is none.
    ///
    /// # Errors
    /// As [`CompileProfile::near_weights`].
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        let weights: &ModelPath = &weights.into();
        let prefill_profile = CompileProfile::near_weights(weights, false)?;
        let decode_profile = CompileProfile::near_weights(weights, true)?;
        Ok(Self { prefill_profile, decode_profile, ..Self::default() })
    }
}
