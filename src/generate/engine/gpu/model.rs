//! The part that all generators of one model on one GPU share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tracing::Instrument;

use super::{
    BINDING_LIMIT,
    batch::{BatchPlans, Batches},
    early,
};
use crate::{
    Result,
    flow::BuiltModel,
    gemma::WeightPosition,
    generate::{ModelGraphs, ModelStats, Outputs, Profiles},
    ir::{
        DType, DimBinding, LowerOptions, Op,
        kernel::{Target, row_shards},
        sym,
    },
    lower::{lower, weights_of_one_operand},
    plan::{Plan, sampling},
    profile::CompileProfile,
    runtime::{Capabilities, GpuContext, PipelineCache, ResidentWeight, ResidentWeights, UploadProgress, WeightUploader, limit},
    weights::Tensor,
};

/// The output that tokens are chosen from.
pub(super) const LOGITS: &str = "logits";

/// Weights, pipelines and graphs.
pub(super) struct GpuModel {
    pub(super) context: Arc<GpuContext>,
    pub(super) target: Target,
    pub(super) pipelines: PipelineCache,
    pub(super) weights: HashMap<String, ResidentWeight>,
    pub(super) model: Arc<ModelGraphs>,
    /// For steps of several sequences.
    pub(super) batches: async_lock::Mutex<Batches>,
}

const _: () = {
    const fn shareable<T: Send + Sync + 'static>() {}
    shareable::<GpuModel>();
};

impl GpuModel {
    /// Uploads the weights, and compiles meanwhile what the first runs need; runs have at most `chunk` tokens, rings
    /// `ring` rows.
    pub(super) async fn new(
        context: Arc<GpuContext>,
        model: Arc<ModelGraphs>,
        profiles: &Profiles,
        (chunk, ring): (usize, usize),
        untimed: bool,
        on_progress: Option<Box<dyn FnMut(UploadProgress) -> bool + Send>>,
    ) -> Result<Self> {
        let built = model.built(true, Outputs::All, DType::F32)?;
        let target = target(&context, untimed);
        let pipelines = PipelineCache::new(&context);
        let kernels = || early::kernels(&model, &context, &target, profiles, [chunk, ring]);
        let weights = early::beside(&pipelines, kernels, upload(&context, &built, on_progress)).await?;
        let batches = async_lock::Mutex::new(Batches::new(profiles));
        Ok(Self { context, target, pipelines, weights, model, batches })
    }

    /// The plan of a run, its sizes bound, as the profile of that run says.
    pub(super) fn lower(&self, built: &BuiltModel, binding: &DimBinding, profile: &CompileProfile) -> Result<Plan> {
        let options = options(profile, self.context.capabilities());
        lower(&built.graph, binding, &self.target, &options, &ResidentWeights(&self.weights))
    }

    /// Bytes of a shard of a weight; 0 for none.
    pub(super) fn shard_bytes(&self, name: &str, shard: usize) -> u64 {
        let shard = self.weights.get(name).and_then(|weight| weight.shards.get(shard));
        shard.map_or(0, |shard| shard.bytes)
    }

    /// The plans of a step of several sequences; see [`BatchPlans::lower`].
    pub(super) fn lower_batch(&self, built: &BuiltModel, profiles: &Profiles, sizes: [usize; 3]) -> Result<BatchPlans> {
        BatchPlans::lower(self.context.capabilities(), &self.target, built, profiles, &ResidentWeights(&self.weights), sizes)
    }

    /// The plan that chooses the likeliest token of each of the `rows` rows of logits that `plan` makes.
    pub(super) fn argmax(&self, rows: usize, plan: &Plan) -> Plan {
        argmax(rows, self.model.config.vocab_size, plan, &self.target)
    }

    /// Finds out what the profiles ask for and this device or model does not do, before anything runs.
    pub(super) fn check(&self, profiles: &Profiles, ring: usize) -> Result<()> {
        let built = self.model.built(true, Outputs::Last, profiles.kv())?;
        for (tokens, profile) in [(1, profiles.decode()), (2, profiles.prefill())] {
            let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, tokens).with(sym::RING, ring);
            self.lower(&built, &binding, profile)?;
        }
        Ok(())
    }

    /// Elements of the weights that each token is multiplied by.
    pub(super) fn elements(&self) -> u64 {
        let looked_up = WeightPosition::PleEmbed.to_string();
        let multiplied = self.weights.iter().filter(|(name, _)| **name != looked_up);
        multiplied.map(|(name, weight)| weight.elements() - self.unchosen(name, weight.elements())).sum()
    }

    /// Of a weight's bytes or elements those of experts that a token does not take.
    fn unchosen(&self, name: &str, all: u64) -> u64 {
        let config = &self.model.config;
        match name.rsplit('.').next() {
            Some("expert_gate_up" | "expert_down") => {
                config.moe.map_or(0, |moe| all / moe.num_experts as u64 * (moe.num_experts - moe.top_k_experts) as u64)
            }
            _ => 0,
        }
    }

    /// Sizes of what is shared.
    pub(super) fn stats(&self) -> ModelStats {
        let bytes = |name: &str| self.weights.get(name).map_or(0, ResidentWeight::byte_len);
        let weight_bytes: u64 = self.weights.values().map(ResidentWeight::byte_len).sum();
        let config = &self.model.config;
        // Of a table that is only looked up one row is read.
        let unread = |name: WeightPosition, rows: usize| {
            let bytes = bytes(&name.to_string());
            bytes - bytes / rows.max(1) as u64
        };
        let untied = if config.tie_word_embeddings { 0 } else { unread(WeightPosition::Embed, config.vocab_size) };
        let unread =
            untied + unread(WeightPosition::PleEmbed, config.per_layer_input.and_then(|input| input.vocab_size).unwrap_or(0));
        let unchosen: u64 = self.weights.iter().map(|(name, weight)| self.unchosen(name, weight.byte_len())).sum();
        ModelStats {
            device: self.context.capabilities().adapter.clone(),
            weight_bytes,
            split_weights: self.weights.values().filter(|w| w.shards.len() > 1).count(),
            bytes_per_token: weight_bytes - unread - unchosen,
            ..ModelStats::default()
        }
    }
}

/// The target of a model's kernels on a device, if `untimed` without the findings of timings.
pub(super) fn target(context: &GpuContext, untimed: bool) -> Target {
    let choices = context.kernel_choices();
    let choices = Arc::new(if untimed { choices.untimed() } else { choices });
    Target { choices, ..context.capabilities().target() }
}

/// The options of lowering that `profile` gives for a generator.
pub(super) fn options(profile: &CompileProfile, capabilities: &Capabilities) -> LowerOptions {
    LowerOptions { chosen_from: Some(LOGITS.into()), ..profile.options(&capabilities.backend) }
}

/// As [`GpuModel::argmax`].
pub(super) fn argmax(rows: usize, vocab_size: usize, plan: &Plan, target: &Target) -> Plan {
    let maxima = plan.output(&sampling::maxima_of(LOGITS)).is_some();
    sampling::argmax(rows, vocab_size, maxima, target)
}

pub(super) async fn upload(
    context: &Arc<GpuContext>,
    built: &BuiltModel,
    on_progress: Option<Box<dyn FnMut(UploadProgress) -> bool + Send>>,
) -> Result<HashMap<String, ResidentWeight>> {
    check_bindings(context.capabilities(), built)?;
    let mut uploader = WeightUploader::new(context)?;
    if let Some(on_progress) = on_progress {
        uploader = uploader.on_progress(on_progress);
    }
    let order = upload_order(built);
    let bytes = || order.iter().map(|(_, tensor)| tensor.byte_len() as u64).sum::<u64>();
    let device = &context.capabilities().adapter;
    let span = tracing::debug_span!("load", %device, tensors = order.len(), bytes = bytes());
    let upload = async {
        uploader.reserve(order.iter().map(|(_, t)| (t.dtype(), t.shape())))?;
        let mut weights = HashMap::new();
        for (name, tensor) in &order {
            weights.insert((*name).clone(), uploader.upload_async(tensor).await?);
        }
        uploader.finish_async().await?;
        Ok(weights)
    };
    upload.instrument(span).await
}

/// All weights that the graph reads, those that multiply one value together, so that they adjoin where their sizes
/// allow.
pub(super) fn upload_order(built: &BuiltModel) -> Vec<(&String, &Tensor)> {
    let read: BTreeSet<&str> = built
        .graph
        .nodes()
        .iter()
        .filter_map(|node| match &node.op {
            Op::Weight(weight) => Some(weight.name.as_str()),
            _ => None,
        })
        .collect();
    let mut left: BTreeMap<&String, &Tensor> = built.params.iter().filter(|(name, _)| read.contains(name.as_str())).collect();
    let mut order = Vec::new();
    for name in weights_of_one_operand(&built.graph).iter().flatten() {
        order.extend(left.remove_entry(name));
    }
    order.extend(left);
    order
}

/// Refuses weights that no kernel could bind, before any of them travels: matrices are cut at multiples of 64 rows, the
/// rest is bound whole.
pub(super) fn check_bindings(capabilities: &Capabilities, built: &BuiltModel) -> Result<()> {
    let target = capabilities.target();
    for (name, tensor) in upload_order(built) {
        let whole = tensor.byte_len() as u64;
        let shape = tensor.shape();
        let matrix = shape.len() == 2;
        let fits =
            if matrix { row_shards(tensor.dtype(), shape, target.max_binding).is_ok() } else { whole <= target.max_binding };
        if !fits {
            let row = tensor.dtype().resident_row_bytes(shape.last().copied().unwrap_or(1)).unwrap_or(whole);
            let needed = if matrix { row.saturating_mul(shape[0].min(64) as u64) } else { whole };
            let part = if matrix { "64 rows of" } else { "all of" };
            let advice = format!("{part} the weight '{name}' must fit a binding: raise the limit or choose another adapter");
            return Err(limit(&capabilities.adapter, BINDING_LIMIT, target.max_binding, needed, &advice));
        }
    }
    Ok(())
}
