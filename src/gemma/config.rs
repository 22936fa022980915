//! A model's configuration: sizes and per-layer facts, as plain data.

mod absent;
mod audio;
mod drafter;
pub(crate) mod family;
mod fields;
mod gguf;
mod gguf_heads;
mod gguf_keys;
mod gguf_markers;
mod gguf_rope;
mod hard_tokens;
mod json;
mod json_layers;
mod layers;
mod mobilenet;
mod multimodal;
mod preset;
mod processor;
mod projector;
mod projector_files;
mod quantised;
mod rope;
mod sparsity;
mod types;
mod unknown;
mod validate;

use std::collections::BTreeMap;

pub use audio::{AudioConfig, ConformerConfig, ConformerKind, UnifiedAudioConfig};
pub use drafter::{Centroids, GemmaDrafterConfig};
pub use family::GemmaArch;
pub(crate) use gguf_markers::text_rows;
pub use hard_tokens::{Embedder, HardTokens};
pub use mobilenet::MobileNetConfig;
#[cfg(feature = "vision")]
pub(crate) use multimodal::MOST_SOFT_TOKENS;
pub use multimodal::{Gemma4VisionConfig, MediaTokens, MultimodalConfig, SiglipConfig, UnifiedVisionConfig, VisionConfig};
pub(crate) use projector::{Projector, is_projector, projectors};
#[cfg(feature = "hub")]
pub(crate) use projector_files::is_projector_name;
pub use types::{
    AltUp, BidirectionalPictures, GemmaLayerStyle, LayerAttnOptions, LayerKind, LayerOverrides, Moe, PerLayerInput, RopeConfig,
    RopeScaling,
};
pub(super) use validate::{MOST_DENSE, MOST_STREAMS};

use crate::{Result, files::ModelPath, weights::FileLimits};

/// A model's configuration: the fields of Hugging Face's `config.json` (its text part), with absent ones resolved to
/// the family's defaults.
///
/// The fields are plain data and may be changed; [`validate`](Self::validate) says whether they still fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaConfig {
    /// The family.
    pub arch: GemmaArch,
    /// Model dimension D.
    pub hidden_size: usize,
    /// FFW dimension F of layers that have none of their own.
    pub intermediate_size: usize,
    /// Decoder layers in the checkpoint.
    pub num_hidden_layers: usize,
    /// Query heads N.
    pub num_attention_heads: usize,
    /// KV heads K of layers that have none of their own; divides N.
    pub num_key_value_heads: usize,
    /// Head dimension H of layers that have none of their own; even. N·H need not equal D.
    pub head_dim: usize,
    /// Vocabulary V.
    pub vocab_size: usize,
    /// Added to the mean square under the root of every RMSNorm.
    pub rms_norm_eps: f32,
    /// The longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// One kind a layer.
    pub layer_types: Vec<LayerKind>,
    /// Keys a sliding layer keeps, the query's own position included; where attention looks both ways, so many in all,
    /// half of them on either side (EmbeddingGemma 2: so many on either side). `None` only without sliding layers.
    pub sliding_window: Option<usize>,
    /// Queries see later tokens too, as in models that embed whole texts.
    pub use_bidirectional_attention: bool,
    /// Layers in which the tokens of a picture see later ones of it.
    pub bidirectional_pictures: BidirectionalPictures,
    /// Scores are multiplied by this to the power −1/2; in Gemma 3n, 4 and EmbeddingGemma 2 it is 1. `None` (Gemma 1):
    /// by `head_dim` to the power −1/2.
    pub query_pre_attn_scalar: Option<f32>,
    /// Softcap of the attention scores.
    pub attn_logit_softcapping: Option<f32>,
    /// Softcap of the logits.
    pub final_logit_softcapping: Option<f32>,
    /// The LM head is the embedding.
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
    /// Sizes in which single layers differ, by layer: in Gemma 4 the heads of full layers and the FFW of layers without
    /// K and V.
    pub per_layer_config: BTreeMap<usize, LayerOverrides>,
    /// Full layers take their keys, before norm and rotation, as values (Gemma 4).
    pub attention_k_eq_v: bool,
    /// Layers at the end that attend to the K and V of earlier ones and own none.
    pub num_kv_shared_layers: usize,
    /// Per-layer embeddings (Gemma 3n, some of Gemma 4, EmbeddingGemma 2).
    pub per_layer_input: Option<PerLayerInput>,
    /// Alternating updates (Gemma 3n).
    pub altup: Option<AltUp>,
    /// Rank r of the learned augmented residual beside attention (LAuReL, Menghani et al. 2024, arXiv 2411.07501; Gemma
    /// 3n).
    pub laurel_rank: Option<usize>,
    /// For each layer the standard deviations above their mean that a gate of the FFW must exceed to count; `None`
    /// where all count. Empty where that is so in every layer.
    pub activation_sparsity: Vec<Option<f32>>,
    /// Width that each token's final state is projected to before the mean (EmbeddingGemma 2).
    pub embedding_dim: Option<usize>,
    /// Widths of the products after the mean of a text's tokens, in order (EmbeddingGemma 1: 3072, 768); empty without.
    /// Not in `config.json`, but beside it (`modules.json`).
    pub embedding_dense: Vec<usize>,
    /// Experts beside the FFW of each layer (some of Gemma 4).
    pub moe: Option<Moe>,
    /// Pictures and sounds.
    pub multimodal: MultimodalConfig,
    /// Run only this many layers, the first ones. Never read from a file.
    pub effective_num_layers: Option<usize>,
}

impl GemmaConfig {
    /// Reads `config.json` (or the `config.json` of a folder). Stop tokens of a `generation_config.json` beside it are
    /// added, and for a model with bidirectional attention what the `modules.json` beside it says of the way from
    /// tokens to a text's vector.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where a file cannot be read; [`Error::Config`](crate::Error::Config) and
    /// [`Error::Unsupported`](crate::Error::Unsupported) as [`from_json`](Self::from_json), with the file's name in
    /// front, and for modules of a text embedding model that this crate does not compute;
    /// [`Error::Format`](crate::Error::Format) for a `modules.json` that is none.
    pub fn from_file(path: impl Into<ModelPath>) -> Result<Self> {
        json::from_file(&path.into())
    }

    /// Reads the metadata of a GGUF file (of one in parts: the first), and the towers of the projector's file beside
    /// it, where there is one of this model with `mmproj` in its name ([`with_projector`](Self::with_projector)).
    ///
    /// Files say neither `query_pre_attn_scalar` nor, in Gemma 1 and 2, anything of the rotary table; both are what the
    /// family has. The names that Ollama's converter has for some keys are read too. An absent key in which models of
    /// the family differ is refused by name, as is an unknown key that may change the results. A `tracing` warning
    /// tells of all else that was taken for granted or passed over. Tokens that end a turn count among `eos_token_ids`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Format`](crate::Error::Format) as
    /// [`GgufLoader::from_file`](crate::checkpoint::GgufLoader::from_file); [`Error::Config`](crate::Error::Config) and
    /// [`Error::Unsupported`](crate::Error::Unsupported) as [`from_json`](Self::from_json), with the file's name in
    /// front.
    pub fn from_gguf(path: impl Into<ModelPath>) -> Result<Self> {
        Self::from_gguf_with(path, FileLimits::default())
    }

    /// As [`from_gguf`](Self::from_gguf), for files whose headers ask for more than [`FileLimits::default`] allows.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn from_gguf_with(path: impl Into<ModelPath>, limits: FileLimits) -> Result<Self> {
        gguf::from_file(&path.into(), limits)
    }

    /// The configuration of a GGUF file's text model with the towers of a projector's file, as llama.cpp has them apart
    /// (`mmproj`). The ids of a picture's and a clip's tokens stay those of the text model.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Format`](crate::Error::Format) as [`from_gguf`](Self::from_gguf);
    /// [`Error::Config`](crate::Error::Config) for a file of another kind, or of a model of another family or width;
    /// [`Error::Unsupported`](crate::Error::Unsupported) for the projector of a model that this crate does not run.
    pub fn with_projector(&self, path: impl Into<ModelPath>) -> Result<Self> {
        projector::add(self, &path.into())
    }

    /// As [`with_projector`](Self::with_projector) where the file at `path` is a projector's; unchanged for others.
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(crate) fn with_towers_of(&self, path: &ModelPath) -> Result<std::borrow::Cow<'_, Self>> {
        use std::borrow::Cow;
        let is_projector = crate::weights::is_gguf(path) && is_projector(&projector::open(path)?);
        if is_projector { self.with_projector(path).map(Cow::Owned) } else { Ok(Cow::Borrowed(self)) }
    }

    /// The projector's file that lies beside the GGUF file of a text model: the one there with `mmproj` in its name
    /// that is of this model.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where several are, by their names; what is wrong with the file where
    /// none can be taken.
    pub(crate) fn projector_beside(text: &ModelPath) -> Result<Option<ModelPath>> {
        gguf::projector_beside(text)
    }

    /// The configuration of a model that is given as its weights: a GGUF file, a folder with a `config.json`, or a file
    /// with a `config.json` beside it.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf) and [`from_file`](Self::from_file).
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        let path: &ModelPath = &weights.into();
        if crate::weights::is_gguf(path) { Self::from_gguf(path) } else { Self::from_file(path.folder().join("config.json")) }
    }

    /// Reads the text of a `config.json`: a text model, or a wrapper (`gemma3`, `gemma3n`, `gemma4`, `gemma4_unified`,
    /// `embedding_gemma2`) with its `text_config`.
    ///
    /// Keys that are absent are what the family's class in transformers has. Keys that no Gemma has are refused by name
    /// where they may change what a model computes; of the others one `tracing` warning tells.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names the key and value that cannot be computed faithfully or make no
    /// sense; [`Error::Unsupported`](crate::Error::Unsupported) names a model family that this crate does not run.
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

    /// A configuration of `arch` without sizes and without the features that only some models have; readers fill it.
    fn bare(arch: GemmaArch) -> Self {
        Self {
            arch,
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            vocab_size: 0,
            rms_norm_eps: 0.0,
            max_position_embeddings: 0,
            layer_types: Vec::new(),
            sliding_window: None,
            use_bidirectional_attention: false,
            bidirectional_pictures: arch.family().bidirectional_pictures,
            query_pre_attn_scalar: None,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            tie_word_embeddings: true,
            eos_token_ids: Vec::new(),
            bos_token_id: None,
            pad_token_id: None,
            rope_full: RopeConfig::new(0.0),
            rope_sliding: RopeConfig::new(0.0),
            per_layer_config: BTreeMap::new(),
            attention_k_eq_v: false,
            num_kv_shared_layers: 0,
            per_layer_input: None,
            altup: None,
            laurel_rank: None,
            activation_sparsity: Vec::new(),
            embedding_dim: None,
            embedding_dense: Vec::new(),
            moe: None,
            multimodal: MultimodalConfig::default(),
            effective_num_layers: None,
        }
    }

    /// A Gemma 3 of two layers, the first sliding, the second full, for examples and tests.
    pub fn tiny_test() -> Self {
        preset::tiny()
    }
}

#[cfg(test)]
mod tests;
