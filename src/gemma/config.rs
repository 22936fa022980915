//! What a model is: sizes and per-layer facts, as plain data.

mod fields;
mod gguf;
mod json;
mod preset;
mod rope;

use std::path::Path;

use crate::{Error, Result, ir::MaskKind, weights::FileLimits};

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
}

impl GemmaArch {
    /// The text model's `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            GemmaArch::Gemma => "gemma",
            GemmaArch::Gemma2 => "gemma2",
            GemmaArch::VaultGemma => "vaultgemma",
            GemmaArch::Gemma3 => "gemma3_text",
        }
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
}

impl GemmaLayerStyle {
    /// The family whose layers are put together so.
    pub const fn arch(self) -> GemmaArch {
        match self {
            GemmaLayerStyle::Gemma => GemmaArch::Gemma,
            GemmaLayerStyle::Gemma2 => GemmaArch::Gemma2,
            GemmaLayerStyle::Gemma3 => GemmaArch::Gemma3,
            GemmaLayerStyle::VaultGemma => GemmaArch::VaultGemma,
        }
    }
}

/// How far back a layer attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The last `sliding_window` positions.
    Sliding,
    /// Every earlier position.
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

/// A model's configuration: the fields of Hugging Face's `config.json` (its text part), with absent ones resolved to the
/// family's defaults.
///
/// The fields are plain data and may be changed; [`validate`](Self::validate) says whether they still fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaConfig {
    /// The family.
    pub arch: GemmaArch,
    /// Model dimension D.
    pub hidden_size: usize,
    /// FFW dimension F.
    pub intermediate_size: usize,
    /// Decoder layers in the checkpoint.
    pub num_hidden_layers: usize,
    /// Query heads N.
    pub num_attention_heads: usize,
    /// KV heads K; divides N.
    pub num_key_value_heads: usize,
    /// Head dimension H; even. N·H need not equal D.
    pub head_dim: usize,
    /// Vocabulary V.
    pub vocab_size: usize,
    /// Added to the mean square under the root of every RMSNorm.
    pub rms_norm_eps: f32,
    /// The longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// One kind a layer.
    pub layer_types: Vec<LayerKind>,
    /// Keys a sliding layer keeps, the query's own position included. `None` only without sliding layers.
    pub sliding_window: Option<usize>,
    /// Scores are multiplied by this to the power −1/2. `None` (Gemma 1): by `head_dim` to the power −1/2.
    pub query_pre_attn_scalar: Option<f32>,
    /// Softcap of the attention scores.
    pub attn_logit_softcapping: Option<f32>,
    /// Softcap of the logits.
    pub final_logit_softcapping: Option<f32>,
    /// Whether the LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Tokens that end a text; empty when the configuration says `null`.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The token that fills up short rows of a batch.
    pub pad_token_id: Option<u32>,
    /// The rotary table of full layers.
    pub rope_full: RopeConfig,
    /// The rotary table of sliding layers. Equal to `rope_full` in families with one table.
    pub rope_sliding: RopeConfig,
    /// Run only this many layers, the first ones. Never read from a file.
    pub effective_num_layers: Option<usize>,
}

impl GemmaConfig {
    /// Reads `config.json` (or the `config.json` of a folder). Stop tokens of a `generation_config.json` beside it are added.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read; [`Error::Config`] and [`Error::Unsupported`] as [`from_json`](Self::from_json),
    /// with the file's name in front.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        json::from_file(path.as_ref())
    }

    /// Reads the metadata of a GGUF file (of one in parts: the first).
    ///
    /// Files say neither `query_pre_attn_scalar` nor, in Gemma 1 and 2, anything of the rotary table; both are what llama.cpp takes
    /// for the family. Tokens that end a turn count among `eos_token_ids`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] as [`GgufLoader::from_file`](crate::weights::GgufLoader::from_file); [`Error::Config`]
    /// and [`Error::Unsupported`] as [`from_json`](Self::from_json), with the file's name in front.
    pub fn from_gguf(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_gguf_with(path, FileLimits::default())
    }

    /// As [`from_gguf`](Self::from_gguf), for files whose headers ask for more than [`FileLimits::default`] allows.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn from_gguf_with(path: impl AsRef<Path>, limits: FileLimits) -> Result<Self> {
        gguf::from_file(path.as_ref(), limits)
    }

    /// The configuration of a model that is given as its weights: a `.gguf` file, a folder with a `config.json`, or a file with a
    /// `config.json` beside it.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf) and [`from_file`](Self::from_file).
    pub fn near_weights(weights: impl AsRef<Path>) -> Result<Self> {
        let path = weights.as_ref();
        match path.parent() {
            _ if crate::weights::is_gguf(path) => Self::from_gguf(path),
            Some(folder) if !path.is_dir() => Self::from_file(folder.join("config.json")),
            _ => Self::from_file(path),
        }
    }

    /// Reads the text of a `config.json`: a text model, or a `gemma3` wrapper with its `text_config`.
    ///
    /// # Errors
    /// [`Error::Config`] names the key and value that cannot be computed faithfully or make no sense; [`Error::Unsupported`]
    /// names a model family that this crate does not run.
    pub fn from_json(text: &str) -> Result<Self> {
        json::from_json(text)
    }

    /// The shape of a released model, such as `gemma-3-1b`; see [`preset_names`](Self::preset_names).
    pub fn preset(name: &str) -> Option<Self> {
        preset::by_name(name)
    }

    /// The names that [`preset`](Self::preset) knows, smallest family first.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        preset::names()
    }

    /// A Gemma 3 of two layers, the first sliding, the second full, for examples and tests.
    pub fn tiny_test() -> Self {
        preset::tiny()
    }

    /// Head dimension H.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Query heads to a KV head: G = N/K.
    pub fn kv_group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Width of all query heads: N·H.
    pub fn q_proj_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads: K·H.
    pub fn kv_proj_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// How every layer is put together.
    pub fn layer_style(&self) -> GemmaLayerStyle {
        match self.arch {
            GemmaArch::Gemma => GemmaLayerStyle::Gemma,
            GemmaArch::Gemma2 => GemmaLayerStyle::Gemma2,
            GemmaArch::VaultGemma => GemmaLayerStyle::VaultGemma,
            GemmaArch::Gemma3 => GemmaLayerStyle::Gemma3,
        }
    }

    /// The number of layers to run: `effective_num_layers` where set, else all.
    pub fn active_num_layers(&self) -> usize {
        self.effective_num_layers.map_or(self.num_hidden_layers, |n| n.min(self.num_hidden_layers))
    }

    /// Whether layers have experts. No family of [`GemmaArch`] has.
    pub fn is_moe(&self) -> bool {
        false
    }

    /// FFW dimension of one expert. No family of [`GemmaArch`] has experts.
    pub fn expert_ffn_dim(&self) -> Option<usize> {
        None
    }

    /// Factor on the attention scores: `query_pre_attn_scalar^-1/2`, in Gemma 1 `head_dim^-1/2`.
    pub fn attn_score_scale(&self) -> f32 {
        let scalar = self.query_pre_attn_scalar.map_or(self.head_dim as f64, f64::from);
        scalar.powf(-0.5) as f32
    }

    /// Mask, scale and softcap of `layer`.
    ///
    /// # Panics
    /// `layer` must be below `num_hidden_layers` and the configuration valid.
    pub fn layer_attn_options(&self, layer: usize) -> LayerAttnOptions {
        let mask = match (self.layer_types[layer], self.sliding_window) {
            (LayerKind::Sliding, Some(window)) => MaskKind::SlidingWindow(window),
            _ => MaskKind::Causal,
        };
        LayerAttnOptions { mask, scale: self.attn_score_scale(), softcap: self.attn_logit_softcapping }
    }

    /// The rotary table of `layer`.
    ///
    /// # Panics
    /// `layer` must be below `num_hidden_layers` and the configuration valid.
    pub fn layer_rope(&self, layer: usize) -> &RopeConfig {
        match self.layer_types[layer] {
            LayerKind::Sliding => &self.rope_sliding,
            LayerKind::Full => &self.rope_full,
        }
    }

    /// Checks that the fields fit together. [`from_json`](Self::from_json) has done so; needed after changing fields by hand.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and the rule.
    pub fn validate(&self) -> Result<()> {
        let within = |key: &str, value: usize, max: usize| match value {
            v if v == 0 || v > max => Err(Error::Config(format!("{key} is {v}, expected 1 to {max}"))),
            _ => Ok(()),
        };
        within("hidden_size", self.hidden_size, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1 << 22)?;
        within("num_hidden_layers", self.num_hidden_layers, 1024)?;
        within("num_attention_heads", self.num_attention_heads, 1 << 12)?;
        within("num_key_value_heads", self.num_key_value_heads, 1 << 12)?;
        within("head_dim", self.head_dim, 1 << 12)?;
        within("vocab_size", self.vocab_size, 1 << 20)?;
        within("max_position_embeddings", self.max_position_embeddings, 1 << 30)?;
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 1 << 30)?;
        }
        if let Some(layers) = self.effective_num_layers {
            within("effective_num_layers", layers, self.num_hidden_layers)?;
        }
        self.validate_relations()?;
        self.validate_scalars()
    }

    fn validate_relations(&self) -> Result<()> {
        let problem = if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (n, k) = (self.num_attention_heads, self.num_key_value_heads);
            format!("num_attention_heads is {n}, which is no multiple of num_key_value_heads {k}")
        } else if !self.head_dim.is_multiple_of(2) {
            format!("head_dim is {}, rotary embedding pairs its dimensions and needs an even number", self.head_dim)
        } else if self.layer_types.len() != self.num_hidden_layers {
            let (found, expected) = (self.layer_types.len(), self.num_hidden_layers);
            format!("layer_types has {found} entries, num_hidden_layers is {expected}")
        } else if self.sliding_window.is_none() && self.layer_types.contains(&LayerKind::Sliding) {
            "sliding_window is null, but layer_types has sliding layers".to_string()
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    fn validate_scalars(&self) -> Result<()> {
        let positive = |key: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::Config(format!("{key} is {value}, expected a positive finite number"))),
        };
        positive("rms_norm_eps", self.rms_norm_eps)?;
        for (key, value) in [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            value.map_or(Ok(()), |v| positive(key, v))?;
        }
        for rope in [&self.rope_full, &self.rope_sliding] {
            positive("rope_theta", rope.theta)?;
            match rope.scaling {
                RopeScaling::None => {}
                RopeScaling::Linear { factor } => positive("the rope scaling's factor", factor)?,
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                    positive("the rope scaling's factor", factor)?;
                    positive("low_freq_factor", low_freq_factor)?;
                    positive("high_freq_factor", high_freq_factor)?;
                    if high_freq_factor <= low_freq_factor || original_max_position_embeddings == 0 {
                        let problem = format!(
                            "rope scaling {:?}: high_freq_factor must exceed low_freq_factor and the original length be positive",
                            rope.scaling
                        );
                        return Err(Error::Config(problem));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
