//! Gemma 3n's vision tower in its configuration, which says little: the rest is read off the weights.

use super::{fields::Fields, json};
use crate::{Error, Result};

/// MobileNet-V5 and the embedder after it (timm: `mobilenetv5_300m_enc`). Its blocks are those that the weights' names
/// tell of, with the sizes of their shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MobileNetConfig {
    /// Side of a picture, in pixels; a multiple of 32. It stands in `preprocessor_config.json`.
    pub image_size: usize,
    /// Soft tokens of a picture, a square number.
    pub soft_tokens_per_image: usize,
    /// Added under the root of the embedder's norms.
    pub rms_norm_eps: f32,
}

/// Keys of a `vision_config` that change nothing here: what timm builds, where the weights say so too, and its head,
/// which the encoder leaves out. `vocab_offset` and `vocab_size` are of the ids that the embedder embeds.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "do_pooling", "hidden_size", "label_names", "model_args", "model_type", "num_classes", "vocab_offset", "vocab_size",
];

impl MobileNetConfig {
    /// That of the released models.
    pub(super) const RELEASED: Self = Self { image_size: 768, soft_tokens_per_image: 256, rms_norm_eps: 1e-6 };

    /// Side of the grid of the tower's finer stage, whose squares soft tokens are means of.
    pub(crate) fn grid(&self) -> usize {
        self.image_size / 16
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { image_size, soft_tokens_per_image: tokens, .. } = *self;
        let side = tokens.isqrt();
        if side == 0 || side * side != tokens || image_size == 0 || image_size > 1 << 14 {
            return Err(refuse(format!("{tokens} soft tokens of {image_size}² pixels, expected a square number of both")));
        }
        if !image_size.is_multiple_of(32) || !self.grid().is_multiple_of(side) {
            let expected = format!("a multiple of 32, and of {} for {tokens} soft tokens", 16 * side);
            return Err(refuse(format!("a picture's side is {image_size}, expected {expected}")));
        }
        Ok(())
    }
}

fn refuse(problem: String) -> Error {
    Error::Config(format!("vision_config: {problem}"))
}

/// Defaults: `Gemma3nVisionConfig` and `Gemma3nConfig`.
pub(super) fn read(mut fields: Fields, soft_tokens: Option<usize>) -> Result<MobileNetConfig> {
    if let Some(other) = fields.text("architecture")?.filter(|name| !name.starts_with("mobilenetv5")) {
        return Err(fields.refuse("architecture", &other.into(), "one of mobilenetv5"));
    }
    let released = MobileNetConfig::RELEASED;
    let config = MobileNetConfig {
        soft_tokens_per_image: soft_tokens.unwrap_or(released.soft_tokens_per_image),
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(released.rms_norm_eps),
        ..released
    };
    fields.finish(&[HARMLESS, json::HARMLESS])?;
    config.check()?;
    Ok(config)
}
