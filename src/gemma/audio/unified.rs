//! Gemma 4 12B's projection of samples: no tower. Source: `modeling_gemma4_unified.py` in transformers.

use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    gemma::{
        UnifiedAudioConfig,
        tower::{linear, unit_norm},
    },
    ir::NodeId,
};

/// Rows of samples `[1, N, R]` to soft tokens `[1, N, D]`, one each.
#[derive(Debug, Clone)]
pub struct UnifiedAudioStage {
    config: UnifiedAudioConfig,
    /// D of the text model.
    width: usize,
}

impl UnifiedAudioStage {
    /// The projection of `config` for a text model of `width`.
    pub fn new(config: UnifiedAudioConfig, width: usize) -> Self {
        Self { config, width }
    }
}

impl BlockStage for UnifiedAudioStage {
    fn emit(&self, context: &mut EmitContext, rows: NodeId) -> Result<NodeId> {
        let x = unit_norm(context, rows, self.config.rms_norm_eps)?;
        linear(context, x, "embed_audio.embedding_projection", self.width)
    }
}
