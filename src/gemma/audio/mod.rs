//! Towers that make soft tokens of sounds, as flows of stages like the text model.

mod conformer;
mod subsample;
mod unified;

pub use conformer::ConformerStage;
pub(crate) use conformer::Names;
pub(crate) use subsample::{PREFIX as SUBSAMPLING, convolution};
pub use unified::UnifiedAudioStage;

use super::{AudioConfig, ConformerConfig, ConformerKind, tower::SOFT_TOKENS};
use crate::{
    Error, Result,
    flow::ModelFlow,
    ir::{Compute, DType},
};

/// The inputs of a Conformer's graph beside its features: the frames that are of the clip, after one convolution and
/// after both (−1 behind the batch), and how many numbers a convolution has made up to each frame, as a reciprocal.
pub(crate) const MASK_HALF: &str = "mask_half";
pub(crate) const MASK_QUARTER: &str = "mask_quarter";
pub(crate) const SHARE_HALF: &str = "share_half";
pub(crate) const SHARE_QUARTER: &str = "share_quarter";

/// A Conformer's graph has a multiple of so many frames of features: two convolutions of stride 2, and of four frames one.
pub(crate) const FRAME_MULTIPLE: usize = 16;

impl AudioConfig {
    /// The tower for `frames` frames of features (or rows of samples), and a text model of `width`.
    ///
    /// Inputs: `features` `[1, T, F]` f32, T a multiple of [`FRAME_MULTIPLE`]. A Conformer also has `mask_half` `[1, T/2]`
    /// and `mask_quarter` `[1, T/4]` f32, 1 for frames of the clip and 0 for those behind them; Gemma 3n's has
    /// `share_half` `[1, T/2, 1]` and `share_quarter` `[1, T/4, 1]`, 1/n for the n numbers up to a frame. The output is
    /// soft tokens `[1, N, D]`: of 12B one a row, of Gemma 4 one of four frames, of Gemma 3n one of sixteen, and the
    /// padding token as the last.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tower that is not computed.
    pub(crate) fn flow(&self, width: usize, frames: usize) -> Result<ModelFlow> {
        let flow = ModelFlow::new("audio", 1, frames).input("features", DType::F32, [1, frames, self.feature_size()]);
        let flow = match self {
            AudioConfig::Conformer(config) => conformer_inputs(flow, config, frames).stage(ConformerStage::new(*config, width)),
            AudioConfig::Unified(config) => flow.stage(UnifiedAudioStage::new(*config, width)),
            AudioConfig::Unsupported(why) => return Err(Error::Unsupported(format!("this model's audio tower ({why})"))),
        };
        Ok(flow.output(SOFT_TOKENS))
    }

    /// The numbers that its products may be computed with. Those of Gemma 4 may exceed what f16 holds.
    pub(crate) fn compute(&self) -> Compute {
        match self {
            AudioConfig::Conformer(ConformerConfig { kind: ConformerKind::Gemma3n { .. }, .. }) => Compute::Auto,
            AudioConfig::Conformer(_) | AudioConfig::Unified(_) | AudioConfig::Unsupported(_) => Compute::F32,
        }
    }

    /// Numbers of a frame.
    pub(crate) fn feature_size(&self) -> usize {
        match self {
            AudioConfig::Conformer(config) => config.input_feat_size,
            AudioConfig::Unified(config) => config.audio_embed_dim,
            AudioConfig::Unsupported(_) => 0,
        }
    }
}

fn conformer_inputs(flow: ModelFlow, config: &ConformerConfig, frames: usize) -> ModelFlow {
    let half = frames / 2;
    let quarter = frames / 4;
    let flow = flow.input(MASK_HALF, DType::F32, [1, half]).input(MASK_QUARTER, DType::F32, [1, quarter]);
    match config.kind {
        ConformerKind::Gemma4 { .. } => flow,
        ConformerKind::Gemma3n { .. } => {
            flow.input(SHARE_HALF, DType::F32, [1, half, 1]).input(SHARE_QUARTER, DType::F32, [1, quarter, 1])
        }
    }
}
