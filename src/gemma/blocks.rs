//! The blocks that a Gemma model is made of, apart from attention.

use super::{GemmaArch, GemmaConfig, LayerWeight, WeightPosition};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext, SideOutputs},
    ir::{
        BinaryFn, Graph, NodeId, Op, Shape, UnaryFn,
        ops::{Broadcast, Cast, Select, Unary},
    },
};

/// The loader's key of a weight.
pub(super) fn weight_key(arch: GemmaArch, position: WeightPosition) -> Result<String> {
    position.hugging_face(arch).ok_or_else(|| Error::Config(format!("{arch:?} has no weight '{position}'")))
}

/// A weight by its position in the model, of a shape that it must have.
pub(super) fn model_weight(
    context: &mut EmitContext,
    arch: GemmaArch,
    position: WeightPosition,
    shape: &[usize],
) -> Result<NodeId> {
    let key = weight_key(arch, position)?;
    context.weight(&position.to_string(), &key, shape)
}

/// `W · x` with a weight of a layer, `[out, last dimension of x]`.
pub(super) fn project(
    context: &mut EmitContext,
    x: NodeId,
    arch: GemmaArch,
    position: WeightPosition,
    out: usize,
) -> Result<NodeId> {
    let key = weight_key(arch, position)?;
    context.project(x, &position.to_string(), &key, out)
}

/// RMSNorm with the family's gain, `1 + w` up to Gemma 3 and `w` after (docs/gemma.md, RMSNorm): `[…, D]` to `[…, D]`.
#[derive(Debug, Clone)]
pub struct GemmaRmsNormStage {
    arch: GemmaArch,
    weight: WeightPosition,
    eps: f32,
}

impl GemmaRmsNormStage {
    /// A norm of a layer, by its position in it.
    pub fn hf_layer(config: &GemmaConfig, layer: usize, weight: LayerWeight) -> Self {
        Self { arch: config.arch, weight: WeightPosition::Layer(layer, weight), eps: config.rms_norm_eps }
    }

    /// The norm after the last layer.
    pub fn final_norm(config: &GemmaConfig) -> Self {
        Self { arch: config.arch, weight: WeightPosition::FinalNorm, eps: config.rms_norm_eps }
    }

    /// True if the family has this norm.
    pub fn exists(&self) -> bool {
        self.weight.hugging_face(self.arch).is_some()
    }
}

impl BlockStage for GemmaRmsNormStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let width = context.width(x)?;
        let weight = model_weight(context, self.arch, self.weight, &[width])?;
        let y = context.graph.rms_norm(x, weight, self.eps, self.arch.gain())?;
        let name = match self.weight {
            WeightPosition::Layer(_, weight) => weight.name(),
            _ => "final_norm",
        };
        Ok(context.graph.label(y, name))
    }
}

/// The value times a weight of a layer, `[D]` or `[1]`: `[…, D]` to `[…, D]`.
#[derive(Debug, Clone)]
pub struct FactorStage {
    arch: GemmaArch,
    weight: WeightPosition,
    shape: Vec<usize>,
}

impl FactorStage {
    /// A factor of a layer, by its position in it; `None` where the model has none.
    pub fn of(config: &GemmaConfig, layer: usize, weight: LayerWeight) -> Option<Self> {
        let position = WeightPosition::Layer(layer, weight);
        let exists = position.hugging_face(config.arch).is_some() && config.has_weight(position);
        exists.then(|| Self { arch: config.arch, weight: position, shape: config.weight_shape(position) })
    }
}

impl BlockStage for FactorStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let factor = model_weight(context, self.arch, self.weight, &self.shape)?;
        let factor = context.graph.push(Cast, &[factor])?;
        context.graph.mul(x, factor)
    }
}

/// The gated feed-forward block: `down · (gelu(gate · x) ∘ (up · x))`, GELU in its tanh form (Shazeer 2020, arXiv
/// 2002.05202). In some layers of Gemma 3n gates that are not far above their mean count nothing (docs/gemma.md, Gemma
/// 3n).
#[derive(Debug, Clone)]
pub struct GeGluStage {
    arch: GemmaArch,
    layer: usize,
    width: usize,
    /// Standard deviations above their mean that gates must exceed; `None`: all count.
    sparsity: Option<f32>,
}

impl GeGluStage {
    /// The block of a layer.
    pub fn hf_mlp(config: &GemmaConfig, layer: usize) -> Self {
        Self { arch: config.arch, layer, width: config.layer_intermediate_size(layer), sparsity: config.layer_sparsity(layer) }
    }
}

impl BlockStage for GeGluStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let at = |weight| WeightPosition::Layer(self.layer, weight);
        let width = context.width(x)?;
        let gate = project(context, x, self.arch, at(LayerWeight::FfwGate), self.width)?;
        let up = project(context, x, self.arch, at(LayerWeight::FfwUp), self.width)?;
        let gate = match self.sparsity {
            Some(deviations) => above(context.graph, gate, deviations)?,
            None => gate,
        };
        let gate = context.graph.gelu(gate)?;
        let h = context.graph.mul(gate, up)?;
        context.graph.label(h, "geglu");
        project(context, h, self.arch, at(LayerWeight::FfwDown), width)
    }
}

/// `max(x − (mean + deviations · std), 0)` along the innermost dimension, the standard deviation that of the whole row
/// (÷n).
fn above(g: &mut Graph, x: NodeId, deviations: f32) -> Result<NodeId> {
    let mean = g.mean(x)?;
    let centred = g.binary(BinaryFn::Sub, x, mean)?;
    let squares = g.mul(centred, centred)?;
    let variance = g.mean(squares)?;
    let deviation = g.push(Unary { f: UnaryFn::Sqrt }, &[variance])?;
    let cut = g.scale(deviation, deviations)?;
    let rest = g.binary(BinaryFn::Sub, centred, cut)?;
    let zero = g.constant(0.0)?;
    g.binary(BinaryFn::Max, rest, zero)
}

/// `x · √D`, the factor not rounded (docs/gemma.md, Embedding scale).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedScaleStage;

impl BlockStage for EmbedScaleStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let factor = (context.width(x)? as f32).sqrt();
        let y = context.graph.scale(x, factor)?;
        Ok(context.graph.label(y, "embed"))
    }
}

/// Puts the rows of soft tokens in the place of theirs: `[B, T, D]` to `[B, T, D]` (HF: `masked_scatter`). They are not
/// scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SoftTokensStage;

impl BlockStage for SoftTokensStage {
    fn emit(&self, context: &mut EmitContext, embed: NodeId) -> Result<NodeId> {
        let width = context.width(embed)?;
        let [rows, is_text] = context.soft_tokens(width)?;
        let shape = context.graph.shape(embed).clone();
        let is_text = context.graph.push(Broadcast { shape }, &[is_text])?;
        let merged = context.graph.push(Select, &[is_text, embed, rows])?;
        Ok(context.graph.label(merged, "inputs_embeds"))
    }
}

/// Declares the rotary tables of a model; the stream passes through.
#[derive(Debug, Clone)]
pub struct RopeTablesStage {
    tables: Vec<(String, Vec<f32>)>,
}

impl RopeTablesStage {
    /// The tables that the layers of `config` use: `rope`, or `rope_full` and `rope_sliding`.
    ///
    /// # Errors
    /// As [`resolve_inv_freq`](super::resolve_inv_freq).
    pub fn new(config: &GemmaConfig) -> Result<Self> {
        let mut tables: Vec<(String, Vec<f32>)> = Vec::new();
        for layer in 0..config.active_num_layers() {
            let name = super::rope_table_name(config, layer);
            if !tables.iter().any(|(other, _)| other == name) {
                let inv_freq = super::resolve_inv_freq(config.layer_rope(layer), config.layer_head_dim(layer), None)?;
                tables.push((name.to_string(), inv_freq));
            }
        }
        Ok(Self { tables })
    }

    /// The names of the tables with their H/2 inverse frequencies.
    pub fn tables(&self) -> &[(String, Vec<f32>)] {
        &self.tables
    }
}

impl BlockStage for RopeTablesStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        for (name, inv_freq) in &self.tables {
            context.rope_table(name, inv_freq)?;
        }
        Ok(x)
    }
}

/// As [`RopeTablesStage`], with optional inputs by which a caller gives its own rows `[1, H/2]` for the step:
/// `rope_cos` and `rope_sin`, or the same with `_full` and `_sliding`.
#[derive(Debug, Clone)]
pub struct DecodeRopeParamsStage {
    tables: RopeTablesStage,
}

impl DecodeRopeParamsStage {
    /// The tables that the layers of `config` use.
    ///
    /// # Errors
    /// As [`RopeTablesStage::new`].
    pub fn new(config: &GemmaConfig) -> Result<Self> {
        Ok(Self { tables: RopeTablesStage::new(config)? })
    }
}

impl BlockStage for DecodeRopeParamsStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        for (name, inv_freq) in &self.tables.tables {
            for own in ["rope_cos", "rope_sin"] {
                let name = name.replacen("rope", own, 1);
                context.optional_input(&name, Shape::from([1, inv_freq.len()]))?;
            }
        }
        self.tables.emit(context, x)
    }
}

/// The LM head: `[…, D]` to logits `[…, V]`.
#[derive(Debug, Clone)]
pub struct LmHeadStage {
    arch: GemmaArch,
    weight: WeightPosition,
    vocab_size: usize,
}

impl LmHeadStage {
    /// The embedding as it lies is the head.
    pub fn tied(config: &GemmaConfig) -> Self {
        Self { arch: config.arch, weight: WeightPosition::Embed, vocab_size: config.vocab_size }
    }

    /// The head has a weight of its own.
    pub fn separate(config: &GemmaConfig) -> Self {
        Self { weight: WeightPosition::Unembed, ..Self::tied(config) }
    }
}

impl BlockStage for LmHeadStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let logits = project(context, x, self.arch, self.weight, self.vocab_size)?;
        Ok(context.graph.label(logits, "unembed"))
    }
}

/// `cap · tanh(x / cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitSoftcapStage {
    cap: f32,
}

impl LogitSoftcapStage {
    /// The softcap at `cap`.
    pub fn new(cap: f32) -> Self {
        Self { cap }
    }
}

impl BlockStage for LogitSoftcapStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let y = context.graph.softcap(x, self.cap)?;
        Ok(context.graph.label(y, "unembed"))
    }
}

/// Makes K (after RoPE) and V of a layer outputs of the graph, as its attention computed them: nothing is projected
/// again. Stands after the layer; the stream passes through.
#[derive(Debug, Clone)]
pub struct GemmaKvTapStage {
    layer: usize,
    outputs: SideOutputs,
    n_rot: Option<usize>,
    rope_table: Option<String>,
    k_eq_v: bool,
}

impl GemmaKvTapStage {
    /// Outputs `k_{layer}` and `v_{layer}`, `[B, T, K·H]`.
    pub fn layer(layer: usize) -> Self {
        Self { layer, outputs: SideOutputs::new(), n_rot: None, rope_table: None, k_eq_v: false }
    }

    /// The same outputs under names with a prefix.
    pub fn with_outputs(mut self, outputs: SideOutputs) -> Self {
        self.outputs = outputs;
        self
    }

    /// Refuses a layer whose attention rotates another number of dimensions.
    pub fn with_n_rot(mut self, n_rot: usize) -> Self {
        self.n_rot = Some(n_rot);
        self
    }

    /// Refuses a layer whose attention uses another rotary table.
    pub fn with_rope_table(mut self, name: impl Into<String>) -> Self {
        self.rope_table = Some(name.into());
        self
    }

    /// Refuses a layer whose values are not its keys; without it the tap takes either.
    pub fn with_k_eq_v(mut self, k_eq_v: bool) -> Self {
        self.k_eq_v = k_eq_v;
        self
    }
}

impl BlockStage for GemmaKvTapStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let layer = self.layer;
        if self.k_eq_v && context.find_shared(&format!("layer.{layer}.k_eq_v")).is_none() {
            return Err(Error::Builder(format!(
                "the tap expects values that are the keys (k_eq_v), layer {layer} projects its own"
            )));
        }
        for what in ["key", "value"] {
            let shared = format!("layer.{layer}.{what}_rows");
            let node = context.find_shared(&shared).ok_or_else(|| {
                let why = "stands where that layer's attention has not been computed, or the layer has no keys of its own";
                Error::Builder(format!("the tap of layer {layer} {why}"))
            })?;
            let dims = context.graph.shape(node).0.clone();
            let heads = dims[2].fixed().unwrap_or(0);
            let head_dim = dims[3].fixed().unwrap_or(0);
            let rotated = match &context.graph.node(node).op {
                Op::Rope(rope) => Some(rope.rotated(head_dim)),
                _ => None,
            };
            if let (Some(n_rot), Some(rotated)) = (self.n_rot, rotated)
                && n_rot != rotated
            {
                return Err(Error::Builder(format!(
                    "the tap expects {n_rot} rotated dimensions, layer {layer} rotates {rotated}"
                )));
            }
            let table = format!("layer.{layer}.rope_table.");
            if let Some(name) = self.rope_table.as_ref().filter(|name| context.find_shared(&format!("{table}{name}")).is_none()) {
                return Err(Error::Builder(format!("the tap expects the rotary table '{name}', layer {layer} uses another")));
            }
            let flat = context.shape(&[heads * head_dim]);
            let node = context.graph.reshape(node, flat)?;
            self.outputs.add(context, &format!("{}_{layer}", &what[..1]), node);
        }
        Ok(x)
    }
}
