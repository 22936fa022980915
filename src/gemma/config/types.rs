//! The words of a configuration: families, kinds of layers, rotary tables.

use crate::ir::{MaskKind, ops::Gain};

/// The model families that this crate computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GemmaArch {
    /// Gemma 1 (`model_type` `gemma`).
    Gemma,
    /// Gemma 2 (`gemma2`).
    Gemma2,
    /// VaultGemma (`vaultgemma`).
    VaultGemma,
    /// Gemma 3 text (`gemma3_text`, or the text part of `gemma3`).
    Gemma3,
    /// Gemma 3n text (`gemma3n_text`, or the text part of `gemma3n`).
    Gemma3n,
    /// Gemma 4 text (`gemma4_text`, `gemma4_unified_text`, or the text part of `gemma4` and `gemma4_unified`).
    Gemma4,
    /// EmbeddingGemma 2 text (`embedding_gemma2_text`, or the text part of `embedding_gemma2`). EmbeddingGemma 1 is a
    /// [`Gemma3`](GemmaArch::Gemma3) with bidirectional attention.
    EmbeddingGemma2,
}

impl GemmaArch {
    /// The text model's `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            GemmaArch::Gemma => "gemma",
            GemmaArch::Gemma2 => "gemma2",
            GemmaArch::VaultGemma => "vaultgemma",
            GemmaArch::Gemma3 => "gemma3_text",
            GemmaArch::Gemma3n => "gemma3n_text",
            GemmaArch::Gemma4 => "gemma4_text",
            GemmaArch::EmbeddingGemma2 => "embedding_gemma2_text",
        }
    }

    /// How layers of the family are put together.
    pub const fn layer_style(self) -> GemmaLayerStyle {
        match self {
            GemmaArch::Gemma => GemmaLayerStyle::Gemma,
            GemmaArch::Gemma2 => GemmaLayerStyle::Gemma2,
            GemmaArch::VaultGemma => GemmaLayerStyle::VaultGemma,
            GemmaArch::Gemma3 => GemmaLayerStyle::Gemma3,
            GemmaArch::Gemma3n => GemmaLayerStyle::Gemma3n,
            GemmaArch::Gemma4 => GemmaLayerStyle::Gemma4,
            GemmaArch::EmbeddingGemma2 => GemmaLayerStyle::EmbeddingGemma2,
        }
    }

    /// What the stored weight of a norm multiplies by.
    pub const fn gain(self) -> Gain {
        match self {
            GemmaArch::Gemma | GemmaArch::Gemma2 | GemmaArch::VaultGemma | GemmaArch::Gemma3 => Gain::OnePlus,
            GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Gain::Plain,
        }
    }

    /// Whether each head's values are normed, without a weight.
    pub const fn norms_values(self) -> bool {
        matches!(self, GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2)
    }
}

/// How a decoder layer is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GemmaLayerStyle {
    /// Norms before attention and before the FFW.
    Gemma,
    /// Norms before and after both.
    Gemma2,
    /// As `Gemma2`, with a norm on queries and keys.
    Gemma3,
    /// As `Gemma`, with Gemma 2's windows and softcaps.
    VaultGemma,
    /// As `Gemma3`, with a norm on values, over several streams of which one is computed and the others follow it.
    Gemma3n,
    /// As `Gemma3`, with a norm on values and a factor on the stream after each layer.
    Gemma4,
    /// As `Gemma4`; what each layer gets of each token comes from the token's embedding alone.
    EmbeddingGemma2,
}

impl GemmaLayerStyle {
    /// The family whose layers are put together so.
    pub const fn arch(self) -> GemmaArch {
        match self {
            GemmaLayerStyle::Gemma => GemmaArch::Gemma,
            GemmaLayerStyle::Gemma2 => GemmaArch::Gemma2,
            GemmaLayerStyle::Gemma3 => GemmaArch::Gemma3,
            GemmaLayerStyle::VaultGemma => GemmaArch::VaultGemma,
            GemmaLayerStyle::Gemma3n => GemmaArch::Gemma3n,
            GemmaLayerStyle::Gemma4 => GemmaArch::Gemma4,
            GemmaLayerStyle::EmbeddingGemma2 => GemmaArch::EmbeddingGemma2,
        }
    }
}

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
