//! SigLIP's vision tower and Gemma 3's projector. Source: `modeling_siglip.py` and `modeling_gemma3.py` in transformers.

use super::{attend, biased, layer_norm, rms_norm};
use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    gemma::SiglipConfig,
    ir::{
        NodeId,
        ops::{Cast, Gain, Permute},
    },
};

/// A picture's patches `[1, P, 3·p²]` to soft tokens `[1, N, D]`.
///
/// Patches are row-major, each channel, row, column. A tower without a head: the final norm's output is pooled.
#[derive(Debug, Clone)]
pub struct SiglipStage {
    config: SiglipConfig,
    /// D of the text model.
    width: usize,
}

impl SiglipStage {
    /// The tower of `config` for a text model of `width`.
    pub fn new(config: SiglipConfig, width: usize) -> Self {
        Self { config, width }
    }

    /// Patches per side.
    fn grid(&self) -> usize {
        self.config.image_size / self.config.patch_size
    }

    /// A convolution over patches that do not overlap is a product, and every place has an embedding of its own.
    fn embeddings(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        const PATCH: &str = "vision_tower.embeddings.patch_embedding.weight";
        const BIAS: &str = "vision_tower.embeddings.patch_embedding.bias";
        const PLACE: &str = "vision_tower.embeddings.position_embedding.weight";
        let SiglipConfig { hidden_size, patch_size, .. } = self.config;
        let stored = [hidden_size, 3, patch_size, patch_size];
        let weight = context.flattened_weight(PATCH, PATCH, &stored)?;
        let x = context.graph.linear(patches, weight)?;
        let bias = super::row(context, BIAS, hidden_size)?;
        let x = context.graph.add(x, bias)?;
        let places = self.grid() * self.grid();
        let place = context.weight(PLACE, PLACE, &[places, hidden_size])?;
        let place = context.graph.push(Cast, &[place])?;
        context.graph.add(x, place)
    }

    fn attention(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        let SiglipConfig { hidden_size, num_attention_heads: heads, .. } = self.config;
        let head_dim = hidden_size / heads;
        let split = context.shape(&[heads, head_dim]);
        let mut projected = |part: &str| {
            let y = biased(context, x, &format!("{name}.{part}_proj"), hidden_size)?;
            context.graph.reshape(y, split.clone())
        };
        let q = projected("q")?;
        let k = projected("k")?;
        let v = projected("v")?;
        let mixed = attend(context, [q, k, v], (head_dim as f32).powf(-0.5))?;
        biased(context, mixed, &format!("{name}.out_proj"), hidden_size)
    }

    fn layer(&self, context: &mut EmitContext, x: NodeId, layer: usize) -> Result<NodeId> {
        let SiglipConfig { hidden_size, intermediate_size, layer_norm_eps: eps, .. } = self.config;
        let name = format!("vision_tower.encoder.layers.{layer}");
        let h = layer_norm(context, x, &format!("{name}.layer_norm1"), eps)?;
        let h = self.attention(context, h, &format!("{name}.self_attn"))?;
        let x = context.graph.add(x, h)?;
        let h = layer_norm(context, x, &format!("{name}.layer_norm2"), eps)?;
        let h = biased(context, h, &format!("{name}.mlp.fc1"), intermediate_size)?;
        let h = context.graph.gelu(h)?;
        let h = biased(context, h, &format!("{name}.mlp.fc2"), hidden_size)?;
        let x = context.graph.add(x, h)?;
        Ok(context.graph.label(x, "output"))
    }

    /// The mean of each square of patches, normed and projected.
    fn project(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        const PROJECTION: &str = "multi_modal_projector.mm_input_projection_weight";
        let SiglipConfig { hidden_size, mm_tokens_per_image: tokens, layer_norm_eps, .. } = self.config;
        let side = tokens.isqrt();
        let pooled = self.grid() / side;
        let g = &mut *context.graph;
        let squares = g.reshape(x, [side, pooled, side, pooled, hidden_size])?;
        let squares = g.push(Permute { order: vec![0, 2, 4, 1, 3] }, &[squares])?;
        let squares = g.reshape(squares, [1, tokens, hidden_size, pooled * pooled])?;
        let mean = g.mean(squares)?;
        let mean = g.reshape(mean, [1, tokens, hidden_size])?;
        let normed = rms_norm(context, mean, "multi_modal_projector.mm_soft_emb_norm", layer_norm_eps, Gain::OnePlus)?;
        // Stored as its transpose, [E, D].
        let weight = context.transposed_weight(PROJECTION, PROJECTION, [self.width, hidden_size])?;
        context.graph.linear(normed, weight)
    }
}

impl BlockStage for SiglipStage {
    fn emit(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        let x = context.scoped("vision", |context| self.embeddings(context, patches))?;
        let mut x = context.graph.label(x, "vision.embeddings");
        for layer in 0..self.config.num_hidden_layers {
            x = context.scoped(&format!("vision.layer.{layer}"), |context| self.layer(context, x, layer))?;
        }
        let x = layer_norm(context, x, "vision_tower.post_layernorm", self.config.layer_norm_eps)?;
        let x = context.graph.label(x, "vision.tower");
        context.scoped("vision.projector", |context| self.project(context, x))
    }
}
