//! An adapter as PEFT writes it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Lora, LoraPart, experts,
    fields::{self, shown},
    file,
    keys::{self, Module, Role},
    patterns::{Numbers, Pattern, Targets},
    place::{self, Place},
    refuse,
};
use crate::{
    Result,
    files::ModelPath,
    gemma::{GemmaConfig, WeightKind, WeightPosition},
    weights::{Tensor, safetensors_file, transposed},
};

/// The fields of the configuration that determine the numbers.
struct PeftConfig {
    rank: f64,
    alpha: f64,
    ranks: Pattern,
    alphas: Pattern,
    rank_stabilised: bool,
    bias: bool,
    dora: bool,
    tied: bool,
    targets: Targets,
}

impl PeftConfig {
    fn parse(text: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Patterns {
            rank_pattern: Option<Numbers>,
            alpha_pattern: Option<Numbers>,
        }
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        fields::check(&fields)?;
        let patterns: Patterns = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let number = |name: &str| match fields.get(name) {
            Some(value) => value.as_f64().ok_or_else(|| format!("{name} is {}, expected a number", shown(value))),
            None => Err(format!("{name} is missing, by which the adapter is scaled; PEFT writes it")),
        };
        let flag = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("{name} is {}, expected true or false", shown(value))),
        };
        Ok(Self {
            rank: number("r")?,
            alpha: number("lora_alpha")?,
            ranks: patterns.rank_pattern.unwrap_or_default().compile("rank_pattern")?,
            alphas: patterns.alpha_pattern.unwrap_or_default().compile("alpha_pattern")?,
            rank_stabilised: flag("use_rslora")?,
            bias: flag("lora_bias")?,
            dora: flag("use_dora")?,
            tied: flag("ensure_weight_tying")?,
            targets: Targets::of(&fields)?,
        })
    }

    /// Rank and factor of a module.
    fn of_module(&self, module: &str) -> Result<(usize, f32), String> {
        let rank = self.ranks.of(module)?.unwrap_or(self.rank);
        let alpha = self.alphas.of(module)?.unwrap_or(self.alpha);
        if rank < 1.0 || rank.fract() != 0.0 || rank > f64::from(u32::MAX) {
            return Err(format!("r is {rank} for '{module}', expected an integer from 1 on"));
        }
        let scale = alpha / if self.rank_stabilised { rank.sqrt() } else { rank };
        if !scale.is_finite() {
            return Err(format!("lora_alpha is {alpha} for '{module}', expected a finite number"));
        }
        Ok((rank as usize, scale as f32))
    }
}

/// Opens an adapter by its file of weights, its configuration beside it.
pub(super) fn open(weights: &ModelPath, model: &GemmaConfig) -> Result<Lora> {
    let mut placed = Vec::new();
    let mut unused = 0;
    let mut foreign = 0;
    for (module, tensors) in modules(weights)? {
        match place::of_module(&module, model) {
            Ok(Place::Unused) => unused += 1,
            Ok(Place::OtherModality) => foreign += 1,
            Ok(place) => placed.push((module, place, tensors)),
            Err(problem) => {
                let word = tensors.tensors.keys().next().map_or("", |role| role.word());
                return Err(refuse(weights, format!("'{module}.{word}' {problem}")));
            }
        }
    }
    let (path, text) = file::config_beside(weights)?;
    let config = PeftConfig::parse(&text).map_err(|problem| refuse(&path, problem))?;
    let mut parts: BTreeMap<String, LoraPart> = BTreeMap::new();
    let mut copies = BTreeMap::new();
    for (module, place, tensors) in placed {
        let (at, part, copy) = part(&config, model, &module, place, tensors).map_err(|problem| match problem {
            Problem::Config(problem) => refuse(&path, problem),
            Problem::Weights(problem) => refuse(weights, problem),
        })?;
        copies.extend(copy.map(|copy| (at.to_string(), copy)));
        if parts.insert(at.to_string(), part).is_some() {
            return Err(refuse(weights, format!("two of its modules adapt {at}, '{module}' is one; expected one of them")));
        }
    }
    if foreign > 0 {
        tracing::warn!(
            modules = foreign,
            "the adapter's parts for vision and audio towers are left out: the model here takes text"
        );
    }
    if unused > 0 {
        tracing::debug!(modules = unused, "parts for keys and values that layers take from others have no effect");
    }
    if parts.is_empty() {
        let left = if foreign + unused > 0 { ": all that it adapts has no part in this model" } else { "" };
        return Err(refuse(weights, format!("there is no lora_A and no lora_B in it{left}")));
    }
    Ok(Lora { copies, ..Lora::of(weights.clone(), parts) })
}

/// The tensors of a file by their modules.
fn modules(weights: &ModelPath) -> Result<BTreeMap<String, Module>> {
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    let mut adapters: BTreeMap<Option<String>, String> = BTreeMap::new();
    for (name, tensor) in safetensors_file(weights)? {
        let key = keys::peft(&name).map_err(|what| refuse(weights, format!("'{name}' {what}; {}", super::MERGE)))?;
        let tensor =
            tensor.map_err(|found| refuse(weights, format!("'{name}' has element type {found}, expected F32, F16 or BF16")))?;
        if tensor.is_empty() {
            let why = "saved without its parts of other devices (DeepSpeed ZeRO-3, FSDP); gather them and save it again";
            return Err(refuse(weights, format!("'{name}' has shape {:?}: the adapter was {why}", tensor.shape())));
        }
        if key.role != Role::Copy {
            adapters.entry(key.adapter).or_insert(name.clone());
        }
        let twice = |role: Role| refuse(weights, format!("'{name}': there is already a {} of '{}'", role.word(), key.module));
        modules.entry(key.module.clone()).or_default().insert(key.role, tensor).map_err(twice)?;
    }
    if adapters.len() > 1 {
        let names: Vec<&String> = adapters.values().collect();
        return Err(refuse(
            weights,
            format!("it holds several adapters, such as those of {names:?}; save one of them by itself"),
        ));
    }
    Ok(modules)
}

/// A problem, by the file that it lies in.
enum Problem {
    Config(String),
    Weights(String),
}

/// A module's weight in the model, and its low-rank factors as their file has them.
struct Factors {
    at: WeightPosition,
    a: Tensor,
    b: Tensor,
}

/// The weight that a module adapts, its part, and its copy of the weight.
fn part(
    config: &PeftConfig,
    model: &GemmaConfig,
    module: &str,
    place: Place,
    mut tensors: Module,
) -> Result<(WeightPosition, LoraPart, Option<Tensor>), Problem> {
    let (rank, scale) = config.of_module(module).map_err(Problem::Config)?;
    let is_expert = matches!(place, Place::Experts(_));
    if let Some(field) = config.targets.leave_out(module).map_err(Problem::Config)?.filter(|_| !is_expert) {
        let problem = format!("{field} leaves out '{module}', whose weights are in the file; correct the one or the other");
        return Err(Problem::Config(problem));
    }
    let Factors { at, a, b } = match place {
        Place::Experts(layer) => {
            let (at, a, b) = experts::parts(model, layer, rank, &mut tensors, module).map_err(Problem::Weights)?;
            Factors { at, a, b }
        }
        Place::Rows(at) => table_factors(config, module, at, &mut tensors)?,
        Place::Matrix(at) => matrix_factors(config, at, &mut tensors)?,
        Place::OtherModality | Place::Unused => {
            return Err(Problem::Weights(format!("'{module}' has no part in this model")));
        }
    };
    if !is_expert && a.shape().first() != Some(&rank) {
        let found = format!("'{module}' has an A of shape {:?}", a.shape());
        let problem = format!("{found}, the configuration says rank {rank} (r, rank_pattern); they do not belong together");
        return Err(Problem::Config(problem));
    }
    let is_table = at.kind() == WeightKind::Table;
    let a = match (is_table, a.dtype().scalar_bytes(), a.shape()) {
        (true, Some(size), [_, _]) => transposed(a, size),
        _ => a,
    };
    let copy = tensors.tensors.remove(&Role::Copy);
    let (bias, magnitude) = additions(config, module, tensors, is_table || is_expert)?;
    Ok((at, LoraPart { a, b, scale, bias, magnitude }, copy))
}

fn table_factors(config: &PeftConfig, module: &str, at: WeightPosition, tensors: &mut Module) -> Result<Factors, Problem> {
    if config.tied {
        let why = "the LM head takes the embedding's low ranks as well";
        let problem = format!("ensure_weight_tying is true, and the adapter adapts {at}: {why}; {}", super::MERGE);
        return Err(Problem::Config(problem));
    }
    if tensors.tensors.contains_key(&Role::A) {
        let problem = format!("'{module}.lora_A' adapts {at} as a matrix, whose rows are looked up; expected lora_embedding_A");
        return Err(Problem::Weights(problem));
    }
    let a = tensors.take(Role::TableA, &at.to_string()).map_err(Problem::Weights)?;
    let b = tensors.take(Role::TableB, &at.to_string()).map_err(Problem::Weights)?;
    Ok(Factors { at, a, b })
}

fn matrix_factors(config: &PeftConfig, at: WeightPosition, tensors: &mut Module) -> Result<Factors, Problem> {
    let a = tensors.take(Role::A, &at.to_string()).map_err(Problem::Weights)?;
    let b = tensors.take(Role::B, &at.to_string()).map_err(Problem::Weights)?;
    if config.tied && at == WeightPosition::Unembed {
        let problem = format!("ensure_weight_tying is true, and the adapter adapts {at}; {}", super::MERGE);
        return Err(Problem::Config(problem));
    }
    Ok(Factors { at, a, b })
}

/// A module's bias and its DoRA magnitude, which must be all that is left of its tensors.
fn additions(
    config: &PeftConfig,
    module: &str,
    mut tensors: Module,
    no_matrix: bool,
) -> Result<(Option<Tensor>, Option<Tensor>), Problem> {
    let bias = tensors.tensors.remove(&Role::Bias);
    let magnitude = tensors.tensors.remove(&Role::Magnitude);
    if let Some(role) = tensors.tensors.keys().next() {
        return Err(Problem::Weights(format!("'{module}' has a {} beside its other parts", role.word())));
    }
    agree("lora_bias", config.bias, bias.is_some(), module, Role::Bias).map_err(Problem::Config)?;
    agree("use_dora", config.dora, magnitude.is_some(), module, Role::Magnitude).map_err(Problem::Config)?;
    if magnitude.is_some() && no_matrix {
        let why = "is no matrix, where its lengths are others";
        return Err(Problem::Config(format!("use_dora is true, and '{module}' {why}; {}", super::MERGE)));
    }
    Ok((bias, magnitude))
}

/// A flag of the configuration and the tensor that it asks for.
fn agree(field: &str, said: bool, found: bool, module: &str, role: Role) -> Result<(), String> {
    match (said, found) {
        (true, false) => Err(format!("{field} is true, and '{module}' has no {}", role.word())),
        (false, true) => Err(format!("{field} is not true, and '{module}' has a {}; correct the one or the other", role.word())),
        _ => Ok(()),
    }
}
