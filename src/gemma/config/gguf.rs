//! The metadata of a GGUF file into a [`GemmaConfig`] (docs/gemma.md, GGUF files). For a key that a file leaves out,
//! its tensors or the table of absent keys give the value.

use super::{
    AltUp, BidirectionalPictures, GemmaConfig, LayerKind, Moe,
    family::{DRAFTER, GemmaArch, ScoreScale, SoftcapKey},
    gguf_heads::{Heads, layer_sizes},
    gguf_keys::Keys,
    gguf_markers, gguf_rope,
    json::{named, one_of},
    json_layers::{per_layer_input, tell_halved},
    projector_files,
};
use crate::{
    Error, Result,
    files::ModelPath,
    weights::{FileLimits, GgufFiles, ReadMode, ReadOptions},
};

pub(super) fn from_file(path: &ModelPath, limits: FileLimits) -> Result<GemmaConfig> {
    Ok(projector_files::settle(text_alone(path, limits)?, path))
}

/// The projector's file that lies beside the text model at `path`.
///
/// # Errors
/// As [`projector_files::beside`], and those of reading the text model's header.
pub(super) fn projector_beside(path: &ModelPath) -> Result<Option<ModelPath>> {
    projector_files::beside(&text_alone(path, FileLimits::default())?, path)
}

fn text_alone(path: &ModelPath, limits: FileLimits) -> Result<GemmaConfig> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    read(&files).map_err(|error| named(path, error))
}

fn read(files: &GgufFiles) -> Result<GemmaConfig> {
    let name = files.architecture()?;
    let arch = arch_of(name)?;
    let keys = Keys::new(&files.metadata, name);
    let mut config = read_common(files, &keys, arch)?;
    match arch {
        GemmaArch::Gemma3n => gemma3n(&keys, files, &mut config)?,
        GemmaArch::Gemma4 => gemma4(&keys, files, &mut config)?,
        _ => {}
    }
    if name == EMBEDDING {
        config.use_bidirectional_attention = true;
        config.embedding_dense = dense(&keys, files, config.hidden_size)?;
    }
    config.multimodal = gguf_markers::read(&files.metadata, arch);
    checked(&keys, config)
}

/// A drafter's layers, which own no keys and values, and the dimension of its target.
pub(super) fn read_drafter(files: &GgufFiles) -> Result<(GemmaConfig, usize)> {
    let keys = Keys::new(&files.metadata, files.architecture()?);
    let backbone = keys.size_or_default("embedding_length_out")?;
    let config = read_common(files, &keys, GemmaArch::Gemma4)?;
    // A drafter's file repeats these keys of its target.
    keys.full("attention.shared_kv_layers");
    keys.full("embedding_length_per_layer_input");
    Ok((checked(&keys, config)?, backbone))
}

/// The keys that all families have.
fn read_common(files: &GgufFiles, keys: &Keys, arch: GemmaArch) -> Result<GemmaConfig> {
    let family = arch.family();
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
    let sizes = layer_sizes(&heads)?;
    let (rope_full, rope_sliding) = gguf_rope::read(keys, arch, files, &layer_types, sizes.wide_head)?;
    let mut config = GemmaConfig {
        hidden_size,
        intermediate_size: sizes.usual.intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: sizes.usual.num_key_value_heads,
        head_dim: sizes.usual.head_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: keys.number_or_default("attention.layer_norm_rms_epsilon")?,
        max_position_embeddings,
        sliding_window,
        attn_logit_softcapping: match family.attention_softcap {
            SoftcapKey::Cap => keys.cap("attn_logit_softcapping")?,
            SoftcapKey::None | SoftcapKey::Unused => None,
        },
        final_logit_softcapping: final_softcap(keys, arch, num_hidden_layers)?,
        // A head alone is the embedding.
        tie_word_embeddings: head.is_none_or(|head| head.name == embedding.name),
        eos_token_ids: stop_tokens(keys)?,
        bos_token_id: keys.token("bos_token_id")?,
        pad_token_id: keys.token("padding_token_id")?,
        rope_full,
        rope_sliding,
        moe: moe(keys, files)?,
        ..GemmaConfig::bare(arch)
    };
    config.set_layer_sizes(sizes.of_layers);
    config.layer_types = layer_types;
    config.query_pre_attn_scalar = query_scalar(keys, &config);
    Ok(config)
}

fn checked(keys: &Keys, config: GemmaConfig) -> Result<GemmaConfig> {
    says_the_same(keys, &config)?;
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

/// llama.cpp's name of a Gemma 3 that embeds texts.
const EMBEDDING: &str = "gemma-embedding";

fn arch_of(name: &str) -> Result<GemmaArch> {
    if let Some(arch) = GemmaArch::of_architecture(name) {
        return Ok(arch);
    }
    let why = match name {
        DRAFTER => "a drafter continues nothing by itself; give it to the generator of its model (Drafter::from_path), as it",
        "clip" => {
            "it is what reads pictures or sound for a model (mmproj); open the text model's own file, which lies beside it, as it"
        }
        other => {
            let shown: String = other.chars().take(60).collect();
            let known: Vec<&str> = GemmaArch::ALL.iter().flat_map(|arch| arch.family().architectures).copied().collect();
            return Err(Error::Config(format!("general.architecture is {shown:?}, expected {}", one_of(&known))));
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

/// No key says it: the largest models of Gemma 2 and 3, told by their layers or by their heads, have D/N, every other
/// the head dimension.
fn query_scalar(keys: &Keys, config: &GemmaConfig) -> Option<f32> {
    /// Layers, then D, N and H.
    const LARGEST: [(GemmaArch, usize, [usize; 3]); 2] =
        [(GemmaArch::Gemma2, 46, [4608, 32, 128]), (GemmaArch::Gemma3, 62, [5376, 32, 128])];
    match config.arch.family().score_scale {
        ScoreScale::HeadDim => return None,
        ScoreScale::One => return keys.defaults.number("query_pre_attn_scalar"),
        ScoreScale::QueryPreAttnScalar => {}
    }
    let sizes = [config.hidden_size, config.num_attention_heads, config.head_dim];
    let is_largest = |(arch, layers, of): &(GemmaArch, usize, [usize; 3])| {
        config.arch == *arch && (config.num_hidden_layers == *layers || sizes == *of)
    };
    let divided = LARGEST.iter().any(is_largest);
    Some(if divided { config.hidden_size as f32 / config.num_attention_heads as f32 } else { config.head_dim as f32 })
}

/// The softcap of the logits. Ollama's Gemma 3 1B has one in its file that the model never had, and that Ollama does
/// not compute.
fn final_softcap(keys: &Keys, arch: GemmaArch, layers: usize) -> Result<Option<f32>> {
    if arch.family().final_softcap == SoftcapKey::None {
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
    let all_full = || Ok((vec![LayerKind::Full; count], None));
    if arch.family().window.is_none() {
        return all_full();
    }
    let Some(window) = keys.size(WINDOW)?.or_else(|| keys.defaults.size(WINDOW)) else {
        let key = keys.full(WINDOW);
        let advice = "Add the key: the window, such as 512 or 1024, or 0 where every layer is full";
        return Err(Error::Config(format!("{key} is missing; models of the family differ in it. {advice}")));
    };
    if window == 0 {
        return all_full();
    }
    let kind = |sliding: bool| if sliding { LayerKind::Sliding } else { LayerKind::Full };
    if keys.metadata.is_array(&key) {
        let sliding = keys.metadata.flags(&key).map_err(Error::Config)?.unwrap_or_default();
        if sliding.len() != count {
            let found = sliding.len();
            return Err(Error::Config(format!("{key}: layer_types has {found} entries, the model {count} layers")));
        }
        return Ok((sliding.into_iter().map(kind).collect(), Some(window)));
    }
    let period = keys.size_or_default("attention.sliding_window_pattern")?;
    if period == 0 {
        return Err(Error::Config(format!("{key} is 0, expected 1 or more")));
    }
    Ok(((1..=count).map(|i| kind(i % period != 0)).collect(), Some(window)))
}

/// The widths of the products after the mean of a text's tokens, where the file has them; refuses other ways to a
/// text's vector.
fn dense(keys: &Keys, files: &GgufFiles, hidden_size: usize) -> Result<Vec<usize>> {
    const POOLING: [&str; 5] = ["none", "mean", "cls", "last", "rank"];
    match keys.size_or_default("pooling_type")? {
        1 => {}
        other => {
            let key = keys.full("pooling_type");
            let name = POOLING.get(other).copied().unwrap_or("unknown");
            return Err(Error::Unsupported(format!("{key} {other} ({name}; 1, the mean of all tokens, is): it")));
        }
    }
    let mut widths = Vec::new();
    let mut width = hidden_size;
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

/// The width of per-layer embeddings: by the table's columns, which are one width a layer.
fn per_layer_width(keys: &Keys, files: &GgufFiles, layers: usize) -> Result<usize> {
    let shown = files.tensor("per_layer_token_embd.weight").and_then(|table| table.shape.last().copied());
    Ok(keys.size("embedding_length_per_layer_input")?.or(shown.map(|columns| columns / layers.max(1))).unwrap_or(0))
}

/// The keys of Gemma 3n.
fn gemma3n(keys: &Keys, files: &GgufFiles, config: &mut GemmaConfig) -> Result<()> {
    let layers = config.num_hidden_layers;
    let rows = |tensor: &str| files.tensor(tensor).and_then(|tensor| tensor.shape.first().copied());
    config.num_kv_shared_layers = keys.size("attention.shared_kv_layers")?.unwrap_or(layers.saturating_sub(20));
    let table = rows("per_layer_token_embd.weight").map(|rows| gguf_markers::text_rows(&files.metadata, rows));
    config.per_layer_input = per_layer_input(per_layer_width(keys, files, layers)?, table);
    config.altup = Some(AltUp {
        num_inputs: keys.size_or_default("altup.num_inputs")?,
        active_idx: keys.size_or_default("altup.active_idx")?,
        correct_scale: true,
    });
    config.laurel_rank = rows("blk.0.laurel_l.weight");
    config.activation_sparsity = sparsity(keys, layers)?;
    Ok(())
}

/// The standard deviations above their mean that gates must exceed, by layer; without the key those of 0.95 in the
/// first ten layers.
fn sparsity(keys: &Keys, layers: usize) -> Result<Vec<Option<f32>>> {
    const SPARSE: f32 = 1.644_853_6;
    let key = keys.full("activation_sparsity_scale");
    let given = if keys.metadata.is_array(&key) {
        keys.metadata.numbers(&key).map_err(Error::Config)?
    } else {
        keys.number("activation_sparsity_scale")?.map(|all| vec![all; layers])
    };
    let stock = || (0..layers).map(|layer| if layer < 10 { SPARSE } else { f32::NEG_INFINITY }).collect();
    let deviations: Vec<f32> = given.unwrap_or_else(stock);
    let sparse: Vec<Option<f32>> = deviations.into_iter().map(|x| (x != f32::NEG_INFINITY).then_some(x)).collect();
    Ok(if sparse.iter().all(Option::is_none) { Vec::new() } else { sparse })
}

/// The keys of Gemma 4. That keys are values shows in full layers without a projection of values.
fn gemma4(keys: &Keys, files: &GgufFiles, config: &mut GemmaConfig) -> Result<()> {
    const SHARED: &str = "attention.shared_kv_layers";
    let layers = config.num_hidden_layers;
    let table = files.tensor("per_layer_token_embd.weight").and_then(|table| table.shape.first().copied());
    config.num_kv_shared_layers = match (keys.size(SHARED)?, table) {
        // Every model with such tables shares keys, some of 18 layers and some of 20.
        (None, Some(_)) => return keys.required(SHARED, None),
        _ => keys.size_or_default(SHARED)?,
    };
    let own = layers.saturating_sub(config.num_kv_shared_layers);
    // In one matrix with those of queries and keys, too.
    let holds = |layer: usize, name: &str| files.tensor(&format!("blk.{layer}.{name}.weight")).is_some();
    let projects = |layer: usize| holds(layer, "attn_v") || holds(layer, "attn_qkv");
    config.attention_k_eq_v = (0..own).any(|layer| config.layer_types[layer] == LayerKind::Full && !projects(layer));
    config.per_layer_input = per_layer_input(per_layer_width(keys, files, layers)?, table);
    // No key says it; the models with such tables (E2B, E4B) are causal throughout.
    if config.per_layer_input.is_some() {
        config.bidirectional_pictures = BidirectionalPictures::Never;
    }
    Ok(())
}

/// The experts of each layer; a file of a model without them has no `expert_count`, or 0.
fn moe(keys: &Keys, files: &GgufFiles) -> Result<Option<Moe>> {
    let given = keys.size("expert_count")?;
    if given.is_none() && files.tensor("blk.0.ffn_gate_inp.weight").is_some() {
        return keys.required("expert_count", None);
    }
    let used = keys.size("expert_used_count")?;
    let width = keys.size("expert_feed_forward_length")?;
    match keys.size_or_default("expert_count")? {
        0 => Ok(None),
        num_experts => Ok(Some(Moe {
            num_experts,
            top_k_experts: keys.required("expert_used_count", used)?,
            intermediate_size: keys.required("expert_feed_forward_length", width)?,
        })),
    }
}
