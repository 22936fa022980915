//! Ids that an embedder of pictures or sounds embeds, and not the text model's table (Gemma 3n).

use serde_json::Value;

use super::fields::Fields;
use crate::{Error, Result};

/// The ids of one embedder (HF: `Gemma3nMultimodalEmbedder`), which it embeds from a table of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardTokens {
    /// Whose they are.
    pub embedder: Embedder,
    /// The first id (`vocab_offset`).
    pub first: u32,
    /// Number of ids (`vocab_size`).
    pub count: usize,
    /// Width of the table's rows.
    pub width: usize,
    /// Added under the root of the embedder's norms.
    pub rms_norm_eps: f32,
}

/// An embedder of Gemma 3n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedder {
    /// That of pictures, `embed_vision`.
    Vision,
    /// That of sounds, `embed_audio`.
    Audio,
}

impl Embedder {
    /// The beginning of its weights' names.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Vision => "embed_vision",
            Self::Audio => "embed_audio",
        }
    }
}

/// The defaults of a class in transformers.
struct Class {
    embedder: Embedder,
    key: &'static str,
    model_type: &'static str,
    first: u64,
    width: u64,
}

const CLASSES: [Class; 2] = [
    Class { embedder: Embedder::Vision, key: "vision_config", model_type: "gemma3n_vision", first: 262_144, width: 2048 },
    Class { embedder: Embedder::Audio, key: "audio_config", model_type: "gemma3n_audio", first: 262_272, width: 1536 },
];

/// Reads the embedders' ids off the configurations of the towers, in ascending order.
///
/// # Errors
/// [`Error::Config`] for numbers that are none, or ids of two embedders that do not follow each other.
pub(super) fn read(top: &Fields) -> Result<Vec<HardTokens>> {
    let mut found = Vec::new();
    for class in CLASSES {
        found.extend(top.peek(class.key).map(|config| of(&class, config)).transpose()?.flatten());
    }
    if let [vision, audio] = found[..] {
        let after = u64::from(vision.first) + vision.count as u64;
        if u64::from(audio.first) != after {
            let found = format!("audio_config.vocab_offset is {}", audio.first);
            return Err(Error::Config(format!("{found}, expected {after}, the id after those of vision_config")));
        }
    }
    Ok(found)
}

fn of(class: &Class, config: &Value) -> Result<Option<HardTokens>> {
    if config.get("model_type").and_then(Value::as_str) != Some(class.model_type) {
        return Ok(None);
    }
    let number = |key: &str, default: u64| {
        let refuse = |value: &Value| Error::Config(format!("{}.{key} is {value}, expected 1 to 2^30", class.key));
        match config.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_u64().filter(|n| (1..=1 << 30).contains(n)).ok_or_else(|| refuse(value)),
        }
    };
    let eps = config.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6);
    Ok(Some(HardTokens {
        embedder: class.embedder,
        first: number("vocab_offset", class.first)? as u32,
        count: number("vocab_size", 128)? as usize,
        width: number("hidden_size", class.width)? as usize,
        rms_norm_eps: eps as f32,
    }))
}

#[cfg(test)]
mod tests;
