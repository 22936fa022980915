//! Pictures and sounds in `config.json`: the ids of their tokens, and the towers.

use super::{
    audio::{self, AudioConfig},
    fields::Fields,
    hard_tokens,
    hard_tokens::HardTokens,
    json, mobilenet,
    mobilenet::MobileNetConfig,
    unknown::MULTIMODAL,
};
use crate::{Error, Result};

/// What the wrapper around a text model says of pictures and sounds; all absent for a text model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MultimodalConfig {
    /// The ids around a picture and in its place.
    pub image: Option<MediaTokens>,
    /// The ids around a clip and in its place.
    pub audio: Option<MediaTokens>,
    /// The id in the place of each soft token of a video's frame (`video_token_id`); around a frame stand the ids
    /// around a picture.
    pub video: Option<u32>,
    /// The tower that makes soft tokens of a picture.
    pub vision: Option<VisionConfig>,
    /// The tower that makes soft tokens of a clip.
    pub audio_tower: Option<AudioConfig>,
    /// The ids that embedders of pictures and sounds embed, in ascending order (Gemma 3n).
    pub hard_tokens: Vec<HardTokens>,
}

/// The ids of a picture's or clip's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaTokens {
    /// Before the soft tokens (`boi_token_id`, `boa_token_id`).
    pub begin: u32,
    /// In the place of each soft token (`image_token_id`, `audio_token_id`).
    pub soft: u32,
    /// After the soft tokens (`eoi_token_id`, `eoa_token_id`).
    pub end: u32,
}

/// A tower that makes soft tokens of a picture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum VisionConfig {
    /// SigLIP (Gemma 3).
    Siglip(SiglipConfig),
    /// Gemma 4's own.
    Gemma4(Gemma4VisionConfig),
    /// No tower, but a projection of patches (Gemma 4 12B).
    Unified(UnifiedVisionConfig),
    /// MobileNet-V5 (Gemma 3n).
    MobileNet(MobileNetConfig),
    /// One that this version does not compute, and why. The text model runs.
    Unsupported(String),
}

impl VisionConfig {
    /// The tower of a released model, by the name that [`GemmaConfig::preset`](crate::gemma::GemmaConfig::preset) knows
    /// the text model by; `None` where there is none.
    pub fn preset(name: &str) -> Option<Self> {
        let siglip = SiglipConfig {
            hidden_size: 1152,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            image_size: 896,
            patch_size: 14,
            layer_norm_eps: 1e-6,
            mm_tokens_per_image: 256,
        };
        let large = Gemma4VisionConfig {
            hidden_size: 1152,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 72,
            rms_norm_eps: 1e-6,
            rope_theta: 100.0,
            patch_size: 16,
            pooling_kernel_size: 3,
            position_embedding_size: 10240,
            clipped_linears: false,
            standardize: true,
            max_soft_tokens: 280,
        };
        let small = Gemma4VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 16,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            head_dim: 64,
            clipped_linears: true,
            standardize: false,
            ..large
        };
        match name {
            "gemma-3-4b" | "gemma-3-12b" | "gemma-3-27b" => Some(VisionConfig::Siglip(siglip)),
            "gemma-3n-e2b" | "gemma-3n-e4b" => Some(VisionConfig::MobileNet(MobileNetConfig::RELEASED)),
            "gemma-4-e2b" | "gemma-4-e4b" => Some(VisionConfig::Gemma4(small)),
            "gemma-4-26b-a4b" | "gemma-4-31b" => Some(VisionConfig::Gemma4(large)),
            _ => None,
        }
    }
}

/// SigLIP's vision tower, and the projector after it (Zhai et al. 2023, arXiv 2303.15343).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SiglipConfig {
    /// Width E.
    pub hidden_size: usize,
    /// Width of the hidden layer of an MLP.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Heads A of E/A dimensions.
    pub num_attention_heads: usize,
    /// Side of a picture, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Added under the root of every norm, the projector's included.
    pub layer_norm_eps: f32,
    /// Soft tokens of a picture, a square number.
    pub mm_tokens_per_image: usize,
}

/// Gemma 4's vision tower: pictures of any aspect, positions by row and column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemma4VisionConfig {
    /// Width E.
    pub hidden_size: usize,
    /// Width of the FFW.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Query heads A.
    pub num_attention_heads: usize,
    /// KV heads; divides A.
    pub num_key_value_heads: usize,
    /// Head dimension; a multiple of 4.
    pub head_dim: usize,
    /// Added under the root of every norm.
    pub rms_norm_eps: f32,
    /// The base of the rotary frequencies.
    pub rope_theta: f32,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Side of the square of patches whose mean is a soft token.
    pub pooling_kernel_size: usize,
    /// Rows and columns that have a position embedding.
    pub position_embedding_size: usize,
    /// Operands and results of the layers' products are clamped (`use_clipped_linears`).
    pub clipped_linears: bool,
    /// The pooled states are shifted and scaled (`standardize`).
    pub standardize: bool,
    /// Most soft tokens of a picture, unless it is given with others.
    pub max_soft_tokens: usize,
}

/// The patch embedder of Gemma 4 12B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnifiedVisionConfig {
    /// Width of a patch's embedding.
    pub mm_embed_dim: usize,
    /// Rows and columns that have a position embedding.
    pub mm_posemb_size: usize,
    /// Side of a patch before `pooling_kernel_size` of them are one, in pixels.
    pub patch_size: usize,
    /// Patches along the side of a merged one.
    pub pooling_kernel_size: usize,
    /// Added under the root of the projection's norm.
    pub rms_norm_eps: f32,
    /// Most soft tokens of a picture, unless it is given with others.
    pub max_soft_tokens: usize,
}

/// The largest budget of soft tokens that processors of Gemma 4 have.
pub(crate) const MOST_SOFT_TOKENS: usize = 1120;

/// Soft tokens of a picture in Gemma 4's released processors.
const GEMMA_4_BUDGET: usize = 280;

/// Keys of a `vision_config` that change nothing: training, and names of what is fixed.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "attention_dropout", "default_output_length", "global_head_dim", "hidden_act", "hidden_activation",
    "max_position_embeddings", "model_type", "num_image_tokens", "output_proj_dims", "projection_dim",
    "vision_use_head",
];

impl VisionConfig {
    /// Most soft tokens of a picture.
    pub fn max_soft_tokens(&self) -> usize {
        match self {
            VisionConfig::Siglip(config) => config.mm_tokens_per_image,
            VisionConfig::Gemma4(config) => config.max_soft_tokens,
            VisionConfig::Unified(config) => config.max_soft_tokens,
            VisionConfig::MobileNet(config) => config.soft_tokens_per_image,
            VisionConfig::Unsupported(_) => 0,
        }
    }

    /// The soft tokens of every picture, where they are one number.
    #[cfg(feature = "vision")]
    pub(crate) fn fixed_soft_tokens(&self) -> Option<usize> {
        match self {
            VisionConfig::Siglip(_) | VisionConfig::MobileNet(_) => Some(self.max_soft_tokens()),
            VisionConfig::Gemma4(_) | VisionConfig::Unified(_) | VisionConfig::Unsupported(_) => None,
        }
    }
}

/// Reads what a wrapper says. What the text model does not need is no reason to refuse it.
///
/// # Errors
/// [`Error::Config`] for embedders' ids that make no sense: the text model would embed them wrongly.
pub(super) fn read(top: &mut Fields) -> Result<MultimodalConfig> {
    let hard_tokens = hard_tokens::read(top)?;
    let mut id = |keys: [&str; 2]| keys.into_iter().find_map(|key| top.token_id(key));
    let mut tokens = |begin, soft, end| Some(MediaTokens { begin: id(begin)?, soft: id(soft)?, end: id(end)? });
    let image =
        tokens(["boi_token_id", "boi_token_index"], ["image_token_id", "image_token_index"], ["eoi_token_id", "eoi_token_index"]);
    let audio =
        tokens(["boa_token_id", "boa_token_index"], ["audio_token_id", "audio_token_index"], ["eoa_token_id", "eoa_token_index"]);
    let video = top.token_id("video_token_id");
    Ok(MultimodalConfig { image, audio, video, vision: vision(top), audio_tower: audio::read(top), hard_tokens })
}

fn vision(top: &mut Fields) -> Option<VisionConfig> {
    let mut read = || -> Result<Option<VisionConfig>> {
        let mm_tokens = top.size("mm_tokens_per_image")?;
        let soft_tokens = top.size("vision_soft_tokens_per_image")?;
        let Some(mut fields) = top.object("vision_config")? else { return Ok(None) };
        refuse_others(&mut fields)?;
        let vision = match fields.text("model_type")?.as_deref() {
            Some("siglip_vision_model") | None => VisionConfig::Siglip(siglip(&mut fields, mm_tokens)?),
            Some("gemma4_vision") => VisionConfig::Gemma4(gemma4(&mut fields)?),
            Some("gemma4_unified_vision") => VisionConfig::Unified(unified(&mut fields)?),
            Some("gemma3n_vision") => return Ok(Some(VisionConfig::MobileNet(mobilenet::read(fields, soft_tokens)?))),
            Some(other) => VisionConfig::Unsupported(format!("vision_config.model_type is {other:?}")),
        };
        if !matches!(vision, VisionConfig::Unsupported(_)) {
            fields.finish(&[HARMLESS, json::HARMLESS, MULTIMODAL])?;
        }
        Ok(Some(vision))
    };
    read().unwrap_or_else(|error| Some(VisionConfig::Unsupported(error.to_string())))
}

/// A size that the class of transformers gives a default.
fn size(f: &mut Fields, key: &str, default: usize) -> Result<usize> {
    Ok(f.size(key)?.unwrap_or(default))
}

fn refuse(problem: impl Into<String>) -> Error {
    Error::Config(format!("vision_config: {}", problem.into()))
}

/// Refuses what no released tower has, and this crate does not compute.
fn refuse_others(f: &mut Fields) -> Result<()> {
    if f.switch("attention_bias")? == Some(true) {
        return Err(f.refuse("attention_bias", &true.into(), "false; this crate does not compute it otherwise"));
    }
    match f.size("num_channels")? {
        Some(channels) if channels != 3 => Err(f.refuse("num_channels", &channels.into(), "3: red, green and blue")),
        _ => Ok(()),
    }
}

fn refuse_activation(f: &mut Fields) -> Result<()> {
    for key in ["hidden_act", "hidden_activation"] {
        match f.text(key)? {
            Some(name) if name != "gelu_pytorch_tanh" => return Err(f.refuse(key, &name.into(), "\"gelu_pytorch_tanh\"")),
            _ => {}
        }
    }
    Ok(())
}

/// Defaults: `SiglipVisionConfig` and `Gemma3Config`.
fn siglip(f: &mut Fields, mm_tokens: Option<usize>) -> Result<SiglipConfig> {
    refuse_activation(f)?;
    let config = SiglipConfig {
        hidden_size: size(f, "hidden_size", 768)?,
        intermediate_size: size(f, "intermediate_size", 3072)?,
        num_hidden_layers: size(f, "num_hidden_layers", 12)?,
        num_attention_heads: size(f, "num_attention_heads", 12)?,
        image_size: size(f, "image_size", 224)?,
        patch_size: size(f, "patch_size", 16)?,
        layer_norm_eps: f.number("layer_norm_eps")?.unwrap_or(1e-6),
        mm_tokens_per_image: mm_tokens.unwrap_or(256),
    };
    let side = config.mm_tokens_per_image.isqrt();
    let grid = config.image_size / config.patch_size.max(1);
    if side == 0 || side * side != config.mm_tokens_per_image || !grid.is_multiple_of(side) {
        let tokens = config.mm_tokens_per_image;
        return Err(refuse(format!("mm_tokens_per_image is {tokens}, expected a square that divides a grid of {grid}² patches")));
    }
    check_heads(config.hidden_size, config.num_attention_heads)?;
    check_sizes([config.num_hidden_layers, config.intermediate_size, config.patch_size, grid])?;
    Ok(config)
}

/// Defaults: `Gemma4VisionConfig`.
fn gemma4(f: &mut Fields) -> Result<Gemma4VisionConfig> {
    refuse_activation(f)?;
    let rope_theta = match f.object("rope_parameters")? {
        Some(mut rope) => {
            // "axial" and "default" mean the same.
            if let Some(other) = rope.text("rope_type")?.filter(|name| !["axial", "default"].contains(&name.as_str())) {
                return Err(rope.refuse("rope_type", &other.into(), "\"axial\" or \"default\""));
            }
            let theta = rope.number("rope_theta")?;
            rope.finish_table(&[])?;
            theta
        }
        None => f.number("rope_theta")?,
    };
    let hidden_size = size(f, "hidden_size", 768)?;
    let num_attention_heads = size(f, "num_attention_heads", 12)?;
    let config = Gemma4VisionConfig {
        hidden_size,
        intermediate_size: size(f, "intermediate_size", 3072)?,
        num_hidden_layers: size(f, "num_hidden_layers", 16)?,
        num_attention_heads,
        num_key_value_heads: size(f, "num_key_value_heads", num_attention_heads)?,
        head_dim: size(f, "head_dim", 64)?,
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: rope_theta.unwrap_or(100.0),
        patch_size: size(f, "patch_size", 16)?,
        pooling_kernel_size: size(f, "pooling_kernel_size", 3)?,
        position_embedding_size: size(f, "position_embedding_size", 10240)?,
        clipped_linears: f.switch("use_clipped_linears")?.unwrap_or(false),
        standardize: f.switch("standardize")?.unwrap_or(false),
        max_soft_tokens: GEMMA_4_BUDGET,
    };
    let Gemma4VisionConfig { num_key_value_heads: kv_heads, head_dim, .. } = config;
    if !head_dim.is_multiple_of(4) || kv_heads == 0 || !num_attention_heads.is_multiple_of(kv_heads) {
        return Err(refuse(format!(
            "head_dim is {head_dim}, expected a multiple of 4; {num_attention_heads} heads on {kv_heads}, expected a multiple"
        )));
    }
    check_sizes([hidden_size, config.intermediate_size, config.num_hidden_layers, config.patch_size])?;
    check_sizes([head_dim, num_attention_heads, config.pooling_kernel_size, config.position_embedding_size])?;
    Ok(config)
}

/// Defaults: `Gemma4UnifiedVisionConfig`.
fn unified(f: &mut Fields) -> Result<UnifiedVisionConfig> {
    let config = UnifiedVisionConfig {
        mm_embed_dim: size(f, "mm_embed_dim", 3840)?,
        mm_posemb_size: size(f, "mm_posemb_size", 1120)?,
        patch_size: size(f, "patch_size", 16)?,
        pooling_kernel_size: size(f, "pooling_kernel_size", 3)?,
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
        max_soft_tokens: GEMMA_4_BUDGET,
    };
    check_sizes([config.mm_embed_dim, config.mm_posemb_size, config.patch_size, config.pooling_kernel_size])?;
    Ok(config)
}

fn check_heads(width: usize, heads: usize) -> Result<()> {
    let fits = heads > 0 && width.is_multiple_of(heads) && (width / heads).is_multiple_of(2);
    if fits { Ok(()) } else { Err(refuse(format!("{heads} heads of a width of {width}, expected heads of an even width"))) }
}

/// The largest size that any of them may have: products of two stay far from overflow.
const MOST: usize = 1 << 20;

pub(super) fn check_sizes(sizes: [usize; 4]) -> Result<()> {
    match sizes.into_iter().find(|size| !(1..=MOST).contains(size)) {
        Some(size) => Err(Error::Config(format!("a size of a tower is {size}, expected 1 to {MOST}"))),
        None => Ok(()),
    }
}
