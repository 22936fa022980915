//! One decoder layer, for every family of this crate.

use super::{GemmaArch, GemmaConfig, LayerKind, LayerWeight, WeightPosition};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    ir::{
        DType, Dim, Graph, NodeId, Shape, Symbol,
        ops::{Attention, CacheWrite, Gain, Role, Rope},
        sym,
    },
};

/// Where attention finds the keys and values of earlier tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSource {
    /// There are none: the run holds the whole sequence.
    None,
    /// In caches that live beside the weights and are written in place: linear for full layers, a ring for sliding ones.
    Resident,
}

/// A decoder layer: attention and FFW, each around the residual stream, with the norms that the family has (gemma-spec §3).
#[derive(Debug, Clone)]
pub struct GemmaLayer {
    pub(super) config: GemmaConfig,
    pub(super) index: usize,
    pub(super) kv: KvSource,
    pub(super) export_kv: bool,
}

impl BlockStage for GemmaLayer {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let h = self.norm(context, x, LayerWeight::PreAttentionNorm)?;
        let h = self.attention(context, h)?;
        let h = self.optional_norm(context, h, LayerWeight::PostAttentionNorm)?;
        let x = context.graph.add(x, h)?;
        let h = self.norm(context, x, LayerWeight::PreFfwNorm)?;
        let h = self.feed_forward(context, h)?;
        let h = self.optional_norm(context, h, LayerWeight::PostFfwNorm)?;
        let x = context.graph.add(x, h)?;
        Ok(context.graph.label(x, "output"))
    }
}

impl GemmaLayer {
    /// `attention_output · attention(rope(q), rope(k), v)`.
    fn attention(&self, context: &mut EmitContext, h: NodeId) -> Result<NodeId> {
        let c = &self.config;
        let (heads, kv_heads, head_dim) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let q = self.heads(context, h, LayerWeight::Query, heads)?;
        let k = self.heads(context, h, LayerWeight::Key, kv_heads)?;
        let v = self.heads(context, h, LayerWeight::Value, kv_heads)?;
        let q = self.optional_norm(context, q, LayerWeight::QueryNorm)?;
        let k = self.optional_norm(context, k, LayerWeight::KeyNorm)?;
        let table = rope_table(context, c, self.index)?;
        let q = context.graph.push(Rope, &[q, table])?;
        let k = context.graph.push(Rope, &[k, table])?;
        let k = context.graph.label(k, "rotated_key");
        if self.export_kv {
            self.export(context, k, v)?;
        }
        let positions = positions(context)?;
        let (k, v, key_positions) = self.keys_and_values(context, k, v, positions)?;
        let options = c.layer_attn_options(self.index);
        let op = Attention { mask: options.mask, scale: options.scale, softcap: options.softcap, keep: false };
        let mixed = context.graph.push(op, &[q, k, v, positions, key_positions])?;
        context.graph.label(mixed, "attention");
        let flat = Shape(vec![context.batch.into(), context.seq, (heads * head_dim).into()]);
        let mixed = context.graph.reshape(mixed, flat)?;
        self.project(context, mixed, LayerWeight::AttentionOutput, c.hidden_size)
    }

    /// `down · (gelu(gate · h) ∘ (up · h))`.
    fn feed_forward(&self, context: &mut EmitContext, h: NodeId) -> Result<NodeId> {
        let c = &self.config;
        let gate = self.project(context, h, LayerWeight::FfwGate, c.intermediate_size)?;
        let up = self.project(context, h, LayerWeight::FfwUp, c.intermediate_size)?;
        let gate = context.graph.gelu(gate)?;
        let h = context.graph.mul(gate, up)?;
        context.graph.label(h, "geglu");
        self.project(context, h, LayerWeight::FfwDown, c.hidden_size)
    }

    /// The keys, values and key positions that attention reads.
    fn keys_and_values(
        &self,
        context: &mut EmitContext,
        k: NodeId,
        v: NodeId,
        positions: NodeId,
    ) -> Result<(NodeId, NodeId, NodeId)> {
        if self.kv == KvSource::None {
            return Ok((k, v, positions));
        }
        let kind = self.config.layer_types[self.index];
        let rows = cache_rows(kind);
        let batch = Dim::from(context.batch);
        let dims = Shape(vec![batch, rows.into(), self.config.num_key_value_heads.into(), self.config.head_dim.into()]);
        let mut write = |what: &str, new: NodeId| -> Result<NodeId> {
            let name = format!("cache.{what}.{}", self.index);
            let cache = context.graph.input(name, Role::Cache, DType::F32, dims.clone())?;
            context.graph.push(CacheWrite, &[cache, new, positions])
        };
        let (k, v) = (write("k", k)?, write("v", v)?);
        let key_positions = context.shared(&position_cache(kind), |context| {
            let dims = Shape(vec![batch, rows.into()]);
            let cache = context.graph.input(position_cache(kind), Role::Cache, DType::I32, dims)?;
            context.graph.push(CacheWrite, &[cache, positions, positions])
        })?;
        Ok((k, v, key_positions))
    }

    /// Adds K (after RoPE) and V as outputs `[B, T, K·H]`.
    fn export(&self, context: &mut EmitContext, k: NodeId, v: NodeId) -> Result<()> {
        for (what, node) in [("k", k), ("v", v)] {
            let flat = Shape(vec![context.batch.into(), context.seq, self.config.kv_proj_dim().into()]);
            let node = context.graph.reshape(node, flat)?;
            context.side_output(format!("{what}_{}", self.index), node);
        }
        Ok(())
    }

    /// A projection split into heads, `[B, T, heads, H]`.
    fn heads(&self, context: &mut EmitContext, h: NodeId, weight: LayerWeight, heads: usize) -> Result<NodeId> {
        let head_dim = self.config.head_dim;
        let flat = self.project(context, h, weight, heads * head_dim)?;
        let dims = Shape(vec![context.batch.into(), context.seq, heads.into(), head_dim.into()]);
        context.graph.reshape(flat, dims)
    }

    /// `W · h` with a weight `[out, last dimension of h]`.
    fn project(&self, context: &mut EmitContext, h: NodeId, weight: LayerWeight, out: usize) -> Result<NodeId> {
        let inner = fixed_last(context.graph, h)?;
        let node = model_weight(context, &self.config, WeightPosition::Layer(self.index, weight), &[out, inner])?;
        let y = context.graph.linear(h, node)?;
        Ok(context.graph.label(y, weight.name()))
    }

    /// RMSNorm over the innermost dimension.
    fn norm(&self, context: &mut EmitContext, x: NodeId, weight: LayerWeight) -> Result<NodeId> {
        let width = fixed_last(context.graph, x)?;
        let node = model_weight(context, &self.config, WeightPosition::Layer(self.index, weight), &[width])?;
        let y = context.graph.rms_norm(x, node, self.config.rms_norm_eps, Gain::OnePlus)?;
        Ok(context.graph.label(y, weight.name()))
    }

    /// The norm where the family has it, else `x` itself.
    fn optional_norm(&self, context: &mut EmitContext, x: NodeId, weight: LayerWeight) -> Result<NodeId> {
        match WeightPosition::Layer(self.index, weight).hugging_face(self.config.arch) {
            Some(_) => self.norm(context, x, weight),
            None => Ok(x),
        }
    }
}

/// The capacity of a layer's cache.
fn cache_rows(kind: LayerKind) -> Symbol {
    match kind {
        LayerKind::Full => sym::CACHE,
        LayerKind::Sliding => sym::RING,
    }
}

/// The cache of key positions that the layers of one kind share.
fn position_cache(kind: LayerKind) -> String {
    match kind {
        LayerKind::Full => "cache.positions.full".into(),
        LayerKind::Sliding => "cache.positions.sliding".into(),
    }
}

fn fixed_last(graph: &Graph, node: NodeId) -> Result<usize> {
    let last = graph.shape(node).last().and_then(Dim::fixed);
    last.ok_or_else(|| Error::Builder(format!("the innermost size of {} must be a number", graph.ty(node))))
}

/// The positions of the new tokens, `[B, T]` i32.
pub(super) fn positions(context: &mut EmitContext) -> Result<NodeId> {
    context.shared("positions", |context| {
        let dims = Shape(vec![context.batch.into(), context.seq]);
        context.graph.input("positions", Role::Positions, DType::I32, dims)
    })
}

/// The rotary rows of the new tokens for a layer, `[B, T, H]`.
fn rope_table(context: &mut EmitContext, config: &GemmaConfig, layer: usize) -> Result<NodeId> {
    let name = rope_table_name(config, layer);
    context.shared(name, |context| {
        let dims = Shape(vec![context.batch.into(), context.seq, config.head_dim.into()]);
        context.graph.input(name, Role::RopeTable(name.into()), DType::F32, dims)
    })
}

/// The rotary table that a layer uses: one name where all layers share a table.
pub(super) fn rope_table_name(config: &GemmaConfig, layer: usize) -> &'static str {
    match config.layer_types[layer] {
        _ if config.rope_full == config.rope_sliding => "rope",
        LayerKind::Full => "rope_full",
        LayerKind::Sliding => "rope_sliding",
    }
}

/// A weight by its position in the model.
pub(super) fn model_weight(
    context: &mut EmitContext,
    config: &GemmaConfig,
    position: WeightPosition,
    shape: &[usize],
) -> Result<NodeId> {
    let arch: GemmaArch = config.arch;
    let key = position.hugging_face(arch).ok_or_else(|| Error::Config(format!("{arch:?} has no weight '{position}'")))?;
    context.weight(&position.to_string(), &key, shape)
}
