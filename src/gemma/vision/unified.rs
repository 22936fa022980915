//! Gemma 4 12B's patch embedder: no tower. Source: `modeling_gemma4_unified.py` in transformers.

use super::{biased, layer_norm, linear, place_embedding, unit_norm};
use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    gemma::UnifiedVisionConfig,
    ir::NodeId,
};

/// Added under the root of the embedder's LayerNorms: the default of torch.
const LAYER_NORM_EPS: f32 = 1e-5;

/// A picture's patches `[1, N, 3·p²]` to soft tokens `[1, N, D]`, one each. A patch is row, column, channel.
#[derive(Debug, Clone)]
pub struct UnifiedVisionStage {
    config: UnifiedVisionConfig,
    /// D of the text model.
    width: usize,
}

impl UnifiedVisionStage {
    /// The embedder of `config` for a text model of `width`.
    pub fn new(config: UnifiedVisionConfig, width: usize) -> Self {
        Self { config, width }
    }
}

impl BlockStage for UnifiedVisionStage {
    fn emit(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        let UnifiedVisionConfig { mm_embed_dim, mm_posemb_size, rms_norm_eps, .. } = self.config;
        let x = layer_norm(context, patches, "vision_embedder.patch_ln1", LAYER_NORM_EPS)?;
        let x = biased(context, x, "vision_embedder.patch_dense", mm_embed_dim)?;
        let x = layer_norm(context, x, "vision_embedder.patch_ln2", LAYER_NORM_EPS)?;
        let x = context.graph.label(x, "vision.patch_dense");
        let place = place_embedding(context, "vision_embedder.pos_embedding", [mm_posemb_size, 2, mm_embed_dim])?;
        let x = context.graph.add(x, place)?;
        let x = layer_norm(context, x, "vision_embedder.pos_norm", LAYER_NORM_EPS)?;
        let x = context.graph.label(x, "vision.tower");
        let x = unit_norm(context, x, rms_norm_eps)?;
        linear(context, x, "embed_vision.embedding_projection", self.width)
    }
}
