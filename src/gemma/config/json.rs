//! `config.json`, as Hugging Face's transformers writes it, into a [`GemmaConfig`].

use serde_json::{Map, Value};

use super::{
    BidirectionalPictures, GemmaConfig,
    absent::Defaults,
    family::{Bidirectional, Family, GemmaArch, ScoreScale, SoftcapKey},
    fields::{Fields, short},
    json_layers::{self, layer_types, tell_halved, window},
    multimodal, processor, quantised, rope,
    unknown::MULTIMODAL,
};
use crate::{Error, Result, files::ModelPath, text_file, weights::SentenceModules};

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

pub(super) fn from_file(path: &ModelPath) -> Result<GemmaConfig> {
    let path = if path.is_dir() { path.join("config.json") } else { path.clone() };
    let mut config = from_json(&text_file::read(&path)?).map_err(|e| named(&path, e))?;
    let generation = path.with_file_name("generation_config.json");
    if generation.is_file() {
        let mut fields = parse(&text_file::read(&generation)?).map_err(|e| named(&generation, e))?;
        let more = fields.tokens("eos_token_id").map_err(|e| named(&generation, e))?;
        add_tokens(&mut config.eos_token_ids, more.unwrap_or_default());
    }
    processor::settle(&mut config.multimodal, &path);
    if config.use_bidirectional_attention {
        add_modules(&mut config, &path)?;
    }
    Ok(config)
}

/// Adds the dense modules beside `config.json`, which follow the last layer.
fn add_modules(config: &mut GemmaConfig, path: &ModelPath) -> Result<()> {
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

pub(super) fn named(path: &ModelPath, error: Error) -> Error {
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
    let text_model = format!("{model_type}_text");
    match GemmaArch::of_model_type(&text_model) {
        Some(_) => from_wrapper(fields, &model_type, &text_model),
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
    let multimodal = multimodal::read(&mut top)?;
    refuse_switches(&mut top)?;
    top.finish(&[HARMLESS, MULTIMODAL])?;
    let mut config = from_text(text, text_model)?;
    config.multimodal = multimodal;
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

/// A text model by itself, or in a wrapper.
pub(super) fn from_text(mut f: Fields, model_type: &str) -> Result<GemmaConfig> {
    let (arch, model_type) = arch_of(model_type)?;
    let family = arch.family();
    let d = &Defaults::config_json(model_type);
    quantised::refuse(&mut f)?;
    let bidirectional_pictures = bidirectional_pictures(&f, &family);
    let use_bidirectional_attention = bidirectional(&mut f, family.bidirectional, d)?;
    refuse_switches(&mut f)?;
    refuse_activations(&mut f)?;
    let num_hidden_layers = f.size_or(d, "num_hidden_layers")?;
    let max_position_embeddings = f.size_or(d, "max_position_embeddings")?;
    let layer_types = layer_types(&mut f, &family, num_hidden_layers, d)?;
    let (rope_full, rope_sliding) = rope::read(&mut f, family.rope_keys, max_position_embeddings, d)?;
    let mut config = GemmaConfig {
        hidden_size: f.size_or(d, "hidden_size")?,
        num_hidden_layers,
        num_attention_heads: f.size_or(d, "num_attention_heads")?,
        num_key_value_heads: f.size_or(d, "num_key_value_heads")?,
        head_dim: f.size_or(d, "head_dim")?,
        vocab_size: f.size_or(d, "vocab_size")?,
        rms_norm_eps: f.number_or(d, "rms_norm_eps")?,
        max_position_embeddings,
        layer_types,
        sliding_window: window(&mut f, &family, d)?,
        use_bidirectional_attention,
        bidirectional_pictures,
        query_pre_attn_scalar: query_scalar(&mut f, family.score_scale, d)?,
        attn_logit_softcapping: softcap(&mut f, family.attention_softcap, "attn_logit_softcapping", d)?,
        final_logit_softcapping: softcap(&mut f, family.final_softcap, "final_logit_softcapping", d)?,
        tie_word_embeddings: f.switch_or(d, "tie_word_embeddings")?,
        eos_token_ids: stop_tokens(&mut f, d)?,
        bos_token_id: f.token(d, "bos_token_id")?,
        pad_token_id: f.token(d, "pad_token_id")?,
        rope_full,
        rope_sliding,
        ..GemmaConfig::bare(arch)
    };
    json_layers::read(&mut f, &mut config, d)?;
    f.finish(&[HARMLESS, family.harmless_keys])?;
    config.validate()?;
    tell_halved(&config);
    Ok(config)
}

/// Tokens that end a text; `null` says that none does.
fn stop_tokens(f: &mut Fields, defaults: &Defaults) -> Result<Vec<u32>> {
    let default = || defaults.size("eos_token_id").and_then(|id| u32::try_from(id).ok());
    Ok(f.tokens("eos_token_id")?.unwrap_or_else(|| default().into_iter().collect()))
}

fn query_scalar(f: &mut Fields, scale: ScoreScale, defaults: &Defaults) -> Result<Option<f32>> {
    match scale {
        ScoreScale::HeadDim => Ok(None),
        ScoreScale::QueryPreAttnScalar => f.number_or(defaults, "query_pre_attn_scalar").map(Some),
        ScoreScale::One => Ok(Some(1.0)),
    }
}

fn softcap(f: &mut Fields, meaning: SoftcapKey, key: &str, defaults: &Defaults) -> Result<Option<f32>> {
    match meaning {
        SoftcapKey::None => Ok(None),
        SoftcapKey::Cap => f.cap(defaults, key),
        SoftcapKey::Unused => {
            if let Some(cap) = f.number(key)? {
                tracing::warn!(cap, "{key} has no effect in {}", defaults.family());
            }
            Ok(None)
        }
    }
}

const BIDIRECTIONAL: &str = "use_bidirectional_attention";

/// In which layers the tokens of a picture see each other: in Gemma 4 the key may say that it is in none.
fn bidirectional_pictures(f: &Fields, family: &Family) -> BidirectionalPictures {
    let says_vision = || f.peek(BIDIRECTIONAL).is_some_and(|value| value.as_str() == Some("vision"));
    if family.bidirectional == Bidirectional::Modality && f.has(BIDIRECTIONAL) && !says_vision() {
        return BidirectionalPictures::Never;
    }
    family.bidirectional_pictures
}

/// True if attention is bidirectional.
fn bidirectional(f: &mut Fields, rule: Bidirectional, defaults: &Defaults) -> Result<bool> {
    const KEY: &str = BIDIRECTIONAL;
    let Some(value) = f.take(KEY) else { return Ok(defaults.switch(KEY).unwrap_or(false)) };
    let (said, expected) = match (rule, &value) {
        (Bidirectional::Always, value) => (value.as_bool().filter(|both| *both), "true"),
        (_, Value::Bool(false)) => return Ok(false),
        (Bidirectional::Never, _) => (None, "false; this crate does not compute it otherwise"),
        (Bidirectional::Switch, value) => (value.as_bool(), "true or false"),
        // "vision" is of the tokens of a picture, see bidirectional_pictures.
        (Bidirectional::Modality, value) => match value.as_str() {
            Some("vision") => return Ok(false),
            Some("all") => return Ok(true),
            _ => (None, "null, false, \"vision\" or \"all\""),
        },
    };
    said.ok_or_else(|| f.refuse(KEY, &value, expected))
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

/// Every Gemma has the tanh form of GELU. `hidden_act` is the older key, in which "gelu" was written and the tanh form
/// meant.
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
    if let Some(found) = GemmaArch::of_model_type(model_type) {
        return Ok(found);
    }
    let why = match model_type {
        t if t.starts_with("gemma4") && t.ends_with("assistant") => {
            "a drafter continues nothing by itself; give it to the generator of its model (Drafter::from_path), as it"
        }
        t if t.starts_with("recurrent_gemma") => "RecurrentGemma has recurrent layers, which",
        t if t.contains("diffusion") => "a diffusion model does not predict the next token, which",
        t if t.starts_with("t5gemma") => "T5Gemma is an encoder with a decoder, which",
        t if t.starts_with("paligemma") || t.starts_with("shieldgemma") || t.starts_with("colpali") => {
            "a model around a vision encoder other than Gemma 3's, which"
        }
        other => return Err(Error::Config(format!("model_type is {other:?}, expected {}", known_model_types()))),
    };
    Err(Error::Unsupported(format!("model_type {model_type:?}: {why}")))
}

/// The `model_type`s of text models, each with that of its wrapper.
fn known_model_types() -> String {
    let of_family = |arch: &GemmaArch| arch.family().model_types.iter();
    let with_wrapper = |own: &&'static str| [Some(*own), own.strip_suffix("_text")].into_iter().flatten();
    let known: Vec<&str> = GemmaArch::ALL.iter().flat_map(of_family).flat_map(with_wrapper).collect();
    one_of(&known)
}

/// `a, b or c`.
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.join(""),
    }
}
