//! The metadata of a GGUF file into a [`GemmaConfig`] (gemma-spec §10). What a file leaves out is what llama.cpp takes for it.

use std::path::Path;

use super::{
    GemmaArch, GemmaConfig, LayerKind, LayerOverrides, RopeConfig, RopeScaling,
    json::named,
    json_layers::{Experts, LayerFacts, differing},
    preset::layer_pattern,
};
use crate::{
    Error, Result,
    weights::{FileLimits, GgufFiles, GgufMetadata, ReadMode, ReadOptions},
};

/// The architecture of drafters.
pub(super) const DRAFTER: &str = "gemma4-assistant";

pub(super) fn from_file(path: &Path, limits: FileLimits) -> Result<GemmaConfig> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    read(&files).map_err(|error| named(path, error))
}

fn read(files: &GgufFiles) -> Result<GemmaConfig> {
    let arch = arch_of(files.architecture()?)?;
    read_as(files, arch, false)
}

/// A drafter's layers, which own no keys and values, and the dimension of its target.
pub(super) fn read_drafter(files: &GgufFiles) -> Result<(GemmaConfig, usize)> {
    let keys = Keys { metadata: &files.metadata, prefix: files.architecture()? };
    Ok((read_as(files, GemmaArch::Gemma4, true)?, keys.required_size("embedding_length_out")?))
}

fn read_as(files: &GgufFiles, arch: GemmaArch, drafter: bool) -> Result<GemmaConfig> {
    let name = files.architecture()?;
    let keys = Keys { metadata: &files.metadata, prefix: name };
    let head = files.tensor("output.weight");
    let Some(embedding) = files.tensor("token_embd.weight").or(head) else {
        return Err(files.error("tensor 'token_embd.weight' is missing; is the file complete?".into()));
    };
    let num_hidden_layers = keys.required_size("block_count")?;
    let num_attention_heads = keys.required_size("attention.head_count")?;
    let hidden_size = keys.required_size("embedding_length")?;
    let (layer_types, sliding_window) = layers(&keys, arch, num_hidden_layers)?;
    let wide_head = keys.head_dim("", hidden_size / num_attention_heads.max(1))?;
    let head_dim = keys.head_dim("_swa", wide_head)?;
    let kv_heads = keys.of_layers("attention.head_count_kv", num_hidden_layers)?;
    let widths = keys.of_layers("feed_forward_length", num_hidden_layers)?;
    let widths = keys.required("feed_forward_length", widths)?;
    let kv_heads = kv_heads.unwrap_or_else(|| vec![num_attention_heads; num_hidden_layers]);
    // The model's own heads are those of sliding layers, its width that of the first layers.
    let usual = layer_types.iter().position(|kind| *kind == LayerKind::Sliding).unwrap_or(0);
    let first = |sizes: &[usize], at: usize| sizes.get(at).copied().unwrap_or(0);
    let (num_key_value_heads, intermediate_size) = (first(&kv_heads, usual), first(&widths, 0));
    let overrides = layer_types.iter().zip(kv_heads.iter().zip(&widths)).map(|(kind, (kv_heads, width))| LayerOverrides {
        head_dim: Some(if *kind == LayerKind::Full { wide_head } else { head_dim }),
        num_key_value_heads: Some(*kv_heads),
        intermediate_size: Some(*width),
    });
    let overrides = differing(overrides.enumerate().collect(), [head_dim, num_key_value_heads, intermediate_size]);
    let facts = match arch {
        GemmaArch::Gemma3n => gemma3n(&keys, files, num_hidden_layers)?,
        GemmaArch::Gemma4 if !drafter => gemma4(&keys, files, &layer_types)?,
        _ => LayerFacts::default(),
    };
    let embedding_dense = if name == EMBEDDING { dense(&keys, files, hidden_size)? } else { Vec::new() };
    let experts = experts(&keys)?;
    let (rope_full, rope_sliding) = rope(&keys, arch, files, wide_head)?;
    let config = GemmaConfig {
        arch,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: keys.required("attention.layer_norm_rms_epsilon", keys.number("attention.layer_norm_rms_epsilon")?)?,
        max_position_embeddings: keys.required_size("context_length")?,
        layer_types,
        sliding_window,
        use_bidirectional_attention: name == EMBEDDING,
        query_pre_attn_scalar: query_scalar(arch, num_hidden_layers, [hidden_size, num_attention_heads, head_dim]),
        attn_logit_softcapping: keys.cap("attn_logit_softcapping", arch, Some(50.0))?,
        final_logit_softcapping: match arch {
            GemmaArch::Gemma4 if drafter => None,
            GemmaArch::Gemma3 => keys.number("final_logit_softcapping")?.filter(|cap| *cap != 0.0),
            GemmaArch::Gemma3n | GemmaArch::Gemma4 => {
                keys.number("final_logit_softcapping")?.or(Some(30.0)).filter(|cap| *cap != 0.0)
            }
            _ => keys.cap("final_logit_softcapping", arch, Some(30.0))?,
        },
        // A head alone is the embedding.
        tie_word_embeddings: head.is_none_or(|head| head.name == embedding.name),
        eos_token_ids: stop_tokens(&keys)?,
        bos_token_id: Some(keys.token("bos_token_id")?.unwrap_or(2)),
        pad_token_id: Some(keys.token("padding_token_id")?.unwrap_or(0)),
        rope_full,
        rope_sliding,
        per_layer_config: overrides,
        attention_k_eq_v: facts.attention_k_eq_v,
        num_kv_shared_layers: facts.num_kv_shared_layers,
        hidden_size_per_layer_input: facts.hidden_size_per_layer_input,
        vocab_size_per_layer_input: facts.vocab_size_per_layer_input,
        altup_num_inputs: facts.altup_num_inputs,
        altup_active_idx: facts.altup_active_idx,
        altup_correct_scale: facts.altup_correct_scale,
        laurel_rank: facts.laurel_rank,
        activation_sparsity: facts.activation_sparsity,
        embedding_dim: 0,
        embedding_dense,
        num_experts: experts.count,
        top_k_experts: experts.top,
        moe_intermediate_size: experts.width,
        effective_num_layers: None,
    };
    config.validate()?;
    Ok(config)
}

/// llama.cpp's name of a Gemma 3 that embeds texts.
const EMBEDDING: &str = "gemma-embedding";

fn arch_of(name: &str) -> Result<GemmaArch> {
    let why = match name {
        "gemma" => return Ok(GemmaArch::Gemma),
        "gemma2" => return Ok(GemmaArch::Gemma2),
        // An embedding model is a Gemma 3 that looks both ways.
        "gemma3" | EMBEDDING => return Ok(GemmaArch::Gemma3),
        "gemma3n" => return Ok(GemmaArch::Gemma3n),
        "gemma4" => return Ok(GemmaArch::Gemma4),
        DRAFTER => "a drafter continues nothing by itself; give it to the generator of its model (Drafter::from_path), as it",
        other => {
            let shown: String = other.chars().take(60).collect();
            return Err(Error::Config(format!(
                "general.architecture is {shown:?}, expected gemma, gemma2, gemma3, gemma3n, gemma4 or gemma-embedding"
            )));
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

    /// A size of each layer: an array of them, or one for all.
    fn of_layers(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let key = self.full(key);
        let Some(sizes) = self.metadata.sizes(&key).map_err(Error::Config)? else { return Ok(None) };
        match sizes[..] {
            [size] => Ok(Some(vec![size; layers])),
            _ if sizes.len() == layers => Ok(Some(sizes)),
            _ => Err(Error::Config(format!("{key} has {} entries, the model {layers} layers", sizes.len()))),
        }
    }

    /// The head dimension of the layers that `suffix` stands for, the same for keys, values and rotation.
    fn head_dim(&self, suffix: &str, absent: usize) -> Result<usize> {
        let [key, value, rotated] = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
            .map(|key| self.size(&format!("{key}{suffix}")));
        let head_dim = key?.unwrap_or(absent);
        if let Some(value) = value?.filter(|value| *value != head_dim) {
            return Err(Error::Unsupported(format!("attention.value_length{suffix} {value} beside key_length {head_dim}: it")));
        }
        if let Some(rotated) = rotated?.filter(|rotated| *rotated != head_dim) {
            let key = self.full(&format!("rope.dimension_count{suffix}"));
            return Err(Error::Config(format!("{key} is {rotated}, expected the head dimension, {head_dim}")));
        }
        Ok(head_dim)
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
        (GemmaArch::Gemma3n | GemmaArch::Gemma4, _) => Some(1.0),
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

/// The widths of the products after the mean of a text's tokens, where the file has them; refuses other ways to a text's vector.
fn dense(keys: &Keys, files: &GgufFiles, hidden_size: usize) -> Result<Vec<usize>> {
    const POOLING: [&str; 5] = ["none", "mean", "cls", "last", "rank"];
    match keys.size("pooling_type")? {
        None | Some(1) => {}
        Some(other) => {
            let (key, name) = (keys.full("pooling_type"), POOLING.get(other).copied().unwrap_or("unknown"));
            return Err(Error::Unsupported(format!("{key} {other} ({name}; 1, the mean of all tokens, is): it")));
        }
    }
    let (mut widths, mut width) = (Vec::new(), hidden_size);
    for j in 2.. {
        let Some(tensor) = files.tensor(&format!("dense_{j}.weight")) else { break };
        let [written, read] = tensor.shape[..] else {
            return Err(files.error(format!("tensor 'dense_{j}.weight' has shape {:?}, expected a matrix", tensor.shape)));
        };
        for (side, found) in [("in", read), ("out", written)] {
            let key = format!("dense_{j}_feat_{side}");
            if let Some(said) = keys.size(&key)?.filter(|said| *said != found) {
                let key = keys.full(&key);
                return Err(Error::Config(format!("{key} is {said}, the tensor 'dense_{j}.weight' has {found}")));
            }
        }
        if read != width {
            return Err(Error::Config(format!("the tensor 'dense_{j}.weight' takes {read} numbers, what it gets has {width}")));
        }
        widths.push(written);
        width = written;
    }
    Ok(widths)
}

/// What Gemma 3n adds. Where a file says nothing of it, llama.cpp's constants hold.
fn gemma3n(keys: &Keys, files: &GgufFiles, layers: usize) -> Result<LayerFacts> {
    const SPARSE: f32 = 1.644_853_6;
    let rows = |tensor: &str| files.tensor(tensor).and_then(|tensor| tensor.shape.first().copied());
    let key = keys.full("activation_sparsity_scale");
    let deviations = keys.metadata.numbers(&key).map_err(Error::Config)?;
    let deviations = deviations.unwrap_or_else(|| (0..layers).map(|i| if i < 10 { SPARSE } else { f32::NEG_INFINITY }).collect());
    let sparse: Vec<Option<f32>> = deviations.into_iter().map(|x| (x != f32::NEG_INFINITY).then_some(x)).collect();
    Ok(LayerFacts {
        num_kv_shared_layers: keys.size("attention.shared_kv_layers")?.unwrap_or(layers.saturating_sub(20)),
        hidden_size_per_layer_input: keys.size("embedding_length_per_layer_input")?.unwrap_or(256),
        vocab_size_per_layer_input: rows("per_layer_token_embd.weight").unwrap_or(0),
        altup_num_inputs: keys.size("altup.num_inputs")?.unwrap_or(4),
        altup_active_idx: keys.size("altup.active_idx")?.unwrap_or(0),
        altup_correct_scale: true,
        laurel_rank: rows("blk.0.laurel_l.weight").unwrap_or(64),
        activation_sparsity: if sparse.iter().all(Option::is_none) { Vec::new() } else { sparse },
        ..LayerFacts::default()
    })
}

/// What Gemma 4 adds. That keys are values shows in full layers without a projection of values.
fn gemma4(keys: &Keys, files: &GgufFiles, kinds: &[LayerKind]) -> Result<LayerFacts> {
    let num_kv_shared_layers = keys.size("attention.shared_kv_layers")?.unwrap_or(0);
    let own = kinds.len().saturating_sub(num_kv_shared_layers);
    // In one matrix with those of queries and keys, too.
    let holds = |layer: usize, name: &str| files.tensor(&format!("blk.{layer}.{name}.weight")).is_some();
    let projects = |layer: usize| holds(layer, "attn_v") || holds(layer, "attn_qkv");
    let width = keys.size("embedding_length_per_layer_input")?.unwrap_or(0);
    let table = files.tensor("per_layer_token_embd.weight").and_then(|table| table.shape.first().copied());
    Ok(LayerFacts {
        attention_k_eq_v: (0..own).any(|layer| kinds[layer] == LayerKind::Full && !projects(layer)),
        num_kv_shared_layers,
        hidden_size_per_layer_input: width,
        vocab_size_per_layer_input: if width == 0 { 0 } else { table.unwrap_or(0) },
        ..LayerFacts::default()
    })
}

/// The experts of each layer; a file of a model without them has no `expert_count`, or 0.
fn experts(keys: &Keys) -> Result<Experts> {
    let count = keys.size("expert_count")?.unwrap_or(0);
    if count == 0 {
        return Ok(Experts::default());
    }
    Ok(Experts { count, top: keys.required_size("expert_used_count")?, width: keys.required_size("expert_feed_forward_length")? })
}

/// The tables of full and of sliding layers. Only full layers are scaled.
fn rope(keys: &Keys, arch: GemmaArch, files: &GgufFiles, head_dim: usize) -> Result<(RopeConfig, RopeConfig)> {
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
    let scaling = match (files.values("rope_freqs.weight", 1 << 12)?, scaling) {
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) if arch == GemmaArch::Gemma4 => proportional(&factors, head_dim)?,
        (Some(_), _) => {
            let why = "a rotary scaling of its own, which";
            return Err(Error::Unsupported(format!("rope_freqs.weight in a {} file: {why}", keys.prefix)));
        }
    };
    let full = RopeConfig { theta: keys.number("rope.freq_base")?.unwrap_or(1e4), scaling };
    match arch {
        GemmaArch::Gemma3 | GemmaArch::Gemma3n | GemmaArch::Gemma4 => {
            Ok((full, RopeConfig::new(keys.number("rope.freq_base_swa")?.unwrap_or(1e4))))
        }
        _ => Ok((full, full)),
    }
}

/// The divisors of the H/2 frequencies: 1 for the pairs that rotate, first, and 1e30 for the others.
fn proportional(factors: &[f32], head_dim: usize) -> Result<RopeScaling> {
    let rotated = factors.iter().take_while(|factor| **factor == 1.0).count();
    let whole = factors.len() == head_dim / 2 && factors[rotated..].iter().all(|factor| *factor >= 1e30);
    if !whole {
        let what = format!("{} divisors, {rotated} of them 1, for heads of {head_dim}", factors.len());
        return Err(Error::Unsupported(format!("rope_freqs.weight with {what} (1, then 1e30, are): it")));
    }
    let partial_rotary_factor = (2 * rotated) as f32 / head_dim as f32;
    Ok(RopeScaling::Proportional { partial_rotary_factor, factor: 1.0 })
}
