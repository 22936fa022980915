//! Audio towers in `config.json`.

use serde_json::Value;

use super::{fields::Fields, json, multimodal::check_sizes, unknown::MULTIMODAL};
use crate::{Error, Result};

/// A tower that makes soft tokens of a clip.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AudioConfig {
    /// A Conformer (Gemma 4 E2B and E4B, Gemma 3n).
    Conformer(ConformerConfig),
    /// No tower, but a projection of samples (Gemma 4 12B).
    Unified(UnifiedAudioConfig),
    /// One that this version does not compute, and why. The text model runs.
    Unsupported(String),
}

impl AudioConfig {
    /// The audio tower of a released shape, by the name of [`GemmaConfig::preset`](crate::gemma::GemmaConfig::preset);
    /// `None` where it has none or it is not known here. The sizes are transformers' defaults.
    pub fn preset(name: &str) -> Option<Self> {
        let mut fields = Fields::new(serde_json::Map::new(), "audio_config.");
        let config = match name {
            "gemma-4-e2b" | "gemma-4-e4b" => gemma4(&mut fields),
            "gemma-3n-e2b" | "gemma-3n-e4b" => gemma3n(&mut fields, SOFT_TOKENS_3N),
            _ => return None,
        };
        config.ok().map(AudioConfig::Conformer)
    }
}

/// A Conformer over log-mel features (Gulati et al. 2020, arXiv 2005.08100).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConformerConfig {
    /// Whose it is.
    pub kind: ConformerKind,
    /// Width E.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of E/A dimensions.
    pub num_attention_heads: usize,
    /// Mel bins of a frame, a multiple of 4.
    pub input_feat_size: usize,
    /// Channels of the two convolutions before the layers.
    pub conv_channels: [usize; 2],
    /// Frames that the depthwise convolution of a layer sees.
    pub conv_kernel_size: usize,
    /// Frames that a frame attends to, itself among them.
    pub attention_context: usize,
    /// The cap of attention's scores.
    pub attention_logit_cap: f32,
    /// The factor of a feed-forward's result.
    pub residual_weight: f32,
    /// Added under the root of every norm of a row.
    pub rms_norm_eps: f32,
}

/// The Conformers that differ in names, in the norms of their convolutions, and in what follows the layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ConformerKind {
    /// Gemma 4 E2B and E4B.
    Gemma4 {
        /// Operands and results of the layers' products are clamped (`use_clipped_linears`).
        clipped_linears: bool,
        /// Width of the tower's output.
        output_proj_dims: usize,
        /// Frames of a block of attention, which only the padding of a batch knows of.
        attention_chunk_size: usize,
    },
    /// Gemma 3n.
    Gemma3n {
        /// Added under the root of the convolutions' norms.
        group_norm_eps: f32,
        /// Of so many frames the first is a soft token.
        reduction_factor: usize,
        /// Soft tokens of every clip; padding fills those that it has no sound for.
        soft_tokens: usize,
        /// Ids of the tower's own embedding table; the last stands for padding.
        vocab_size: usize,
    },
}

/// The projection of samples in Gemma 4 12B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnifiedAudioConfig {
    /// Samples of a soft token.
    pub audio_embed_dim: usize,
    /// Added under the root of the norm.
    pub rms_norm_eps: f32,
}

/// Soft tokens of a clip in Gemma 3n, unless `config.json` says otherwise.
const SOFT_TOKENS_3N: usize = 188;

/// Keys of an `audio_config` that change nothing: training, names of what is fixed, and bounds without effect in f32.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "attention_invalid_logits_value", "conf_attention_chunk_size", "gradient_clipping", "model_type",
    "vocab_offset",
];

/// The tower of a wrapper; `None` where it has none.
pub(super) fn read(top: &mut Fields) -> Option<AudioConfig> {
    let mut read = || -> Result<Option<AudioConfig>> {
        let soft_tokens = top.size("audio_soft_tokens_per_image")?.unwrap_or(SOFT_TOKENS_3N);
        let Some(mut fields) = top.object("audio_config")? else { return Ok(None) };
        let audio = match fields.text("model_type")?.as_deref() {
            Some("gemma4_audio") => AudioConfig::Conformer(gemma4(&mut fields)?),
            Some("gemma3n_audio") => AudioConfig::Conformer(gemma3n(&mut fields, soft_tokens)?),
            Some("gemma4_unified_audio") => AudioConfig::Unified(unified(&mut fields)?),
            other => AudioConfig::Unsupported(format!("audio_config.model_type is {other:?}")),
        };
        if !matches!(audio, AudioConfig::Unsupported(_)) {
            fields.finish(&[HARMLESS, json::HARMLESS, MULTIMODAL])?;
        }
        Ok(Some(audio))
    };
    read().unwrap_or_else(|error| Some(AudioConfig::Unsupported(error.to_string())))
}

fn refuse(problem: impl Into<String>) -> Error {
    Error::Config(format!("audio_config: {}", problem.into()))
}

/// A key that this crate computes with one value alone.
fn expect(f: &mut Fields, key: &str, expected: Value) -> Result<()> {
    match f.take(key) {
        Some(found) if found != expected => Err(f.refuse(key, &found, &format!("{expected}; this crate computes no other"))),
        _ => Ok(()),
    }
}

fn channels(f: &mut Fields, key: &str) -> Result<[usize; 2]> {
    let Some(found) = f.take(key) else { return Ok([128, 32]) };
    let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
    match found.as_array().map(Vec::as_slice) {
        Some([first, second]) => size(first).zip(size(second)).map(<[usize; 2]>::from),
        _ => None,
    }
    .ok_or_else(|| f.refuse(key, &found, "two whole numbers"))
}

/// Defaults: `Gemma4AudioConfig`.
fn gemma4(f: &mut Fields) -> Result<ConformerConfig> {
    expect(f, "hidden_act", "silu".into())?;
    expect(f, "attention_context_right", 0.into())?;
    let clipped_linears = f.switch("use_clipped_linears")?.unwrap_or(true);
    let output_proj_dims = f.size("output_proj_dims")?.unwrap_or(1536);
    let attention_chunk_size = f.size("attention_chunk_size")?.unwrap_or(12);
    let left = f.size("attention_context_left")?.unwrap_or(13);
    let config = ConformerConfig {
        kind: ConformerKind::Gemma4 { clipped_linears, output_proj_dims, attention_chunk_size },
        hidden_size: f.size("hidden_size")?.unwrap_or(1024),
        num_hidden_layers: f.size("num_hidden_layers")?.unwrap_or(12),
        num_attention_heads: f.size("num_attention_heads")?.unwrap_or(8),
        input_feat_size: 128,
        conv_channels: channels(f, "subsampling_conv_channels")?,
        conv_kernel_size: f.size("conv_kernel_size")?.unwrap_or(5),
        // The frame that far before is out of reach.
        attention_context: left.saturating_sub(1),
        attention_logit_cap: f.number("attention_logit_cap")?.unwrap_or(50.0),
        residual_weight: f.number("residual_weight")?.unwrap_or(0.5),
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
    };
    check_sizes([output_proj_dims, attention_chunk_size, 1, 1])?;
    checked(config)
}

/// Defaults: `Gemma3nAudioConfig`.
fn gemma3n(f: &mut Fields, soft_tokens: usize) -> Result<ConformerConfig> {
    expect(f, "conf_attention_context_right", 0.into())?;
    expect(f, "sscp_conv_kernel_size", serde_json::json!([[3, 3], [3, 3]]))?;
    expect(f, "sscp_conv_stride_size", serde_json::json!([[2, 2], [2, 2]]))?;
    let group_norm_eps = f.number("sscp_conv_group_norm_eps")?.unwrap_or(1e-3);
    let reduction_factor = f.size("conf_reduction_factor")?.unwrap_or(4);
    let vocab_size = f.size("vocab_size")?.unwrap_or(128);
    let left = f.size("conf_attention_context_left")?.unwrap_or(13);
    let config = ConformerConfig {
        kind: ConformerKind::Gemma3n { group_norm_eps, reduction_factor, soft_tokens, vocab_size },
        hidden_size: f.size("hidden_size")?.unwrap_or(1536),
        num_hidden_layers: f.size("conf_num_hidden_layers")?.unwrap_or(12),
        num_attention_heads: f.size("conf_num_attention_heads")?.unwrap_or(8),
        input_feat_size: f.size("input_feat_size")?.unwrap_or(128),
        conv_channels: channels(f, "sscp_conv_channel_size")?,
        conv_kernel_size: f.size("conf_conv_kernel_size")?.unwrap_or(5),
        attention_context: left,
        attention_logit_cap: f.number("conf_attention_logit_cap")?.unwrap_or(50.0),
        residual_weight: f.number("conf_residual_weight")?.unwrap_or(0.5),
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
    };
    check_sizes([reduction_factor, soft_tokens, vocab_size, 1])?;
    checked(config)
}

fn checked(config: ConformerConfig) -> Result<ConformerConfig> {
    let ConformerConfig { hidden_size: width, num_attention_heads: heads, .. } = config;
    if heads == 0 || !width.is_multiple_of(2 * heads) {
        return Err(refuse(format!("{heads} heads of a width of {width}, expected heads of an even width")));
    }
    if !config.input_feat_size.is_multiple_of(4) {
        return Err(refuse(format!("input_feat_size is {}, expected a multiple of 4", config.input_feat_size)));
    }
    check_sizes([width, config.num_hidden_layers, config.input_feat_size, config.conv_kernel_size])?;
    check_sizes([config.conv_channels[0], config.conv_channels[1], config.attention_context, 1])?;
    Ok(config)
}

/// Defaults: `Gemma4UnifiedAudioConfig`.
fn unified(f: &mut Fields) -> Result<UnifiedAudioConfig> {
    let audio_embed_dim = f.size("audio_embed_dim")?.unwrap_or(640);
    check_sizes([audio_embed_dim, 1, 1, 1])?;
    Ok(UnifiedAudioConfig { audio_embed_dim, rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6) })
}

#[cfg(test)]
mod tests;
