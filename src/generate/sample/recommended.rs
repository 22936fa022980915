//! Sampling as a model's maker recommends it: `generation_config.json`, and the sampling keys of GGUF files.

use serde_json::{Map, Value};

use super::SampleOpts;
use crate::{
    Error, Result,
    error::SamplingError,
    files::ModelPath,
    text_file,
    weights::{GgufFiles, GgufMetadata, ReadOptions, is_gguf},
};

/// The default of transformers for `top_k` where a model draws and the file says nothing of it.
const DEFAULT_TOP_K: usize = 50;

/// Keys of `generation_config.json` that have no say in which token is chosen: ids that others read, lengths,
/// bookkeeping, caches, what is returned, and settings of beams and of assistants alone.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
    "assistant_lookbehind", "bos_token_id", "cache_config", "cache_implementation", "compile_config", "continuous_batching_config",
    "decoder_start_token_id", "disable_compile", "early_stopping", "eos_token_id", "is_assistant", "length_penalty", "low_memory",
    "max_cache_len", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits",
    "output_scores", "pad_token_id", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
    "renormalize_logits", "return_dict_in_generate", "speculation_type", "target_lookbehind", "transformers_version",
    "trust_remote_code", "use_cache", "use_mtp",
];

/// Keys that choose tokens otherwise than this crate does, each with the number at which it has no effect.
const NEUTRAL: [(&str, f64); 13] = [
    ("diversity_penalty", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beam_groups", 1.0),
    ("num_beams", 1.0),
    ("penalty_alpha", 0.0),
    ("typical_p", 1.0),
];

impl SampleOpts {
    /// The settings that a model's maker recommends, with seed 0: the `generation_config.json` beside its weights, or
    /// the sampling keys (`general.sampling.…`) of a GGUF file. `None` where these say nothing of sampling. `weights`
    /// is a path as `conversation::Model::open` takes it.
    ///
    /// A `generation_config.json` means what transformers makes of it: without `do_sample` the likeliest token, with it
    /// `top_k` 50 where the file names none. A key that a GGUF file does not have has no effect. Recommendations beyond
    /// temperature, top-k, top-p, min-p and the repetition penalty are left out, with a `tracing` warning that names
    /// them.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] for a file that cannot be read; [`SamplingError::Options`] for a value that
    /// is no number, or out of its range, with the file's name in front.
    pub fn recommended(weights: impl Into<ModelPath>) -> Result<Option<Self>> {
        Self::recommended_beside(&weights.into())
    }

    fn recommended_beside(path: &ModelPath) -> Result<Option<Self>> {
        if is_gguf(path) {
            let files = GgufFiles::open(path, ReadOptions::default())?;
            return from_gguf(&files.metadata, path);
        }
        let file = path.folder().join("generation_config.json");
        if !file.is_file() {
            return Ok(None);
        }
        let text = text_file::read(&file)?;
        match serde_json::from_str(&text) {
            Ok(map) => from_json(map, &file),
            Err(error) => Err(Error::Format { path: file.to_path_buf(), problem: format!("not valid JSON: {error}") }),
        }
    }

    /// With the file's name before what is wrong.
    fn checked(self, file: &ModelPath) -> Result<Option<Self>> {
        match self.validate() {
            Ok(()) => Ok(Some(self)),
            Err(Error::Sampling(SamplingError::Options(problem))) => Err(wrong(file, problem)),
            Err(error) => Err(error),
        }
    }
}

fn wrong(file: &ModelPath, problem: String) -> Error {
    Error::Sampling(SamplingError::Options(format!("{}: {problem}", file.display())))
}

/// The keys of a file, used up one by one.
struct Keys<'a> {
    map: Map<String, Value>,
    file: &'a ModelPath,
}

impl Keys<'_> {
    /// A value by `read`; `null` counts as absent.
    fn take<T>(&mut self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.map.remove(key).filter(|value| !value.is_null()) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(self.file, format!("{key} is {value}, expected {expected}"))),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<f32>> {
        self.take(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    /// Names what is left over and would have an effect.
    fn warn_of_the_rest(&self) {
        for (key, value) in self.map.iter().filter(|(key, value)| !has_no_effect(key, value)) {
            let file = self.file.display();
            tracing::warn!("{file}: {key} is {value}, which this crate does not compute; tokens are chosen without it");
        }
    }
}

fn has_no_effect(key: &str, value: &Value) -> bool {
    let is_neutral = |number: f64| NEUTRAL.iter().any(|(name, neutral)| *name == key && *neutral == number);
    HARMLESS.contains(&key)
        || match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Number(number) => number.as_f64().is_some_and(is_neutral),
            Value::Bool(true) | Value::String(_) => false,
        }
}

fn from_json(map: Map<String, Value>, file: &ModelPath) -> Result<Option<SampleOpts>> {
    let mut keys = Keys { map, file };
    let whole = |value: &Value| value.as_u64().and_then(|k| usize::try_from(k).ok());
    let draws = keys.take("do_sample", "true or false", Value::as_bool)?;
    let temperature = keys.number("temperature")?;
    let top_k = keys.take("top_k", "a whole number from 0 on", whole)?;
    let top_p = keys.number("top_p")?;
    let min_p = keys.number("min_p")?;
    let penalty = keys.number("repetition_penalty")?;
    let filters = temperature.is_some() || top_k.is_some() || top_p.is_some() || min_p.is_some();
    if draws.is_none() && !filters && penalty.is_none() {
        return Ok(None);
    }
    keys.warn_of_the_rest();
    if draws.is_none() && filters {
        let file = file.display();
        tracing::warn!(
            "{file}: it has settings for draws, but no do_sample; the likeliest token is taken, as transformers does then"
        );
    }
    let opts = match draws {
        Some(true) => SampleOpts::temperature(temperature.unwrap_or(1.0), 0)
            .with_top_k(top_k.unwrap_or(DEFAULT_TOP_K))
            .with_top_p(top_p.unwrap_or(1.0))
            .with_min_p(min_p.unwrap_or(0.0)),
        _ => SampleOpts::greedy(),
    };
    opts.with_repetition_penalty(penalty.unwrap_or(1.0)).checked(file)
}

/// llama.cpp's names of the samplers that this crate has, as lists of samplers spell them.
const SAMPLERS: [(&str, &[&str]); 5] = [
    ("penalty_repeat", &["penalties"]),
    ("temp", &["temperature", "temp"]),
    ("top_k", &["top_k", "top-k"]),
    ("top_p", &["top_p", "top-p", "nucleus"]),
    ("min_p", &["min_p", "min-p"]),
];

/// Samplers that llama.cpp computes and this crate does not, each with the number at which it has no effect.
const FOREIGN: [(&str, f32); 2] = [("mirostat", 0.0), ("xtc_probability", 0.0)];

fn from_gguf(metadata: &GgufMetadata, file: &ModelPath) -> Result<Option<SampleOpts>> {
    let number = |name: &str| metadata.number(&format!("general.sampling.{name}")).map_err(|problem| wrong(file, problem));
    let sequence = metadata.text("general.sampling.sequence").map_err(|problem| wrong(file, problem))?;
    let order: Option<Vec<&str>> = sequence.map(|names| names.split(';').map(str::trim).collect());
    let place = |names: &[&str]| order.as_ref().map(|order| order.iter().position(|name| names.contains(name)));
    let mut found = [None; SAMPLERS.len()];
    for ((name, spellings), value) in SAMPLERS.iter().zip(&mut found) {
        // A sampler that the file's list leaves out has no effect.
        *value = number(name)?.filter(|_| place(spellings).is_none_or(|place| place.is_some()));
    }
    let [penalty, temperature, top_k, top_p, min_p] = found;
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let shown = file.display();
    for (name, neutral) in FOREIGN {
        if let Some(value) = number(name)?.filter(|value| *value != neutral) {
            tracing::warn!(
                "{shown}: general.sampling.{name} is {value}, which this crate does not compute; tokens are chosen without it"
            );
        }
    }
    let penalty = match (penalty, number("penalty_last_n")?) {
        (_, Some(0.0)) | (None, _) => 1.0,
        (Some(penalty), last) => {
            if penalty != 1.0 && last != Some(-1.0) {
                let last = last.unwrap_or(64.0);
                tracing::warn!(
                    "{shown}: the repetition penalty {penalty} is meant for the last {last} tokens; here it counts all of them"
                );
            }
            penalty
        }
    };
    // To llama.cpp a number below 0 means none, as 0 does; NaN stays, to be refused.
    let from_zero = |value: f32| if value < 0.0 { 0.0 } else { value };
    let temperature = from_zero(temperature.unwrap_or(1.0));
    let warmed = place(SAMPLERS[1].1).flatten();
    let is_before = |(_, names): &(&str, &[&str])| place(names).flatten().is_some_and(|at| Some(at) < warmed);
    if temperature != 1.0 && SAMPLERS[2..].iter().any(is_before) {
        tracing::warn!("{shown}: general.sampling.sequence has the temperature after other samplers; here it comes before them");
    }
    let top_k = from_zero(top_k.unwrap_or(0.0));
    if top_k.fract() != 0.0 {
        return Err(wrong(file, format!("general.sampling.top_k is {top_k}, expected a whole number")));
    }
    SampleOpts::temperature(temperature, 0)
        .with_top_k(top_k as usize)
        .with_top_p(top_p.map_or(1.0, |p| if p > 1.0 { 1.0 } else { p }))
        .with_min_p(from_zero(min_p.unwrap_or(0.0)))
        .with_repetition_penalty(penalty)
        .checked(file)
}
