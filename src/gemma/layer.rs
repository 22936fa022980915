//! One decoder layer, for every family of this crate, and what a `layer` hook sees of it.

use std::sync::Arc;

use super::{
    AltUpLayerStage, FactorStage, GeGluStage, GemmaConfig, GemmaLayerStyle, GemmaRmsNormStage, LayerKind, LayerWeight,
    MoeFfnStage, PleGateStage, SelfAttentionStage, SelfAttnPrefillSpec, moe::BesideExperts,
};
use crate::{
    flow::{FlowStage, LayerStack, SideOutputs},
    ir::{MaskKind, Shape},
};

/// One layer of a decode graph: one new token after the rows that the caller holds.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaDecodeLayerSpec {
    /// How the layer is put together.
    pub style: GemmaLayerStyle,
    /// Query heads N.
    pub num_heads: usize,
    /// Head dimension H.
    pub head_dim: usize,
    /// KV heads K.
    pub num_kv_heads: usize,
    /// Query heads to a KV head: G = N/K. Tells; the numbers of heads decide.
    pub kv_group_size: usize,
    /// Dimensions of a head that are rotated, the first ones; as [`SelfAttnPrefillSpec::with_n_rot`] has it.
    pub n_rot: usize,
    /// The rotary table, by name.
    pub rope_table: String,
    /// True if the values are the keys, before norm and rotation.
    pub k_eq_v: bool,
    /// The earlier layer whose keys and values this one attends to; none: its own.
    pub kv_source: Option<usize>,
    /// Added under the root of the norms on queries and keys.
    pub eps: f32,
    /// True if the caller gives a mask over the keys. Tells; the flow decides.
    pub use_custom_mask: bool,
    /// The stream, `[B, 1, D]`. Tells; the flow decides.
    pub hidden_shape: Shape,
    /// Which keys a query sees, besides the caller's mask.
    pub mask: MaskKind,
    /// Factor on the scores.
    pub score_scale: f32,
    /// `cap · tanh(score / cap)`.
    pub attn_logit_softcap: Option<f32>,
    /// True if the soft tokens of one picture see each other.
    pub bidirectional_pictures: bool,
}

impl GemmaDecodeLayerSpec {
    pub(super) fn of(config: &GemmaConfig, layer: usize, batch: usize, use_custom_mask: bool) -> Self {
        let attn = SelfAttnPrefillSpec::of(config, layer);
        Self {
            style: attn.style,
            num_heads: attn.num_heads,
            head_dim: attn.head_dim,
            num_kv_heads: attn.num_kv_heads,
            kv_group_size: attn.num_heads / attn.num_kv_heads.max(1),
            n_rot: attn.n_rot,
            rope_table: attn.rope_table,
            k_eq_v: attn.k_eq_v,
            kv_source: attn.kv_source,
            eps: attn.eps,
            use_custom_mask,
            hidden_shape: Shape::from([batch, 1, config.hidden_size]),
            mask: attn.mask,
            score_scale: attn.score_scale,
            attn_logit_softcap: attn.softcap,
            bidirectional_pictures: attn.bidirectional_pictures,
        }
    }

    /// The attention of this layer: that of prefill with one new token.
    pub fn attention(&self, layer: usize) -> SelfAttnPrefillSpec {
        SelfAttnPrefillSpec {
            layer,
            num_heads: self.num_heads,
            head_dim: self.head_dim,
            num_kv_heads: self.num_kv_heads,
            n_rot: self.n_rot,
            mask: self.mask,
            score_scale: self.score_scale,
            softcap: self.attn_logit_softcap,
            rope_table: self.rope_table.clone(),
            k_eq_v: self.k_eq_v,
            kv_source: self.kv_source,
            style: self.style,
            eps: self.eps,
            bidirectional_pictures: self.bidirectional_pictures,
        }
    }
}

/// One layer as the `layer` hook sees it. Of its fields `attn` (or `spec`), `export_kv` and where K and V go decide
/// what [`default_stage`](Self::default_stage) gives; the others tell what the layer is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GemmaLayerCtx {
    /// A layer over whole sequences, or over any number of new tokens with resident caches.
    Prefill {
        /// The layer's index, from 0.
        index: usize,
        /// How it is put together.
        style: GemmaLayerStyle,
        /// Its attention.
        attn: SelfAttnPrefillSpec,
        /// Where K and V go when they are exported.
        kv_sink: SideOutputs,
        /// True if they are.
        export_kv: bool,
        /// Head dimension H.
        head_dim: usize,
        /// Added under the root of every norm.
        eps: f32,
        /// The model.
        config: Arc<GemmaConfig>,
    },
    /// A layer with one new token after the rows that the caller holds.
    Decode {
        /// The layer's index, from 0.
        index: usize,
        /// The layer.
        spec: GemmaDecodeLayerSpec,
        /// Where K and V with the new row go.
        kv_out: SideOutputs,
        /// The model.
        config: Arc<GemmaConfig>,
    },
}

impl GemmaLayerCtx {
    /// The layer's index, from 0.
    pub fn index(&self) -> usize {
        match self {
            GemmaLayerCtx::Prefill { index, .. } | GemmaLayerCtx::Decode { index, .. } => *index,
        }
    }

    /// The model.
    pub fn config(&self) -> &GemmaConfig {
        match self {
            GemmaLayerCtx::Prefill { config, .. } | GemmaLayerCtx::Decode { config, .. } => config,
        }
    }

    /// The layer's reach: a window or everything.
    pub fn kind(&self) -> LayerKind {
        self.config().layer_types[self.index()]
    }

    /// The stock layer, with this context's attention.
    pub fn default_stage(&self) -> FlowStage {
        match self {
            GemmaLayerCtx::Prefill { attn, kv_sink, export_kv, config, .. } => {
                gemma_prefill_layer_composed(config, attn, export_kv.then_some(kv_sink))
            }
            GemmaLayerCtx::Decode { index, spec, kv_out, config } => {
                gemma_prefill_layer_composed(config, &spec.attention(*index), Some(kv_out))
            }
        }
    }
}

/// A decoder layer, attention and FFW each around the residual stream, with the norms that the family has
/// (docs/gemma.md, Layers); with `export`, K and V become outputs. Also the layer of decode: attention takes its past
/// from where the flow says.
pub fn gemma_prefill_layer_composed(config: &GemmaConfig, attn: &SelfAttnPrefillSpec, export: Option<&SideOutputs>) -> FlowStage {
    if let Some(experts) = MoeFfnStage::of(config, attn.layer) {
        return gemma_moe_prefill_layer_composed(config, attn, experts, export);
    }
    let attention = self_attention(attn, export);
    let ffw = GeGluStage::hf_mlp(config, attn.layer);
    if let Some(altup) = config.altup {
        let layer = AltUpLayerStage::new(config, altup, attn.layer, attention, ffw);
        return FlowStage::block(layer).named(format!("layer.{}", attn.layer));
    }
    let stack = around_attention(config, attn.layer, attention).norm(config, attn.layer, LayerWeight::PreFfwNorm);
    stack.stage(ffw).close(config, attn.layer)
}

/// As [`gemma_prefill_layer_composed`], with experts beside the FFW; in a family that has them, the stock layer of a
/// model with experts.
pub fn gemma_moe_prefill_layer_composed(
    config: &GemmaConfig,
    attn: &SelfAttnPrefillSpec,
    experts: MoeFfnStage,
    export: Option<&SideOutputs>,
) -> FlowStage {
    let ffw = BesideExperts::new(config, attn.layer, experts);
    around_attention(config, attn.layer, self_attention(attn, export)).stage(ffw).close(config, attn.layer)
}

/// As [`gemma_moe_prefill_layer_composed`], from a decode layer.
pub fn gemma_moe_decode_layer_composed(
    config: &GemmaConfig,
    layer: usize,
    spec: &GemmaDecodeLayerSpec,
    experts: MoeFfnStage,
    export: Option<&SideOutputs>,
) -> FlowStage {
    gemma_moe_prefill_layer_composed(config, &spec.attention(layer), experts, export)
}

fn self_attention(attn: &SelfAttnPrefillSpec, export: Option<&SideOutputs>) -> SelfAttentionStage {
    let attention = SelfAttentionStage::new(attn.clone());
    match export {
        Some(outputs) => attention.with_export(outputs.clone()),
        None => attention,
    }
}

/// A layer up to what stands before its FFW.
fn around_attention(config: &GemmaConfig, layer: usize, attention: SelfAttentionStage) -> LayerStack {
    LayerStack::named(format!("layer.{layer}"))
        .residual_save()
        .norm(config, layer, LayerWeight::PreAttentionNorm)
        .stage(attention)
        .norm(config, layer, LayerWeight::PostAttentionNorm)
        .residual_add()
        .residual_save()
}

impl LayerStack {
    /// Appends a norm where the family has it.
    fn norm(self, config: &GemmaConfig, layer: usize, weight: LayerWeight) -> Self {
        let norm = GemmaRmsNormStage::hf_layer(config, layer, weight);
        if norm.exists() { self.stage(norm) } else { self }
    }

    /// Appends a factor where the model has it.
    fn factor(self, config: &GemmaConfig, layer: usize, weight: LayerWeight) -> Self {
        match FactorStage::of(config, layer, weight) {
            Some(factor) => self.stage(factor),
            None => self,
        }
    }

    /// Ends a layer after its FFW.
    fn close(self, config: &GemmaConfig, layer: usize) -> FlowStage {
        let stack = self.norm(config, layer, LayerWeight::PostFfwNorm).residual_add();
        let stack = match PleGateStage::of(config, layer) {
            Some(gate) => stack.residual_save().stage(gate).norm(config, layer, LayerWeight::PostPleNorm).residual_add(),
            None => stack,
        };
        stack.factor(config, layer, LayerWeight::LayerScalar).build()
    }
}

/// The rotary table that a layer uses: one name where all layers share a table.
pub(super) fn rope_table_name(config: &GemmaConfig, layer: usize) -> &'static str {
    let head_dim = config.layer_head_dim(layer);
    let alike = config.rope_full == config.rope_sliding
        && (0..config.num_hidden_layers).all(|other| config.layer_head_dim(other) == head_dim);
    match config.layer_types[layer] {
        _ if alike => "rope",
        LayerKind::Full => "rope_full",
        LayerKind::Sliding => "rope_sliding",
    }
}
