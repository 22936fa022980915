//! The graph of a drafter (docs/gemma.md, Drafters): one token in, one step of its layers over the target's keys and
//! values, logits and a stand-in for the target's next hidden state out.

use std::sync::Arc;

use super::{
    Centroids, GemmaConfig, GemmaDrafterConfig, GemmaRmsNormStage, LayerKind, LmHeadStage, LogitSoftcapStage, RopeTablesStage,
    SelfAttnPrefillSpec, WeightPosition,
    attention::{cache_name, resident_cache},
    blocks::project,
    gemma_prefill_layer_composed,
};
use crate::{
    Result,
    flow::{EmitContext, ModelFlow},
    ir::{
        DType, MaskKind, NodeId, Shape,
        ops::{Concat, ExpertLinear, PositionRule, Role, Route},
    },
    weights::Tensor,
};

/// The name in a drafter's graph of the target's embedding.
pub(crate) const TARGET_EMBED: &str = "target.embed";

/// The name of the input and output `[1, 1, B]` that hold the target's hidden state after its final norm, or what
/// stands for it.
pub(crate) const HIDDEN: &str = "hidden";

/// The drafter's embedding with its rows in the order in which centroids have the tokens, by its name and its loader's
/// key.
pub(crate) const ORDERED_EMBED: &str = "draft.ordered_embed";

/// The output that says which centroids were chosen.
pub(crate) const CHOSEN: &str = "chosen";

/// The flow of a drafter for `target`, whose embedding is of type `embed` and whose caches are of type `kv`.
///
/// Inputs `input_ids` `[1, 1]` and `hidden` `[1, 1, B]`, the target's caches, and positions: that of the last cached
/// key, the rotary rows being those of the position after it. Outputs `hidden` `[1, 1, B]` and `logits` `[1, 1, V]`;
/// where the head has centroids the logits are of some tokens, and the output [`CHOSEN`] says of which.
///
/// # Errors
/// As [`GemmaDrafterConfig::validate_for`].
pub(crate) fn drafter_flow(drafter: &GemmaDrafterConfig, target: &GemmaConfig, embed: DType, kv: DType) -> Result<ModelFlow> {
    drafter.validate_for(target)?;
    let own = Arc::new(drafter.layers.clone());
    let width = drafter.backbone_hidden_size;
    let vocab = target.vocab_size;
    let flow = ModelFlow::new("gemma_drafter", 1, 1).input("input_ids", DType::U32, [1, 1]).bind_resident_cache(kv);
    let config = own.clone();
    let flow = flow.custom("draft_input", move |context, ids| {
        let table = context.graph.weight(TARGET_EMBED, embed, &[vocab, width])?;
        let token = context.graph.gather(table, ids)?;
        let token = context.graph.scale(token, (width as f32).sqrt())?;
        let hidden = context.graph.input(HIDDEN, Role::Caller, DType::F32, [1, 1, width])?;
        let both = context.graph.push(Concat { axis: 2 }, &[token, hidden])?;
        Ok(project(context, both, config.arch, WeightPosition::DraftInput, config.hidden_size)?)
    });
    let flow = flow
        .custom("next_position", |context, x| {
            context.positions = PositionRule::From(1);
            Ok(x)
        })
        .stage(RopeTablesStage::new(&own)?)
        .custom("last_position", |context, x| {
            context.positions = PositionRule::From(0);
            Ok(x)
        });
    let layers = (0..own.num_hidden_layers).map(|layer| layer_attention(drafter, target, layer)).collect::<Result<Vec<_>>>()?;
    let shared = layers.clone();
    let flow = flow.custom("target_keys", move |context, x| {
        shared.iter().try_for_each(|spec| share_keys(context, spec, kv))?;
        Ok(x)
    });
    let flow = layers.iter().fold(flow, |flow, spec| flow.raw_stage(gemma_prefill_layer_composed(&own, spec, None)));
    let config = own.clone();
    let flow = flow.stage(GemmaRmsNormStage::final_norm(&own)).custom("draft_output", move |context, x| {
        let hidden = project(context, x, config.arch, WeightPosition::DraftOutput, width)?;
        context.output(HIDDEN, hidden);
        Ok(x)
    });
    let flow = match drafter.centroids {
        Some(centroids) => chosen_tokens(flow, &drafter.layers, centroids),
        None if own.tie_word_embeddings => flow.stage(LmHeadStage::tied(&own)),
        None => flow.stage(LmHeadStage::separate(&own)),
    };
    let flow = match own.final_logit_softcapping {
        Some(cap) => flow.stage(LogitSoftcapStage::new(cap)),
        None => flow,
    };
    Ok(flow.output("logits"))
}

/// Logits `[1, 1, k·V/C]` of the tokens of the likeliest centroids, and which those are: the output `chosen`
/// `[1, 1, 2, k]`, a [`Route`]. A centroid's tokens are the rows of the embedding in the order of the tokens: an
/// expert's matrix.
fn chosen_tokens(flow: ModelFlow, layers: &GemmaConfig, centroids: Centroids) -> ModelFlow {
    let arch = layers.arch;
    let width = layers.hidden_size;
    let vocab = layers.vocab_size;
    let Centroids { num_centroids: experts, intermediate_top_k: k } = centroids;
    flow.custom("chosen_tokens", move |context, x| {
        let likely = project(context, x, arch, WeightPosition::DraftCentroids, experts)?;
        let evenly = Tensor::from_f32("draft_centroid_scales", vec![experts], &vec![1.0; experts]);
        let evenly = context.own_weight("draft_centroid_scales", evenly)?;
        let route = context.graph.push(Route { k }, &[likely, evenly])?;
        context.side_output(CHOSEN, route);
        let embed = context.weight(ORDERED_EMBED, ORDERED_EMBED, &[vocab, width])?;
        let x = context.graph.reshape(x, [1, 1, 1, width])?;
        let logits = context.graph.push(ExpertLinear { experts }, &[x, embed, route])?;
        Ok(context.graph.reshape(logits, [1, 1, k * (vocab / experts)])?)
    })
}

/// The attention of a layer, over the keys of a layer of the target.
fn layer_attention(drafter: &GemmaDrafterConfig, target: &GemmaConfig, layer: usize) -> Result<SelfAttnPrefillSpec> {
    let source = drafter.kv_source(layer, target)?;
    let mask = match drafter.layers.layer_types[layer] {
        LayerKind::Full => MaskKind::Causal,
        LayerKind::Sliding => MaskKind::SlidingWindow(drafter.draft_window),
    };
    let num_kv_heads = target.layer_kv_heads(source);
    Ok(SelfAttnPrefillSpec { mask, num_kv_heads, kv_source: Some(source), ..SelfAttnPrefillSpec::of(&drafter.layers, layer) })
}

/// Lets attention find the target's caches as it finds the keys of an earlier layer.
fn share_keys(context: &mut EmitContext, spec: &SelfAttnPrefillSpec, kv: DType) -> Result<()> {
    let Some(source) = spec.kv_source else { return Ok(()) };
    let (rows, positions) = resident_cache(spec.mask);
    let rows_of = Shape(vec![1.into(), rows.into(), spec.num_kv_heads.into(), spec.head_dim.into()]);
    for (what, name) in [("keys", cache_name("k", source)), ("values", cache_name("v", source))] {
        let dims = rows_of.clone();
        let name = name.clone();
        context.shared(&format!("layer.{source}.{what}"), |context| cache(context, &name, kv, dims))?;
    }
    let dims = Shape(vec![1.into(), rows.into()]);
    context.shared(positions, |context| cache(context, positions, DType::I32, dims))?;
    Ok(())
}

fn cache(context: &mut EmitContext, name: &str, dtype: DType, dims: Shape) -> Result<NodeId> {
    context.graph.input(name, Role::Cache, dtype, dims)
}
