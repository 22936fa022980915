//! Self-attention of one layer, in every form: whole sequences, a cache that the caller holds, resident caches.

use super::{
    GemmaConfig, GemmaLayerStyle, LayerWeight, WeightPosition,
    blocks::{project, weight_key},
};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext, KvSource, LayerStack, SideOutputs},
    gemma::GemmaArch,
    ir::{
        DType, Dim, MaskKind, NodeId, Shape, Symbol,
        ops::{Attention, CacheWrite, Concat, Gain, RmsNorm, Role, Rope},
        sym,
    },
};

/// The attention of one layer, for any number of new tokens.
///
/// Scores are scaled, then softcapped, then masked (docs/gemma.md, Attention).
#[derive(Debug, Clone, PartialEq)]
pub struct SelfAttnPrefillSpec {
    /// The layer's index.
    pub layer: usize,
    /// Query heads N.
    pub num_heads: usize,
    /// Head dimension H.
    pub head_dim: usize,
    /// KV heads K.
    pub num_kv_heads: usize,
    /// Dimensions of a head that are rotated, the first ones: even, from 2 to H. See [`with_n_rot`](Self::with_n_rot).
    pub n_rot: usize,
    /// Which keys a query sees.
    pub mask: MaskKind,
    /// Factor on the scores.
    pub score_scale: f32,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// The rotary table, by name.
    pub rope_table: String,
    /// True if the values are the keys, before norm and rotation.
    pub k_eq_v: bool,
    /// The earlier layer whose keys and values this one attends to, having none; none: its own.
    pub kv_source: Option<usize>,
    /// The family of the layer: it decides on names of weights, and on norms of queries, keys and values.
    pub style: GemmaLayerStyle,
    /// Added under the root of those norms.
    pub eps: f32,
    /// True if the soft tokens of one picture see each other, besides what the mask lets them see.
    pub bidirectional_pictures: bool,
}

/// The attention of a Gemma 1 layer with these sizes and options: the rotary table `rope`, no norm on queries and keys.
#[allow(clippy::too_many_arguments)] // The sizes of an attention block, as every paper lists them.
pub fn gemma_attn_spec(
    layer: usize,
    num_heads: usize,
    head_dim: usize,
    num_kv_heads: usize,
    n_rot: usize,
    mask: MaskKind,
    score_scale: f32,
    softcap: Option<f32>,
) -> SelfAttnPrefillSpec {
    SelfAttnPrefillSpec {
        layer,
        num_heads,
        head_dim,
        num_kv_heads,
        n_rot,
        mask,
        score_scale,
        softcap,
        rope_table: "rope".into(),
        k_eq_v: false,
        kv_source: None,
        style: GemmaLayerStyle::Gemma,
        eps: 1e-6,
        bidirectional_pictures: false,
    }
}

/// Gemma 2's masks: even layers slide.
pub fn gemma2_layer_mask(layer: usize, window: usize) -> MaskKind {
    gemma_strided_layer_mask(layer, window, 2)
}

/// Of every `stride` layers the last is full and the others slide (Gemma 3: stride 6).
pub fn gemma_strided_layer_mask(layer: usize, window: usize, stride: usize) -> MaskKind {
    if (layer + 1).is_multiple_of(stride.max(1)) { MaskKind::Causal } else { MaskKind::SlidingWindow(window) }
}

impl SelfAttnPrefillSpec {
    /// The attention of a layer of `config`.
    pub fn of(config: &GemmaConfig, layer: usize) -> Self {
        let options = config.layer_attn_options(layer);
        let heads = config.num_attention_heads;
        let kv_heads = config.layer_kv_heads(layer);
        let head_dim = config.layer_head_dim(layer);
        let spec = gemma_attn_spec(layer, heads, head_dim, kv_heads, head_dim, options.mask, options.scale, options.softcap);
        let kv_source = config.kv_source_layer(layer).filter(|source| *source != layer);
        let bidirectional_pictures = config.layer_has_bidirectional_pictures(layer);
        let spec = Self { style: config.layer_style(), eps: config.rms_norm_eps, kv_source, bidirectional_pictures, ..spec };
        spec.with_rope_table(super::rope_table_name(config, layer)).with_k_eq_v(config.layer_k_eq_v(layer))
    }

    /// Rotates the first `n_rot` dimensions of each head, in pairs (j, j + n_rot/2); the others pass through.
    ///
    /// Pair j turns by frequency j of the layer's rotary table. A stock table has the H/2 frequencies θ^(−2j/H) of the
    /// whole head, of which the first n_rot/2 count. For θ^(−2j/n_rot), which transformers' `partial_rotary_factor` and
    /// llama.cpp's `rope.dimension_count` mean, declare a table of
    /// [`default_inv_freq(θ, n_rot)`](super::default_inv_freq) in [`before_layers`](super::GemmaFlow::before_layers)
    /// ([`EmitContext::rope_table`]) and name it here ([`with_rope_table`](Self::with_rope_table)).
    pub fn with_n_rot(mut self, n_rot: usize) -> Self {
        self.n_rot = n_rot;
        self
    }

    /// Uses the rotary table `name`.
    pub fn with_rope_table(mut self, name: impl Into<String>) -> Self {
        self.rope_table = name.into();
        self
    }

    /// Takes the keys, as they are projected, as values: there is no value projection.
    pub fn with_k_eq_v(mut self, k_eq_v: bool) -> Self {
        self.k_eq_v = k_eq_v;
        self
    }

    /// The rotation of queries and keys by a table of `columns`.
    fn rope(&self, columns: usize) -> Result<Rope> {
        let Self { layer, n_rot, head_dim, rope_table, .. } = self;
        if *n_rot == 0 || !n_rot.is_multiple_of(2) || n_rot > head_dim {
            let expected = format!("an even number from 2 to the head's {head_dim} dimensions");
            return Err(Error::Builder(format!("layer {layer}: n_rot is {n_rot}, expected {expected}")));
        }
        if *n_rot > columns {
            let table = format!("its rotary table '{rope_table}' has {} frequencies", columns / 2);
            return Err(Error::Builder(format!("layer {layer}: n_rot is {n_rot}, and {table}, expected at least {}", n_rot / 2)));
        }
        Ok(Rope::first(*n_rot, *head_dim))
    }
}

/// `attention_output · attention(rope(q), rope(k), v)`: `[B, T, D]` to `[B, T, D]`.
#[derive(Debug, Clone)]
pub struct SelfAttentionStage {
    spec: SelfAttnPrefillSpec,
    export: Option<SideOutputs>,
}

impl SelfAttentionStage {
    /// The attention of a layer.
    pub fn new(spec: SelfAttnPrefillSpec) -> Self {
        Self { spec, export: None }
    }

    /// Adds K (after RoPE) and V, where the layer owns some, as outputs `k_{i}` and `v_{i}`: `[B, T, K·H]`, or
    /// `[B, past + T, K·H]` where the caller holds the cache.
    pub fn with_export(mut self, outputs: SideOutputs) -> Self {
        self.export = Some(outputs);
        self
    }

    fn arch(&self) -> GemmaArch {
        self.spec.style
    }

    /// A projection split into heads, `[B, T, heads, H]`.
    fn heads(&self, context: &mut EmitContext, h: NodeId, weight: LayerWeight, heads: usize) -> Result<NodeId> {
        let SelfAttnPrefillSpec { layer, head_dim, .. } = self.spec;
        let flat = project(context, h, self.arch(), WeightPosition::Layer(layer, weight), heads * head_dim)?;
        let shape = context.shape(&[heads, head_dim]);
        context.graph.reshape(flat, shape)
    }

    /// The norm of each head, where the family has one.
    fn normed(&self, context: &mut EmitContext, x: NodeId, norm: LayerWeight) -> Result<NodeId> {
        let SelfAttnPrefillSpec { layer, head_dim, eps, .. } = self.spec;
        let position = WeightPosition::Layer(layer, norm);
        let Ok(key) = weight_key(self.arch(), position) else { return Ok(x) };
        let gain = context.weight(&position.to_string(), &key, &[head_dim])?;
        let x = context.graph.rms_norm(x, gain, eps, self.arch().gain())?;
        Ok(context.graph.label(x, norm.name()))
    }

    /// The rotated keys of the new tokens, and their values.
    fn new_rows(&self, context: &mut EmitContext, h: NodeId, table: NodeId) -> Result<[NodeId; 2]> {
        let SelfAttnPrefillSpec { layer, num_kv_heads, eps, k_eq_v, .. } = self.spec;
        let projected = self.heads(context, h, LayerWeight::Key, num_kv_heads)?;
        let k = self.normed(context, projected, LayerWeight::KeyNorm)?;
        let v = if k_eq_v { projected } else { self.heads(context, h, LayerWeight::Value, num_kv_heads)? };
        let v = if self.arch().norms_values() {
            let v = context.graph.push(RmsNorm { eps, gain: Gain::None }, &[v])?;
            context.graph.label(v, "value_norm")
        } else {
            v
        };
        let rope = self.spec.rope(context.width(table)?)?;
        let k = context.graph.push(rope, &[k, table])?;
        let k = context.graph.label(k, "rotated_key");
        for (what, node) in [("key_rows", k), ("value_rows", v), (&format!("rope_table.{}", self.spec.rope_table), table)] {
            context.share(format!("layer.{layer}.{what}"), node);
        }
        if k_eq_v {
            context.share(format!("layer.{layer}.k_eq_v"), v);
        }
        Ok([k, v])
    }

    /// The layer's own keys and values, which it makes and keeps, or those of the layer whose it shares.
    fn attended(&self, context: &mut EmitContext, h: NodeId, table: NodeId, positions: NodeId) -> Result<Keys> {
        let layer = self.spec.layer;
        let Some(source) = self.spec.kv_source else {
            let new = self.new_rows(context, h, table)?;
            let [k, v] = self.all_rows(context, new, positions)?;
            self.export(context, [k, v], new)?;
            for (what, node) in [("keys", k), ("values", v)] {
                context.share(format!("layer.{layer}.{what}"), node);
            }
            return self.keys(context, k, v, positions);
        };
        let find = |what: &str| {
            let missing = || format!("layer {layer} attends to the keys of layer {source}, which no stage before it makes");
            context.find_shared(&format!("layer.{source}.{what}")).ok_or_else(|| Error::Builder(missing()))
        };
        let k = find("keys")?;
        let v = find("values")?;
        self.keys(context, k, v, positions)
    }

    /// Keys and values of the new tokens with those of earlier ones.
    fn all_rows(&self, context: &mut EmitContext, [k, v]: [NodeId; 2], positions: NodeId) -> Result<[NodeId; 2]> {
        let SelfAttnPrefillSpec { layer, num_kv_heads, head_dim, mask, .. } = self.spec;
        let batch = Dim::from(context.batch);
        let rows = |len: Dim| Shape(vec![batch, len, num_kv_heads.into(), head_dim.into()]);
        let kv = context.kv.clone();
        if let KvSource::Caller { past, mask: true } = kv {
            // The caller's mask comes before the rows of the layers.
            context.key_mask(past)?;
        }
        let mut extend = |what: &str, new: NodeId| -> Result<NodeId> {
            match kv {
                KvSource::None => Ok(new),
                KvSource::Caller { past, .. } => {
                    let flat = Shape(vec![batch, past, (num_kv_heads * head_dim).into()]);
                    let old = context.graph.input(format!("past_{what}_{layer}"), Role::Caller, DType::F32, flat)?;
                    let old = context.graph.reshape(old, rows(past))?;
                    context.graph.push(Concat { axis: 1 }, &[old, new])
                }
                KvSource::Resident { dtype } => {
                    let dims = rows(resident_cache(mask).0.into());
                    let cache = context.graph.input(cache_name(what, layer), Role::Cache, dtype, dims)?;
                    context.graph.push(CacheWrite, &[cache, new, positions])
                }
            }
        };
        Ok([extend("k", k)?, extend("v", v)?])
    }

    /// Keys and values with the positions of their rows, and the keep-mask where there is one.
    fn keys(&self, context: &mut EmitContext, k: NodeId, v: NodeId, positions: NodeId) -> Result<Keys> {
        match context.kv.clone() {
            KvSource::None => Ok(Keys { k, v, positions, keep: None }),
            KvSource::Caller { past, mask } => {
                let keep = if mask { Some(context.key_mask(past)?) } else { None };
                Ok(Keys { k, v, positions: context.key_positions(past)?, keep })
            }
            KvSource::Resident { .. } => {
                let (rows, name) = resident_cache(self.spec.mask);
                let dims = Shape(vec![context.batch.into(), rows.into()]);
                let positions = context.shared(name, |context| {
                    let cache = context.graph.input(name, Role::Cache, DType::I32, dims)?;
                    context.graph.push(CacheWrite, &[cache, positions, positions])
                })?;
                Ok(Keys { k, v, positions, keep: None })
            }
        }
    }

    /// The mask by positions. `Custom` leaves all to the caller's mask, which then must be there.
    fn rule(&self, keep: bool) -> Result<MaskKind> {
        let layer = self.spec.layer;
        match self.spec.mask {
            MaskKind::Custom if keep => Ok(MaskKind::None),
            MaskKind::Custom => Err(Error::Builder(format!(
                "layer {layer} has a custom mask, and the graph takes none: build it with custom_mask"
            ))),
            MaskKind::Bias => Err(Error::Unsupported(format!("layer {layer}: a bias on the scores"))),
            rule => Ok(rule),
        }
    }

    /// Adds K and V, with the rows of a cache that the caller holds, as outputs.
    fn export(&self, context: &mut EmitContext, all: [NodeId; 2], new: [NodeId; 2]) -> Result<()> {
        let Some(outputs) = &self.export else { return Ok(()) };
        let nodes = match context.kv {
            KvSource::Caller { .. } => all,
            KvSource::None | KvSource::Resident { .. } => new,
        };
        for (what, node) in ["k", "v"].into_iter().zip(nodes) {
            let dims = &context.graph.shape(node).0;
            let flat = Shape(vec![dims[0], dims[1], (self.spec.num_kv_heads * self.spec.head_dim).into()]);
            let node = context.graph.reshape(node, flat)?;
            outputs.add(context, &format!("{what}_{}", self.spec.layer), node);
        }
        Ok(())
    }
}

/// The operands of attention besides queries.
struct Keys {
    k: NodeId,
    v: NodeId,
    positions: NodeId,
    keep: Option<NodeId>,
}

impl BlockStage for SelfAttentionStage {
    fn emit(&self, context: &mut EmitContext, h: NodeId) -> Result<NodeId> {
        let spec = &self.spec;
        let table = context.find_shared(&spec.rope_table).ok_or_else(|| {
            let layer = spec.layer;
            let name = &spec.rope_table;
            Error::Builder(format!("layer {layer} uses the rotary table '{name}', which no stage before it declares"))
        })?;
        let q = self.heads(context, h, LayerWeight::Query, spec.num_heads)?;
        let q = self.normed(context, q, LayerWeight::QueryNorm)?;
        let rope = spec.rope(context.width(table)?)?;
        let q = context.graph.push(rope, &[q, table])?;
        let positions = context.query_positions()?;
        let keys = self.attended(context, h, table, positions)?;
        let keep = keys.keep.is_some();
        let visible = context.visible_positions(self.rule(keep)?, spec.bidirectional_pictures)?;
        let op = Attention { scale: spec.score_scale, softcap: spec.softcap, keep };
        let operands = [q, keys.k, keys.v, visible, keys.positions].into_iter().chain(keys.keep);
        let mixed = context.graph.push(op, &operands.collect::<Vec<_>>())?;
        context.graph.label(mixed, "attention");
        let flat = context.shape(&[spec.num_heads * spec.head_dim]);
        let mixed = context.graph.reshape(mixed, flat)?;
        let width = context.width(h)?;
        project(context, mixed, self.arch(), WeightPosition::Layer(spec.layer, LayerWeight::AttentionOutput), width)
    }
}

/// The resident cache of the keys (`k`) or values (`v`) of a layer.
pub(super) fn cache_name(what: &str, layer: usize) -> String {
    format!("cache.{what}.{layer}")
}

/// The capacity of a resident cache, and the cache of key positions that layers of one kind share.
pub(super) fn resident_cache(mask: MaskKind) -> (Symbol, &'static str) {
    match mask {
        MaskKind::SlidingWindow(_) => (sym::RING, "cache.positions.sliding"),
        _ => (sym::CACHE, "cache.positions.full"),
    }
}

impl LayerStack {
    /// Appends the attention of a layer.
    pub fn self_attn_prefill(self, spec: SelfAttnPrefillSpec) -> Self {
        self.stage(SelfAttentionStage::new(spec))
    }
}
