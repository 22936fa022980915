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

/// The layers in which the soft tokens of one picture see each other, besides what the mask lets them see. The window
/// of a sliding layer bounds the past alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BidirectionalPictures {
    /// None.
    Never,
    /// Sliding layers (Gemma 4 with `use_bidirectional_attention: "vision"`).
    SlidingLayers,
    /// Every layer (Gemma 3).
    EveryLayer,
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
    /// Only the first `partial_rotary_factor` of the pairs rotate, the others have frequency 0; all divided by
    /// `factor`.
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
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// An unscaled table with base `theta`.
    pub const fn new(theta: f32) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }
}

/// The steps of one layer's attention on the scores, in this order: `scale`, `softcap`, `mask`, softmax.
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

/// Per-layer embeddings (PLE): a vector of each token for each layer, gated into the layer's output. Introduced with
/// Gemma 3n, whose class in transformers is the source (`modeling_gemma3n.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerInput {
    /// Width P of a token's vector for one layer (`hidden_size_per_layer_input`).
    pub hidden_size: usize,
    /// Rows of the tables (`vocab_size_per_layer_input`); `None` where the vectors come from the embedding alone
    /// (EmbeddingGemma 2).
    pub vocab_size: Option<usize>,
}

/// Alternating updates (AltUp, Baykal et al. 2023, arXiv 2301.13310): the residual stream is N streams wide, of which a
/// layer computes one and predicts and corrects the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AltUp {
    /// Streams N (`altup_num_inputs`).
    pub num_inputs: usize,
    /// The stream that a layer computes (`altup_active_idx`).
    pub active_idx: usize,
    /// The active stream is scaled by a weight before it gates the layer's per-layer embedding (`altup_correct_scale`).
    pub correct_scale: bool,
}

/// A mixture of experts (MoE) beside the FFW of each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moe {
    /// Experts E (`num_experts`).
    pub num_experts: usize,
    /// Experts that each token takes (`top_k_experts`).
    pub top_k_experts: usize,
    /// FFW dimension of one expert (`moe_intermediate_size`).
    pub intermediate_size: usize,
}
