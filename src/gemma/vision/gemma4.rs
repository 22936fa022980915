//! Gemma 4's vision tower. Source: `modeling_gemma4.py` in transformers (`Gemma4Vision*`, `Gemma4MultimodalEmbedder`).

use super::{ROPE_COLUMNS, ROPE_ROWS, attend, clipped, linear, mean_of_neighbours, place_embedding, rms_norm, row, unit_norm};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    gemma::Gemma4VisionConfig,
    ir::{
        BinaryFn, NodeId,
        ops::{Concat, Gain, Rope, Slice},
    },
};

/// A picture's patches `[1, P, 3·p²]` to soft tokens `[1, N, D]`. A patch is row, column, channel, values from 0 to 1.
///
/// Numbers of the pooled states may exceed what f16 holds.
#[derive(Debug, Clone)]
pub struct Gemma4VisionStage {
    config: Gemma4VisionConfig,
    /// D of the text model.
    width: usize,
}

impl Gemma4VisionStage {
    /// The tower of `config` for a text model of `width`.
    pub fn new(config: Gemma4VisionConfig, width: usize) -> Self {
        Self { config, width }
    }

    fn embeddings(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        let Gemma4VisionConfig { hidden_size, position_embedding_size: places, .. } = self.config;
        let half = context.graph.constant(0.5)?;
        let centred = context.graph.binary(BinaryFn::Sub, patches, half)?;
        let x = context.graph.scale(centred, 2.0)?;
        let x = linear(context, x, "vision_tower.patch_embedder.input_proj", hidden_size)?;
        let table = "vision_tower.patch_embedder.position_embedding_table";
        let place = place_embedding(context, table, [2, places, hidden_size])?;
        context.graph.add(x, place)
    }

    fn clipped(&self, context: &mut EmitContext, x: NodeId, name: &str, out: usize) -> Result<NodeId> {
        clipped(context, x, name, out, self.config.clipped_linears)
    }

    /// Rotates the first half of each head by the column and the second by the row.
    fn rotate(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let half = self.config.head_dim / 2;
        let mut turned = |start: usize, input: &str| {
            let missing = || Error::Builder(format!("the vision tower needs the input '{input}'"));
            let table = context.find_shared(input).ok_or_else(missing)?;
            let part = context.graph.push(Slice { axis: 3, start, len: half.into() }, &[x])?;
            context.graph.push(Rope::default(), &[part, table])
        };
        let first = turned(0, ROPE_COLUMNS)?;
        let second = turned(half, ROPE_ROWS)?;
        context.graph.push(Concat { axis: 3 }, &[first, second])
    }

    fn attention(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        let Gemma4VisionConfig { hidden_size, num_attention_heads, num_key_value_heads, head_dim, rms_norm_eps: eps, .. } =
            self.config;
        let mut heads = |part: &str, count: usize| {
            let y = self.clipped(context, x, &format!("{name}.{part}_proj"), count * head_dim)?;
            let split = context.shape(&[count, head_dim]);
            context.graph.reshape(y, split)
        };
        let q = heads("q", num_attention_heads)?;
        let k = heads("k", num_key_value_heads)?;
        let v = heads("v", num_key_value_heads)?;
        let q = rms_norm(context, q, &format!("{name}.q_norm"), eps, Gain::Plain)?;
        let q = self.rotate(context, q)?;
        let k = rms_norm(context, k, &format!("{name}.k_norm"), eps, Gain::Plain)?;
        let k = self.rotate(context, k)?;
        let v = unit_norm(context, v, eps)?;
        let mixed = attend(context, [q, k, v], 1.0)?;
        self.clipped(context, mixed, &format!("{name}.o_proj"), hidden_size)
    }

    fn feed_forward(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        let Gemma4VisionConfig { hidden_size, intermediate_size, .. } = self.config;
        let gate = self.clipped(context, x, &format!("{name}.gate_proj"), intermediate_size)?;
        let up = self.clipped(context, x, &format!("{name}.up_proj"), intermediate_size)?;
        let gate = context.graph.gelu(gate)?;
        let h = context.graph.mul(gate, up)?;
        self.clipped(context, h, &format!("{name}.down_proj"), hidden_size)
    }

    fn layer(&self, context: &mut EmitContext, x: NodeId, layer: usize) -> Result<NodeId> {
        let name = format!("vision_tower.encoder.layers.{layer}");
        let norm = |context: &mut EmitContext, x: NodeId, norm: &str| {
            rms_norm(context, x, &format!("{name}.{norm}_layernorm"), self.config.rms_norm_eps, Gain::Plain)
        };
        let h = norm(context, x, "input")?;
        let h = self.attention(context, h, &format!("{name}.self_attn"))?;
        let h = norm(context, h, "post_attention")?;
        let x = context.graph.add(x, h)?;
        let h = norm(context, x, "pre_feedforward")?;
        let h = self.feed_forward(context, h, &format!("{name}.mlp"))?;
        let h = norm(context, h, "post_feedforward")?;
        let x = context.graph.add(x, h)?;
        Ok(context.graph.label(x, "output"))
    }

    /// The mean of each square of patches, times √E, shifted and scaled where the model does so.
    fn pool(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let Gemma4VisionConfig { hidden_size, pooling_kernel_size, .. } = self.config;
        let mean = mean_of_neighbours(context, x, pooling_kernel_size * pooling_kernel_size)?;
        let pooled = context.graph.scale(mean, (hidden_size as f32).sqrt())?;
        let pooled = context.graph.label(pooled, "vision.pooled");
        if !self.config.standardize {
            return Ok(pooled);
        }
        let bias = row(context, "vision_tower.std_bias", hidden_size)?;
        let scale = row(context, "vision_tower.std_scale", hidden_size)?;
        let shifted = context.graph.binary(BinaryFn::Sub, pooled, bias)?;
        context.graph.mul(shifted, scale)
    }
}

impl BlockStage for Gemma4VisionStage {
    fn emit(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        let x = context.scoped("vision", |context| self.embeddings(context, patches))?;
        let mut x = context.graph.label(x, "vision.embeddings");
        for layer in 0..self.config.num_hidden_layers {
            x = context.scoped(&format!("vision.layer.{layer}"), |context| self.layer(context, x, layer))?;
        }
        let x = self.pool(context, x)?;
        let x = context.graph.label(x, "vision.tower");
        let x = unit_norm(context, x, self.config.rms_norm_eps)?;
        linear(context, x, "embed_vision.embedding_projection", self.width)
    }
}
