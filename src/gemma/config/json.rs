//! `config.json`, as Hugging Face's transformers writes it, into a [`GemmaConfig`].

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    GemmaArch, GemmaConfig,
    absent::Defaults,
    fields::{Fields, short},
    json_layers::{self, LayerFacts, differing, layer_types, tell_halved, window},
    quantised, rope,
    unknown::MULTIMODAL,
};
use crate::{Error, Result, text_file, weights::SentenceModules};

/// Keys that cannot change what a text model computes: training, bookkeeping, and defaults of text generation.
#[rustfmt::skip]
pub(super) const HARMLESS: &[&str] = &[
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "attention_dropout",
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
    top.finish(&[HARMLESS, MULTIMODAL])?;
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
    let (arch, model_type) = arch_of(model_type)?;
    quantised::refuse(&mut f)?;
    let defaults = Defaults::config_json(model_type);
    let d = &defaults;
    let use_bidirectional_attention = bidirectional(&mut f, arch, d)?;
    refuse_switches(&mut f)?;
    refuse_activations(&mut f)?;
    let num_hidden_layers = f.size_or(d, "num_hidden_layers")?;
    let max_position_embeddings = f.size_or(d, "max_position_embeddings")?;
    let layer_types = layer_types(&mut f, arch, num_hidden_layers, d)?;
    let (rope_full, rope_sliding) = rope::read(&mut f, arch, max_position_embeddings, d)?;
    let widths = match arch {
        GemmaArch::Gemma3n => json_layers::widths(&mut f, num_hidden_layers, d)?,
        _ => vec![f.size_or(d, "intermediate_size")?],
    };
    let intermediate_size = widths.first().copied().unwrap_or(0);
    let num_key_value_heads = f.size_or(d, "num_key_value_heads")?;
    let head_dim = f.size_or(d, "head_dim")?;
    let facts = match arch {
        GemmaArch::Gemma3n => json_layers::gemma3n(&mut f, &widths, d)?,
        GemmaArch::Gemma4 => json_layers::gemma4(&mut f, &layer_types, intermediate_size, d)?,
        GemmaArch::EmbeddingGemma2 => json_layers::embedding_gemma2(&mut f, &layer_types, d)?,
        _ => LayerFacts::default(),
    };
    let config = GemmaConfig {
        arch,
        hidden_size: f.size_or(d, "hidden_size")?,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: f.size_or(d, "num_attention_heads")?,
        num_key_value_heads,
        head_dim,
        vocab_size: f.size_or(d, "vocab_size")?,
        rms_norm_eps: f.number_or(d, "rms_norm_eps")?,
        max_position_embeddings,
        layer_types,
        sliding_window: window(&mut f, arch, d)?,
        use_bidirectional_attention,
        query_pre_attn_scalar: match arch {
            GemmaArch::Gemma => None,
            GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Some(1.0),
            _ => Some(f.number_or(d, "query_pre_attn_scalar")?),
        },
        attn_logit_softcapping: attention_softcap(&mut f, arch, d)?,
        final_logit_softcapping: match arch {
            GemmaArch::Gemma | GemmaArch::EmbeddingGemma2 => None,
            _ => f.cap(d, "final_logit_softcapping")?,
        },
        tie_word_embeddings: f.switch_or(d, "tie_word_embeddings")?,
        eos_token_ids: match f.tokens("eos_token_id")? {
            Some(ids) => ids,
            None => defaults.size("eos_token_id").and_then(|id| u32::try_from(id).ok()).into_iter().collect(),
        },
        bos_token_id: f.token(d, "bos_token_id")?,
        pad_token_id: f.token(d, "pad_token_id")?,
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
            GemmaArch::EmbeddingGemma2 => f.size_or(d, "embedding_dim")?,
            _ => 0,
        },
        embedding_dense: Vec::new(),
        num_experts: facts.experts.count,
        top_k_experts: facts.experts.top,
        moe_intermediate_size: facts.experts.width,
        effective_num_layers: None,
    };
    let family: &[&str] = match arch {
        // What training clips, and a scale that the released files have and the family's attention does not.
        GemmaArch::Gemma3n => &["altup_coef_clip", "query_pre_attn_scalar"],
        _ => &[],
    };
    f.finish(&[HARMLESS, family])?;
    config.validate()?;
    tell_halved(&config);
    Ok(config)
}

fn attention_softcap(f: &mut Fields, arch: GemmaArch, defaults: &Defaults) -> Result<Option<f32>> {
    match arch {
        GemmaArch::Gemma | GemmaArch::Gemma3n | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2 => Ok(None),
        GemmaArch::Gemma2 | GemmaArch::VaultGemma => f.cap(defaults, "attn_logit_softcapping"),
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
fn bidirectional(f: &mut Fields, arch: GemmaArch, defaults: &Defaults) -> Result<bool> {
    const KEY: &str = "use_bidirectional_attention";
    let (value, expected) = match (arch, f.take(KEY)) {
        (_, None) => return Ok(defaults.switch(KEY).unwrap_or(false)),
        (GemmaArch::EmbeddingGemma2, Some(value)) => (value, "true"),
        (_, Some(Value::Bool(false))) => return Ok(false),
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
    const TANH: [&str; 4] = ["gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_python_tanh"];
    for (key, older) in [("hidden_activation", None), ("hidden_act", Some("gelu"))] {
        if let Some(name) = f.text(key)?
            && !TANH.contains(&name.as_str())
            && older != Some(name.as_str())
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

/// The family of a text model, and its `model_type` as the tables of defaults have it.
fn arch_of(model_type: &str) -> Result<(GemmaArch, &'static str)> {
    let why = match model_type {
        "gemma" => return Ok((GemmaArch::Gemma, "gemma")),
        "gemma2" => return Ok((GemmaArch::Gemma2, "gemma2")),
        "vaultgemma" => return Ok((GemmaArch::VaultGemma, "vaultgemma")),
        "gemma3_text" => return Ok((GemmaArch::Gemma3, "gemma3_text")),
        "gemma3n_text" => return Ok((GemmaArch::Gemma3n, "gemma3n_text")),
        "gemma4_text" => return Ok((GemmaArch::Gemma4, "gemma4_text")),
        "gemma4_unified_text" => return Ok((GemmaArch::Gemma4, "gemma4_unified_text")),
        "embedding_gemma2_text" => return Ok((GemmaArch::EmbeddingGemma2, "embedding_gemma2_text")),
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
