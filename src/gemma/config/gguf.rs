//! The metadata of a GGUF file into a [`GemmaConfig`] (gemma-spec §10). What a file leaves out is what llama.cpp takes for it.

use std::path::Path;

use super::{GemmaArch, GemmaConfig, LayerKind, RopeConfig, RopeScaling, json::named, preset::layer_pattern};
use crate::{
    Error, Result,
    weights::{FileLimits, GgufFiles, GgufMetadata, ReadMode, ReadOptions},
};

pub(super) fn from_file(path: &Path, limits: FileLimits) -> Result<GemmaConfig> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    read(&files).map_err(|error| named(path, error))
}

fn read(files: &GgufFiles) -> Result<GemmaConfig> {
    let name = files.architecture()?;
    let arch = arch_of(name)?;
    let keys = Keys { metadata: &files.metadata, prefix: name };
    let Some(embedding) = files.tensor("token_embd.weight") else {
        return Err(files.error("tensor 'token_embd.weight' is missing; is the file complete?".into()));
    };
    if files.tensor("rope_freqs.weight").is_some() {
        return Err(Error::Unsupported(format!("rope_freqs.weight in a {name} file: a rotary scaling of its own, which")));
    }
    let num_hidden_layers = keys.required_size("block_count")?;
    let num_attention_heads = keys.required_size("attention.head_count")?;
    let hidden_size = keys.required_size("embedding_length")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_size / num_attention_heads.max(1),
    };
    if let Some(value) = keys.size("attention.value_length")?.filter(|value| *value != head_dim) {
        return Err(Error::Unsupported(format!("attention.value_length {value} beside key_length {head_dim}: it")));
    }
    if let Some(rotated) = keys.size("rope.dimension_count")?.filter(|rotated| *rotated != head_dim) {
        return Err(Error::Config(format!("{name}.rope.dimension_count is {rotated}, expected the head dimension, {head_dim}")));
    }
    let (layer_types, sliding_window) = layers(&keys, arch, num_hidden_layers)?;
    let (rope_full, rope_sliding) = rope(&keys, arch)?;
    let config = GemmaConfig {
        arch,
        hidden_size,
        intermediate_size: keys.required_size("feed_forward_length")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: keys.required("attention.layer_norm_rms_epsilon", keys.number("attention.layer_norm_rms_epsilon")?)?,
        max_position_embeddings: keys.required_size("context_length")?,
        layer_types,
        sliding_window,
        query_pre_attn_scalar: query_scalar(arch, num_hidden_layers, [hidden_size, num_attention_heads, head_dim]),
        attn_logit_softcapping: keys.cap("attn_logit_softcapping", arch, Some(50.0))?,
        final_logit_softcapping: match arch {
            GemmaArch::Gemma3 => keys.number("final_logit_softcapping")?.filter(|cap| *cap != 0.0),
            _ => keys.cap("final_logit_softcapping", arch, Some(30.0))?,
        },
        tie_word_embeddings: arch != GemmaArch::Gemma3 || files.tensor("output.weight").is_none(),
        eos_token_ids: stop_tokens(&keys)?,
        bos_token_id: Some(keys.token("bos_token_id")?.unwrap_or(2)),
        pad_token_id: Some(keys.token("padding_token_id")?.unwrap_or(0)),
        rope_full,
        rope_sliding,
        effective_num_layers: None,
    };
    config.validate()?;
    Ok(config)
}

fn arch_of(name: &str) -> Result<GemmaArch> {
    let why = match name {
        "gemma" => return Ok(GemmaArch::Gemma),
        "gemma2" => return Ok(GemmaArch::Gemma2),
        "gemma3" => return Ok(GemmaArch::Gemma3),
        "gemma3n" => "Gemma 3n has alternating updates, per-layer embeddings and shared K/V, which",
        "gemma4" => "Gemma 4 has per-layer head dimensions, value norms and layer scalars, which",
        "gemma4-assistant" => "a drafter attends to another model's K/V, which",
        "gemma-embedding" => "an embedding model has no language model's head and bidirectional attention, which",
        other => {
            let shown: String = other.chars().take(60).collect();
            return Err(Error::Config(format!("general.architecture is {shown:?}, expected gemma, gemma2 or gemma3")));
        }
    };
    Err(Error::Unsupported(format!("architecture {name:?}: {why}")))
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    prefix: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::Config(format!("{}.{key} is missing; was the file made by another converter?", self.prefix)))
    }

    /// A size, or an array with the same size for every layer.
    fn size(&self, key: &str) -> Result<Option<usize>> {
        let key = self.full(key);
        let Some(sizes) = self.metadata.sizes(&key).map_err(Error::Config)? else { return Ok(None) };
        match sizes.split_first() {
            Some((first, rest)) if rest.iter().all(|size| size == first) => Ok(Some(*first)),
            _ => Err(Error::Unsupported(format!("{key} that differs from layer to layer"))),
        }
    }

    fn required_size(&self, key: &str) -> Result<usize> {
        self.required(key, self.size(key)?)
    }

    fn number(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.number(&self.full(key)).map_err(Error::Config)
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.text(&self.full(key)).map_err(Error::Config)
    }

    /// A softcap of Gemma 2, where 0 means none; the other families ignore the key.
    fn cap(&self, key: &str, arch: GemmaArch, absent: Option<f32>) -> Result<Option<f32>> {
        match arch {
            GemmaArch::Gemma2 => Ok(self.number(key)?.or(absent).filter(|cap| *cap != 0.0)),
            _ => Ok(None),
        }
    }

    fn token(&self, key: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{key}");
        let Some(id) = self.metadata.size(&key).map_err(Error::Config)? else { return Ok(None) };
        u32::try_from(id).map(Some).map_err(|_| Error::Config(format!("{key} is {id}, which is no token")))
    }
}

/// The end of a text, and where the file names one the end of a turn or message.
fn stop_tokens(keys: &Keys) -> Result<Vec<u32>> {
    let mut stop = vec![keys.token("eos_token_id")?.unwrap_or(1)];
    for key in ["eot_token_id", "eom_token_id"] {
        stop.extend(keys.token(key)?.filter(|id| !stop.contains(id)));
    }
    Ok(stop)
}

/// No key says it: the largest models of Gemma 2 and 3 have D/N, every other the head dimension.
fn query_scalar(arch: GemmaArch, layers: usize, [hidden_size, heads, head_dim]: [usize; 3]) -> Option<f32> {
    match (arch, layers) {
        (GemmaArch::Gemma, _) => None,
        (GemmaArch::Gemma2, 46) | (GemmaArch::Gemma3, 62) => Some(hidden_size as f32 / heads as f32),
        _ => Some(head_dim as f32),
    }
}

/// The kinds of the layers and the window.
fn layers(keys: &Keys, arch: GemmaArch, count: usize) -> Result<(Vec<LayerKind>, Option<usize>)> {
    if count > 1024 {
        return Err(Error::Config(format!("{} is {count}, expected 1 to 1024", keys.full("block_count"))));
    }
    let window = match arch {
        GemmaArch::Gemma => None,
        GemmaArch::Gemma2 => Some(keys.size("attention.sliding_window")?.unwrap_or(4096)),
        _ => keys.size("attention.sliding_window")?,
    };
    let Some(window) = window.filter(|window| *window > 0) else { return Ok((vec![LayerKind::Full; count], None)) };
    let key = keys.full("attention.sliding_window_pattern");
    let kinds = if keys.metadata.is_array(&key) {
        let sliding = keys.metadata.flags(&key).map_err(Error::Config)?.unwrap_or_default();
        sliding.into_iter().map(|sliding| if sliding { LayerKind::Sliding } else { LayerKind::Full }).collect()
    } else {
        match (keys.metadata.size(&key).map_err(Error::Config)?, arch) {
            (Some(0), _) => return Err(Error::Config(format!("{key} is 0, expected 1 or more"))),
            (Some(period), _) => {
                (1..=count).map(|i| if i % period == 0 { LayerKind::Full } else { LayerKind::Sliding }).collect()
            }
            (None, arch) => layer_pattern(arch, count, None),
        }
    };
    Ok((kinds, Some(window)))
}

/// The tables of full and of sliding layers. Only full layers are scaled.
fn rope(keys: &Keys, arch: GemmaArch) -> Result<(RopeConfig, RopeConfig)> {
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let scaling = match (keys.text("rope.scaling.type")?, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => RopeScaling::None,
        // llama.cpp takes a factor of 0 for none.
        (None | Some("linear"), Some(0.0 | 1.0)) => RopeScaling::None,
        (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
        (Some(other), _) => {
            let shown: String = other.chars().take(60).collect();
            return Err(Error::Unsupported(format!("rope.scaling.type {shown:?} (\"none\" and \"linear\" are): it")));
        }
    };
    let full = RopeConfig { theta: keys.number("rope.freq_base")?.unwrap_or(1e4), scaling };
    match arch {
        GemmaArch::Gemma3 => Ok((full, RopeConfig::new(keys.number("rope.freq_base_swa")?.unwrap_or(1e4)))),
        _ => Ok((full, full)),
    }
}
