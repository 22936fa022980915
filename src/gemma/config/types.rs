//! The words of a configuration: kinds of layers, rotary tables.

use super::GemmaArch;
use crate::ir::MaskKind;

/// How a decoder layer is put together: as in the layers of that family.
pub type GemmaLayerStyle = GemmaArch;

/// How far a layer attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The positions of `sliding_window`.
    Sliding,
    /// Every earlier position, or with bidirectional attention every position.
    Full,
}

/// Scaling of the rotary inverse frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// Divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are scaled in full.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// The context length, in tokens, before scaling.
        original_max_position_embeddings: usize,
    },
    /// Only the first `partial_rotary_factor` of the pairs rotate, the others have frequency 0; all divided by `factor`.
    Proportional {
        /// The share of pairs that rotate.
        partial_rotary_factor: f32,
        /// The divisor.
        factor: f32,
    },
}

/// One rotary table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the geometric series of frequencies.
    pub theta: f32,
    /// What is done to the frequencies.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// An unscaled table with base `theta`.
    pub const fn new(theta: f32) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }
}

/// What one layer's attention does with the scores, in this order: `scale`, `softcap`, `mask`, softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerAttnOptions {
    /// Which keys a query sees.
    pub mask: MaskKind,
    /// Factor on the dot products.
    pub scale: f32,
    /// `cap` of `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Sizes in which one layer differs from the model's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerOverrides {
    /// Head dimension H.
    pub head_dim: Option<usize>,
    /// KV heads K.
    pub num_key_value_heads: Option<usize>,
    /// FFW dimension F.
    pub intermediate_size: Option<usize>,
}
