//! `config.json`, as Hugging Face's transformers writes it, into a [`GemmaConfig`].

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    GemmaArch, GemmaConfig,
    fields::{Fields, short},
    json_layers::{self, LayerFacts, differing, layer_types, window},
    quantised, rope,
};
use crate::{Error, Result, text_file, weights::SentenceModules};

/// Keys that cannot change what a text model computes: training, bookkeeping, and defaults of text generation.
#[rustfmt::skip]
pub(super) const HARMLESS: &[&str] = &[
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "attention_dropout", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "cache_implementation", "chunk_size_feed_forward", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "initializer_range", "is_decoder", "label2id", "length_penalty", "max_length", "min_length", "name_or_path",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty",
    "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
];

/// Keys of a multimodal wrapper that concern only images, sounds and films.
#[rustfmt::skip]
const HARMLESS_IN_WRAPPER: &[&str] = &[
    "audio_config", "audio_soft_tokens_per_image", "audio_token_id", "boa_token_id", "boi_token_id", "boi_token_index",
    "eoa_token_id", "eoa_token_index", "eoi_token_id", "eoi_token_index", "image_token_id", "image_token_index", "mm_embed_dim",
    "mm_tokens_per_image", "video_token_id", "vision_config", "vision_soft_tokens_per_image",
];

/// Multimodal wrappers, and the text models in them.
const WRAPPERS: [(&str, &str); 5] = [
    ("gemma3", "gemma3_text"),
    ("gemma3n", "gemma3n_text"),
    ("gemma4", "gemma4_text"),
    ("gemma4_unified", "gemma4_unified_text"),
    ("embedding_gemma2", "embedding_gemma2_text"),
];

/// Switches that change the mathematics when they are on.
const MUST_BE_OFF: &[&str] = &[
    "add_cross_attention",
    "attention_bias",
    "is_encoder_decoder",
    "mlp_bias",
    "pruned_heads",
    "tie_encoder_decoder",
    "use_bidirectional_attention",
];

pub(super) fn from_file(path: &Path) -> Result<GemmaConfig> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    let mut config = from_json(&text_file::read(&path)?).map_err(|e| named(&path, e))?;
    let generation = path.with_file_name("generation_config.json");
    if generation.is_file() {
        let mut fields = parse(&text_file::read(&generation)?).map_err(|e| named(&generation, e))?;
        let more = fields.tokens("eos_token_id").map_err(|e| named(&generation, e))?;
        add_tokens(&mut config.eos_token_ids, more.unwrap_or_default());
    }
    if config.use_bidirectional_attention {
        add_modules(&mut config, &path)?;
    }
    Ok(config)
}

/// What the modules beside `config.json` do after the last layer.
fn add_modules(config: &mut GemmaConfig, path: &Path) -> Result<()> {
    let Some(modules) = SentenceModules::beside(path)? else { return Ok(()) };
    let mut width = config.embedding_width();
    for (read, written) in modules.dense {
        if read != width {
            let problem = format!("a dense module of modules.json has in_features {read}, what it gets has {width}");
            return Err(named(path, Error::Config(problem)));
        }
        config.embedding_dense.push(written);
        width = written;
    }
    config.validate().map_err(|error| named(path, error))
}

pub(super) fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Config(problem) => Error::Config(format!("{}: {problem}", path.display())),
        Error::Unsupported(what) => Error::Unsupported(format!("{}: {what}", path.display())),
        other => other,
    }
}

pub(super) fn parse(text: &str) -> Result<Fields> {
    // A byte-order mark, as some editors write it.
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(map)) => Ok(Fields::new(map, "")),
        Ok(other) => Err(Error::Config(format!("expected a JSON object, found {}", short(&other)))),
        Err(e) => Err(Error::Config(format!("not valid JSON: {e}"))),
    }
}

pub(super) fn from_json(text: &str) -> Result<GemmaConfig> {
    let mut fields = parse(text)?;
    refuse_other_heads(&mut fields)?;
    quantised::refuse(&mut fields)?;
    let Some(model_type) = fields.text("model_type")? else {
        return Err(Error::Config("model_type is missing; is this the model's config.json?".into()));
    };
    match WRAPPERS.iter().find(|(wrapper, _)| *wrapper == model_type) {
        Some((wrapper, text_model)) => from_wrapper(fields, wrapper, text_model),
        None => from_text(fields, &model_type),
    }
}

/// A multimodal wrapper: ids and the tied head may stand at the top or in `text_config`.
fn from_wrapper(mut top: Fields, wrapper: &str, text_model: &str) -> Result<GemmaConfig> {
    let Some(mut text) = top.object("text_config")? else {
        return Err(Error::Config(format!("model_type is {wrapper:?}, but there is no text_config")));
    };
    if let Some(other) = text.text("model_type")?.filter(|other| other != text_model) {
        return Err(Error::Config(format!("text_config.model_type is {other:?}, expected {text_model:?}")));
    }
    let mut stop = top.tokens("eos_token_id")?;
    if let Some(stop) = &mut stop {
        add_tokens(stop, text.tokens("eos_token_id")?.unwrap_or_default());
    }
    for key in ["bos_token_id", "pad_token_id", "tie_word_embeddings"] {
        if let Some(value) = top.take(key) {
            text.set(key, value);
        }
    }
    top.drop_repeated(&text);
    refuse_switches(&mut top)?;
    top.finish(&[HARMLESS, HARMLESS_IN_WRAPPER])?;
    let mut config = from_text(text, text_model)?;
    if let Some(stop) = stop {
        config.eos_token_ids = stop;
    }
    Ok(config)
}

fn add_tokens(list: &mut Vec<u32>, more: Vec<u32>) {
    for id in more {
        if !list.contains(&id) {
            list.push(id);
        }
    }
}

pub(super) fn from_text(mut f: Fields, model_type: &str) -> Result<GemmaConfig> {
    let arch = arch_of(model_type)?;
    quantised::refuse(&mut f)?;
    let unified = model_type == "gemma4_unified_text";
    let use_bidirectional_attention = bidirectional(&mut f, arch)?;
    // D, F, layers, N, K, V, context, window.
    let defaults = match arch {
        GemmaArch::Gemma => [3072, 24576, 28, 16, 16, 256_000, 8192, 4096],
        GemmaArch::Gemma2 | GemmaArch::VaultGemma => [2304, 9216, 26, 8, 4, 256_000, 8192, 4096],
        GemmaArch::Gemma3 => [2304, 9216, 26, 8, 4, 262_208, 131_072, 4096],
        GemmaArch::Gemma3n => [2048, 16384, 35, 8, 2, 262_400, 32768, 512],
        GemmaArch::Gemma4 => [2304, 9216, 30, 8, 4, 262_144, 131_072, if unified { 1024 } else { 512 }],
        GemmaArch::EmbeddingGemma2 => [512, 2048, 24, 4, 2, 262_144, 262_144, 512],
    };
    refuse_switches(&mut f)?;
    refuse_activations(&mut f)?;
    let caps = matches!(arch, GemmaArch::Gemma2 | GemmaArch::VaultGemma);
    let num_hidden_layers = f.required_size("num_hidden_layers", defaults[2])?;
    let max_position_embeddings = f.required_size("max_position_embeddings", defaults[6])?;
    let layer_types = layer_types(&mut f, arch, num_hidden_layers)?;
    let (rope_full, rope_sliding) = rope::read(&mut f, arch, max_position_embeddings)?;
    let widths = match arch {
        GemmaArch::Gemma3n => json_layers::widths(&mut f, num_hidden_layers, defaults[1])?,
        _ => vec![f.required_size("intermediate_size", defaults[1])?],
    };
    let intermediate_size = widths.first().copied().unwrap_or(defaults[1]);
    let num_key_value_heads = f.required_size("num_key_value_heads", defaults[4])?;
    let head_dim = f.required_size("head_dim", 256)?;
    let facts = match arch {
        GemmaArch::Gemma3n => json_layers::gemma3n(&mut f, &widths)?,
        GemmaArch::Gemma4 => json_layers::gemma4(&mut f, &layer_types, intermediate_size, unified)?,
        GemmaArch::EmbeddingGemma2 => json_layers::embedding_gemma2(&mut f, &layer_types)?,
        _ => LayerFacts::default(),
    };
    let config = GemmaConfig {
        arch,
        hidden_size: f.required_size("hidden_size", defaults[0])?,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: f.required_size("num_attention_heads", defaults[3])?,
        num_key_value_heads,
        head_dim,
        vocab_size: f.required_size("vocab_size", defaults[5])?,
        rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
        max_position_embeddings,
        layer_types,
        sliding_window: window(&mut f, arch, defaults[7])?,
        use_bidirectional_attention,
        query_pre_attn_scalar: match arch {
            GemmaArch::Gemma => None,
            GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Some(1.0),
            _ => Some(f.number("query_pre_attn_scalar")?.unwrap_or(256.0)),
        },
        attn_logit_softcapping: attention_softcap(&mut f, arch)?,
        final_logit_softcapping: match arch {
            GemmaArch::Gemma | GemmaArch::EmbeddingGemma2 => None,
            _ => f.cap("final_logit_softcapping", (caps || arch == GemmaArch::Gemma3n).then_some(30.0))?,
        },
        tie_word_embeddings: f.switch("tie_word_embeddings")?.unwrap_or(true),
        eos_token_ids: f.tokens("eos_token_id")?.unwrap_or_else(|| vec![1]),
        bos_token_id: f.token("bos_token_id", 2)?,
        pad_token_id: f.token("pad_token_id", 0)?,
        rope_full,
        rope_sliding,
        per_layer_config: differing(facts.overrides, [head_dim, num_key_value_heads, intermediate_size]),
        attention_k_eq_v: facts.attention_k_eq_v,
        num_kv_shared_layers: facts.num_kv_shared_layers,
        hidden_size_per_layer_input: facts.hidden_size_per_layer_input,
        vocab_size_per_layer_input: facts.vocab_size_per_layer_input,
        altup_num_inputs: facts.altup_num_inputs,
        altup_active_idx: facts.altup_active_idx,
        altup_correct_scale: facts.altup_correct_scale,
        laurel_rank: facts.laurel_rank,
        activation_sparsity: facts.activation_sparsity,
        embedding_dim: match arch {
            GemmaArch::EmbeddingGemma2 => f.size("embedding_dim")?.unwrap_or(768),
            _ => 0,
        },
        embedding_dense: Vec::new(),
        num_experts: facts.experts.count,
        top_k_experts: facts.experts.top,
        moe_intermediate_size: facts.experts.width,
        effective_num_layers: None,
    };
    let family: &[&str] = match arch {
        // What training clips.
        GemmaArch::Gemma3n => &["altup_coef_clip"],
        _ => &[],
    };
    f.finish(&[HARMLESS, family])?;
    config.validate()?;
    Ok(config)
}

fn attention_softcap(f: &mut Fields, arch: GemmaArch) -> Result<Option<f32>> {
    match arch {
        GemmaArch::Gemma | GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Ok(None),
        GemmaArch::Gemma2 | GemmaArch::VaultGemma => f.cap("attn_logit_softcapping", Some(50.0)),
        GemmaArch::Gemma3 => {
            // transformers keeps the field in Gemma 3 and never uses it.
            if let Some(cap) = f.number("attn_logit_softcapping")? {
                tracing::warn!(cap, "attn_logit_softcapping has no effect in Gemma 3");
            }
            Ok(None)
        }
    }
}

/// Whether attention looks both ways. Among the tokens of a picture alone ("vision") it changes nothing for text.
fn bidirectional(f: &mut Fields, arch: GemmaArch) -> Result<bool> {
    const KEY: &str = "use_bidirectional_attention";
    let (value, expected) = match (arch, f.take(KEY)) {
        (GemmaArch::EmbeddingGemma2, None) => return Ok(true),
        (GemmaArch::EmbeddingGemma2, Some(value)) => (value, "true"),
        (_, None | Some(Value::Bool(false))) => return Ok(false),
        (GemmaArch::Gemma4, Some(Value::String(text))) if text == "vision" => return Ok(false),
        (GemmaArch::Gemma4, Some(Value::String(text))) if text == "all" => return Ok(true),
        (GemmaArch::Gemma4, Some(value)) => (value, "null, false, \"vision\" or \"all\""),
        (GemmaArch::Gemma3, Some(value)) => (value, "true or false"),
        (_, Some(value)) => (value, "false; this crate does not compute it otherwise"),
    };
    match (arch, &value) {
        (GemmaArch::Gemma3 | GemmaArch::EmbeddingGemma2, Value::Bool(true)) => Ok(true),
        _ => Err(f.refuse(KEY, &value, expected)),
    }
}

fn refuse_switches(f: &mut Fields) -> Result<()> {
    for key in MUST_BE_OFF {
        if let Some(value) = f.take(key) {
            let off = value == Value::Bool(false) || value.as_object().is_some_and(Map::is_empty);
            if !off {
                return Err(f.refuse(key, &value, "false; this crate does not compute it otherwise"));
            }
        }
    }
    Ok(())
}

/// Every Gemma has the tanh form of GELU. `hidden_act` is the older key, in which "gelu" was written and the tanh form meant.
fn refuse_activations(f: &mut Fields) -> Result<()> {
    for (key, accepted) in [("hidden_activation", ["gelu_pytorch_tanh"; 2]), ("hidden_act", ["gelu_pytorch_tanh", "gelu"])] {
        if let Some(name) = f.text(key)?
            && !accepted.contains(&name.as_str())
        {
            return Err(f.refuse(key, &name.into(), "\"gelu_pytorch_tanh\""));
        }
    }
    Ok(())
}

/// Refuses models whose architecture ends in something other than a language model's head.
fn refuse_other_heads(f: &mut Fields) -> Result<()> {
    let Some(value) = f.take("architectures") else { return Ok(()) };
    let names = value.as_array().map(Vec::as_slice).unwrap_or_default();
    match names.iter().filter_map(Value::as_str).find(|n| n.contains("Classification") || n.contains("QuestionAnswering")) {
        Some(name) => {
            Err(Error::Unsupported(format!("architecture {}, a head other than a language model's,", short(&name.into()))))
        }
        None => Ok(()),
    }
}

fn arch_of(model_type: &str) -> Result<GemmaArch> {
    let why = match model_type {
        "gemma" => return Ok(GemmaArch::Gemma),
        "gemma2" => return Ok(GemmaArch::Gemma2),
        "vaultgemma" => return Ok(GemmaArch::VaultGemma),
        "gemma3_text" => return Ok(GemmaArch::Gemma3),
        "gemma3n_text" => return Ok(GemmaArch::Gemma3n),
        "gemma4_text" | "gemma4_unified_text" => return Ok(GemmaArch::Gemma4),
        "embedding_gemma2_text" => return Ok(GemmaArch::EmbeddingGemma2),
        t if t.starts_with("gemma4") && t.ends_with("assistant") => {
            "a drafter continues nothing by itself; give it to the generator of its model (Drafter::from_path), as it"
        }
        t if t.starts_with("recurrent_gemma") => "RecurrentGemma has recurrent layers, which",
        t if t.contains("diffusion") => "a diffusion model does not predict the next token, which",
        t if t.starts_with("t5gemma") => "T5Gemma is an encoder with a decoder, which",
        t if t.starts_with("paligemma") || t.starts_with("shieldgemma") || t.starts_with("colpali") => {
            "a model around a vision encoder other than Gemma 3's, which"
        }
        other => {
            let known = "gemma, gemma2, vaultgemma, gemma3_text, gemma3, gemma3n_text, gemma3n, gemma4_text, gemma4, \
                         gemma4_unified_text, gemma4_unified, embedding_gemma2_text or embedding_gemma2";
            let problem = format!("model_type is {other:?}, expected {known}");
            return Err(Error::Config(problem));
        }
    };
    Err(Error::Unsupported(format!("model_type {model_type:?}: {why}")))
}
