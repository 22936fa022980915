//! The metadata of a GGUF file into a [`GemmaConfig`] (docs/gemma.md, GGUF files). What a file leaves out is what its
//! tensors or the table of absent
//! keys say.

use std::path::Path;

use super::{
    GemmaArch, GemmaConfig, LayerKind, LayerOverrides,
    gguf_keys::Keys,
    gguf_rope,
    json::named,
    json_layers::{Experts, LayerFacts, differing, tell_halved},
};
use crate::{
    Error, Result,
    weights::{FileLimits, GgufFiles, ReadMode, ReadOptions},
};

/// The architecture of drafters.
pub(super) const DRAFTER: &str = "gemma4-assistant";

pub(super) fn from_file(path: &Path, limits: FileLimits) -> Result<GemmaConfig> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    read(&files).map_err(|error| named(path, error))
}

fn read(files: &GgufFiles) -> Result<GemmaConfig> {
    let name = files.architecture()?;
    let arch = arch_of(name)?;
    read_as(files, &Keys::new(&files.metadata, name), arch, false)
}

/// A drafter's layers, which own no keys and values, and the dimension of its target.
pub(super) fn read_drafter(files: &GgufFiles) -> Result<(GemmaConfig, usize)> {
    let keys = Keys::new(&files.metadata, files.architecture()?);
    let backbone = keys.size_or_default("embedding_length_out")?;
    Ok((read_as(files, &keys, GemmaArch::Gemma4, true)?, backbone))
}

fn read_as(files: &GgufFiles, keys: &Keys, arch: GemmaArch, drafter: bool) -> Result<GemmaConfig> {
    let name = files.architecture()?;
    let head = files.tensor("output.weight");
    let Some(embedding) = files.tensor("token_embd.weight").or(head) else {
        return Err(files.error("tensor 'token_embd.weight' is missing; is the file complete?".into()));
    };
    let num_hidden_layers = keys.size_or_default("block_count")?;
    let num_attention_heads = keys.size_or_default("attention.head_count")?;
    let hidden_size = keys.size_or_default("embedding_length")?;
    let max_position_embeddings = keys.size_or_default("context_length")?;
    let (layer_types, sliding_window) = layers(keys, arch, num_hidden_layers)?;
    let heads = Heads { keys, files, kinds: &layer_types, count: num_attention_heads, hidden_size };
    let wide_head = heads.dim("", LayerKind::Full, None)?;
    let head_dim = heads.dim("_swa", LayerKind::Sliding, Some(wide_head))?;
    let dim_of = |kind: LayerKind| if kind == LayerKind::Full { wide_head } else { head_dim };
    let kv_heads = match keys.of_layers("attention.head_count_kv", num_hidden_layers)? {
        Some(given) => given,
        None => heads.kv_heads(dim_of),
    };
    let widths = keys.of_layers("feed_forward_length", num_hidden_layers)?;
    let widths = keys.required("feed_forward_length", widths)?;
    // The model's own heads are those of sliding layers, its width that of the first layers.
    let usual = layer_types.iter().position(|kind| *kind == LayerKind::Sliding).unwrap_or(0);
    let first = |sizes: &[usize], at: usize| sizes.get(at).copied().unwrap_or(0);
    let (num_key_value_heads, intermediate_size) = (first(&kv_heads, usual), first(&widths, 0));
    let overrides = layer_types.iter().zip(kv_heads.iter().zip(&widths)).map(|(kind, (kv_heads, width))| LayerOverrides {
        head_dim: Some(dim_of(*kind)),
        num_key_value_heads: Some(*kv_heads),
        intermediate_size: Some(*width),
    });
    let overrides = differing(overrides.enumerate().collect(), [head_dim, num_key_value_heads, intermediate_size]);
    let facts = match arch {
        GemmaArch::Gemma3n => gemma3n(keys, files, num_hidden_layers)?,
        GemmaArch::Gemma4 if !drafter => gemma4(keys, files, &layer_types)?,
        _ => LayerFacts::default(),
    };
    let embedding_dense = if name == EMBEDDING { dense(keys, files, hidden_size)? } else { Vec::new() };
    let experts = experts(keys, files)?;
    let (rope_full, rope_sliding) = gguf_rope::read(keys, arch, files, &layer_types, wide_head)?;
    let config = GemmaConfig {
        arch,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: keys.number_or_default("attention.layer_norm_rms_epsilon")?,
        max_position_embeddings,
        layer_types,
        sliding_window,
        use_bidirectional_attention: name == EMBEDDING,
        query_pre_attn_scalar: query_scalar(keys, arch, num_hidden_layers, [hidden_size, num_attention_heads, head_dim]),
        attn_logit_softcapping: match arch {
            GemmaArch::Gemma2 => keys.cap("attn_logit_softcapping")?,
            _ => None,
        },
        final_logit_softcapping: final_softcap(keys, arch, num_hidden_layers)?,
        // A head alone is the embedding.
        tie_word_embeddings: head.is_none_or(|head| head.name == embedding.name),
        eos_token_ids: stop_tokens(keys)?,
        bos_token_id: keys.token("bos_token_id")?,
        pad_token_id: keys.token("padding_token_id")?,
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
    says_the_same(keys, &config)?;
    if drafter {
        // What a drafter's file repeats of its target.
        let _ = [keys.full("attention.shared_kv_layers"), keys.full("embedding_length_per_layer_input")];
    }
    keys.finish()?;
    config.validate()?;
    tell_halved(&config);
    Ok(config)
}

/// Refuses keys of other families that contradict what is computed.
fn says_the_same(keys: &Keys, config: &GemmaConfig) -> Result<()> {
    let causal = keys.full("attention.causal");
    if let Some(flag) = keys.metadata.flag(&causal).map_err(Error::Config)?
        && flag == config.use_bidirectional_attention
    {
        return Err(Error::Config(format!("{causal} is {flag}, expected {} in this architecture", !flag)));
    }
    let expected = config.attn_score_scale();
    match keys.number("attention.scale")? {
        Some(scale) if scale != 0.0 && (scale - expected).abs() > 1e-6 => {
            let key = keys.full("attention.scale");
            Err(Error::Config(format!("{key} is {scale}, expected {expected}, which is the family's for these sizes")))
        }
        _ => Ok(()),
    }
}

/// The heads where their keys are absent, by the shapes of the tensors that make them.
struct Heads<'a> {
    keys: &'a Keys<'a>,
    files: &'a GgufFiles,
    kinds: &'a [LayerKind],
    count: usize,
    hidden_size: usize,
}

impl Heads<'_> {
    fn rows(&self, layer: usize, tensor: &str) -> Option<usize> {
        self.files.tensor(&format!("blk.{layer}.{tensor}.weight"))?.shape.first().copied()
    }

    /// The head dimension of the layers that `suffix` stands for, the same for keys, values and rotation. Without the key and without
    /// a tensor that shows it `other`, or what the model's width leaves for a head, which the shapes of the weights must bear out.
    fn dim(&self, suffix: &str, kind: LayerKind, other: Option<usize>) -> Result<usize> {
        let [key, value, rotated] = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
            .map(|key| self.keys.size(&format!("{key}{suffix}")));
        let layer = self.kinds.iter().position(|own| *own == kind);
        let shown = layer.or(other.is_none().then_some(0)).and_then(|layer| self.shown(layer));
        let head_dim = key?.or(shown).or(other).unwrap_or(self.hidden_size / self.count.max(1));
        if let Some(value) = value?.filter(|value| *value != head_dim) {
            return Err(Error::Unsupported(format!("attention.value_length{suffix} {value} beside key_length {head_dim}: it")));
        }
        if let Some(rotated) = rotated?.filter(|rotated| *rotated != head_dim) {
            let key = self.keys.full(&format!("rope.dimension_count{suffix}"));
            return Err(Error::Config(format!("{key} is {rotated}, expected the head dimension, {head_dim}")));
        }
        Ok(head_dim)
    }

    /// What the tensors of `layer` show: the length of the norm of queries, or the rows of their projection.
    fn shown(&self, layer: usize) -> Option<usize> {
        let projected = || self.rows(layer, "attn_q").filter(|rows| rows.is_multiple_of(self.count.max(1)));
        self.rows(layer, "attn_q_norm").or_else(|| Some(projected()? / self.count.max(1)))
    }

    /// The KV heads of each layer; of one without keys of its own those of the last layer of its kind, of all without tensors those of
    /// queries.
    fn kv_heads(&self, dim_of: impl Fn(LayerKind) -> usize) -> Vec<usize> {
        let own = |layer: usize| Some(self.rows(layer, "attn_k")? / dim_of(self.kinds[layer]).max(1));
        let last = |layer: usize| (0..layer).rev().filter(|other| self.kinds[*other] == self.kinds[layer]).find_map(own);
        (0..self.kinds.len()).map(|layer| own(layer).or_else(|| last(layer)).unwrap_or(self.count)).collect()
    }
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
        "clip" => {
            "it is what reads pictures or sound for a model (mmproj); open the text model's own file, which lies beside it, as it"
        }
        other => {
            let shown: String = other.chars().take(60).collect();
            return Err(Error::Config(format!(
                "general.architecture is {shown:?}, expected gemma, gemma2, gemma3, gemma3n, gemma4 or gemma-embedding"
            )));
        }
    };
    Err(Error::Unsupported(format!("architecture {name:?}: {why}")))
}

/// The end of a text, and where the file names one the end of a turn or message.
fn stop_tokens(keys: &Keys) -> Result<Vec<u32>> {
    let mut stop: Vec<u32> = keys.token("eos_token_id")?.into_iter().collect();
    for key in ["eot_token_id", "eom_token_id"] {
        stop.extend(keys.token(key)?.filter(|id| !stop.contains(id)));
    }
    Ok(stop)
}

/// No key says it: the largest models of Gemma 2 and 3, told by their layers or by their heads, have D/N, every other the head dimension.
fn query_scalar(keys: &Keys, arch: GemmaArch, layers: usize, [hidden_size, heads, head_dim]: [usize; 3]) -> Option<f32> {
    match (arch, layers, (hidden_size, heads, head_dim)) {
        (GemmaArch::Gemma, ..) => None,
        (GemmaArch::Gemma3n | GemmaArch::Gemma4, ..) => keys.defaults.number("query_pre_attn_scalar"),
        (GemmaArch::Gemma2, 46, _) | (GemmaArch::Gemma2, _, (4608, 32, 128)) => Some(hidden_size as f32 / heads as f32),
        (GemmaArch::Gemma3, 62, _) | (GemmaArch::Gemma3, _, (5376, 32, 128)) => Some(hidden_size as f32 / heads as f32),
        _ => Some(head_dim as f32),
    }
}

/// The softcap of the logits. Ollama's Gemma 3 1B has one in its file that the model never had, and that Ollama does not compute.
fn final_softcap(keys: &Keys, arch: GemmaArch, layers: usize) -> Result<Option<f32>> {
    if arch == GemmaArch::Gemma {
        return Ok(None);
    }
    let cap = keys.cap("final_logit_softcapping")?;
    if arch == GemmaArch::Gemma3 && layers == 26 && cap == Some(30.0) && keys.has_ollama_keys() {
        tracing::warn!("final_logit_softcapping 30 in a Gemma 3 1B that Ollama made: the model has none, and none is computed");
        return Ok(None);
    }
    Ok(cap)
}

/// The kinds of the layers and the window.
fn layers(keys: &Keys, arch: GemmaArch, count: usize) -> Result<(Vec<LayerKind>, Option<usize>)> {
    const WINDOW: &str = "attention.sliding_window";
    if count > 1024 {
        return Err(Error::Config(format!("{} is {count}, expected 1 to 1024", keys.full("block_count"))));
    }
    let key = keys.full("attention.sliding_window_pattern");
    let window = match arch {
        GemmaArch::Gemma => None,
        _ => match keys.size(WINDOW)?.or_else(|| keys.defaults.size(WINDOW)) {
            None => {
                let key = keys.full(WINDOW);
                let advice = "Add the key: the window, such as 512 or 1024, or 0 where every layer is full";
                return Err(Error::Config(format!("{key} is missing; models of the family differ in it. {advice}")));
            }
            window => window,
        },
    };
    let Some(window) = window.filter(|window| *window > 0) else { return Ok((vec![LayerKind::Full; count], None)) };
    let kind = |sliding: bool| if sliding { LayerKind::Sliding } else { LayerKind::Full };
    if keys.metadata.is_array(&key) {
        let sliding = keys.metadata.flags(&key).map_err(Error::Config)?.unwrap_or_default();
        return Ok((sliding.into_iter().map(kind).collect(), Some(window)));
    }
    let period = keys.size_or_default("attention.sliding_window_pattern")?;
    if period == 0 {
        return Err(Error::Config(format!("{key} is 0, expected 1 or more")));
    }
    Ok(((1..=count).map(|i| kind(i % period != 0)).collect(), Some(window)))
}

/// The widths of the products after the mean of a text's tokens, where the file has them; refuses other ways to a text's vector.
fn dense(keys: &Keys, files: &GgufFiles, hidden_size: usize) -> Result<Vec<usize>> {
    const POOLING: [&str; 5] = ["none", "mean", "cls", "last", "rank"];
    match keys.size_or_default("pooling_type")? {
        1 => {}
        other => {
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
    for j in 2 + widths.len()..4 {
        let said = keys.size(&format!("dense_{j}_feat_out"))?.is_some() || keys.size(&format!("dense_{j}_feat_in"))?.is_some();
        if said || files.tensor(&format!("dense_{}.weight", j + 1)).is_some() {
            return Err(files.error(format!("tensor 'dense_{j}.weight' is missing, and the file says that there is one")));
        }
    }
    Ok(widths)
}

/// The width of each layer's own input: by the table's columns, which are one width a layer.
fn per_layer_width(keys: &Keys, files: &GgufFiles, layers: usize) -> Result<usize> {
    let shown = files.tensor("per_layer_token_embd.weight").and_then(|table| table.shape.last().copied());
    Ok(keys.size("embedding_length_per_layer_input")?.or(shown.map(|columns| columns / layers.max(1))).unwrap_or(0))
}

/// What Gemma 3n adds.
fn gemma3n(keys: &Keys, files: &GgufFiles, layers: usize) -> Result<LayerFacts> {
    const SPARSE: f32 = 1.644_853_6;
    let rows = |tensor: &str| files.tensor(tensor).and_then(|tensor| tensor.shape.first().copied());
    let key = keys.full("activation_sparsity_scale");
    let deviations = match keys.metadata.is_array(&key) {
        true => keys.metadata.numbers(&key).map_err(Error::Config)?,
        false => keys.number("activation_sparsity_scale")?.map(|all| vec![all; layers]),
    };
    let deviations = deviations.unwrap_or_else(|| (0..layers).map(|i| if i < 10 { SPARSE } else { f32::NEG_INFINITY }).collect());
    let sparse: Vec<Option<f32>> = deviations.into_iter().map(|x| (x != f32::NEG_INFINITY).then_some(x)).collect();
    Ok(LayerFacts {
        num_kv_shared_layers: keys.size("attention.shared_kv_layers")?.unwrap_or(layers.saturating_sub(20)),
        hidden_size_per_layer_input: per_layer_width(keys, files, layers)?,
        vocab_size_per_layer_input: rows("per_layer_token_embd.weight").unwrap_or(0),
        altup_num_inputs: keys.size_or_default("altup.num_inputs")?,
        altup_active_idx: keys.size_or_default("altup.active_idx")?,
        altup_correct_scale: true,
        laurel_rank: rows("blk.0.laurel_l.weight").unwrap_or(0),
        activation_sparsity: if sparse.iter().all(Option::is_none) { Vec::new() } else { sparse },
        ..LayerFacts::default()
    })
}

/// What Gemma 4 adds. That keys are values shows in full layers without a projection of values.
fn gemma4(keys: &Keys, files: &GgufFiles, kinds: &[LayerKind]) -> Result<LayerFacts> {
    const SHARED: &str = "attention.shared_kv_layers";
    let table = files.tensor("per_layer_token_embd.weight").and_then(|table| table.shape.first().copied());
    let num_kv_shared_layers = match (keys.size(SHARED)?, table) {
        // Every model with such tables shares keys, some of 18 layers and some of 20.
        (None, Some(_)) => return keys.required(SHARED, None),
        _ => keys.size_or_default(SHARED)?,
    };
    let own = kinds.len().saturating_sub(num_kv_shared_layers);
    // In one matrix with those of queries and keys, too.
    let holds = |layer: usize, name: &str| files.tensor(&format!("blk.{layer}.{name}.weight")).is_some();
    let projects = |layer: usize| holds(layer, "attn_v") || holds(layer, "attn_qkv");
    let width = per_layer_width(keys, files, kinds.len())?;
    Ok(LayerFacts {
        attention_k_eq_v: (0..own).any(|layer| kinds[layer] == LayerKind::Full && !projects(layer)),
        num_kv_shared_layers,
        hidden_size_per_layer_input: width,
        vocab_size_per_layer_input: if width == 0 { 0 } else { table.unwrap_or(0) },
        ..LayerFacts::default()
    })
}

/// The experts of each layer; a file of a model without them has no `expert_count`, or 0.
fn experts(keys: &Keys, files: &GgufFiles) -> Result<Experts> {
    let given = keys.size("expert_count")?;
    if given.is_none() && files.tensor("blk.0.ffn_gate_inp.weight").is_some() {
        return keys.required("expert_count", None);
    }
    let [used, width] = [keys.size("expert_used_count")?, keys.size("expert_feed_forward_length")?];
    match keys.size_or_default("expert_count")? {
        0 => Ok(Experts::default()),
        count => Ok(Experts {
            count,
            top: keys.required("expert_used_count", used)?,
            width: keys.required("expert_feed_forward_length", width)?,
        }),
    }
}
