//! An adapter as mlx-lm writes it: A `[K, r]` and B `[r, N]`, and a factor instead of an alpha.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Lora, LoraPart,
    fields::shown,
    file,
    keys::{Module, Role},
    place::{self, Place},
    refuse,
};
use crate::{
    Result,
    files::ModelPath,
    gemma::GemmaConfig,
    weights::{Tensor, safetensors_file, transposed},
};

/// The factor, and `true` if the rows have DoRA's lengths.
///
/// # Errors
/// A sort of training that is no low rank, or a field of `lora_parameters` that is not known.
fn settings(text: &str) -> Result<(f32, bool), String> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let dora = match fields.get("fine_tune_type") {
        None | Some(Value::Null) => false,
        Some(Value::String(kind)) if kind == "lora" => false,
        Some(Value::String(kind)) if kind == "dora" => true,
        Some(other) => return Err(format!("fine_tune_type is {}, expected \"lora\" or \"dora\"", shown(other))),
    };
    let Some(Value::Object(parameters)) = fields.get("lora_parameters") else {
        return Err(
            "lora_parameters is missing, which says what the weights are scaled by; is this mlx-lm's adapter_config.json?".into(),
        );
    };
    for (name, value) in parameters {
        match name.as_str() {
            "rank" | "dropout" | "scale" | "keys" => {}
            "alpha" => {
                let why = "an early mlx-lm multiplied scale by alpha / rank, a later one did not";
                return Err(format!(
                    "lora_parameters has alpha = {}: {why}; leave out alpha, and give scale as a whole",
                    shown(value)
                ));
            }
            _ => return Err(format!("lora_parameters has {name} = {}, which is not known here", shown(value))),
        }
    }
    match parameters.get("scale").and_then(Value::as_f64) {
        Some(scale) if scale.is_finite() => Ok((scale as f32, dora)),
        _ => Err("lora_parameters has no number called scale, by which the weights are multiplied".into()),
    }
}

/// Opens an adapter by its file of weights, its configuration beside it.
pub(super) fn open(weights: &ModelPath, model: &GemmaConfig) -> Result<Lora> {
    let (path, text) = file::config_beside(weights)?;
    let (scale, dora) = settings(&text).map_err(|problem| refuse(&path, problem))?;
    let mut parts: BTreeMap<String, LoraPart> = BTreeMap::new();
    for (module, tensors) in modules(weights)? {
        let place = place::of_module(&module, model).map_err(|problem| refuse(weights, format!("'{module}' {problem}")))?;
        let at = match place {
            Place::Matrix(at) => at,
            Place::Unused | Place::OtherModality => continue,
            Place::Rows(at) => {
                let why = "mlx-lm adapts the table and the head that is tied to it together";
                return Err(refuse(
                    weights,
                    format!("'{module}' adapts {at}: {why}; fuse it (mlx_lm.fuse) and load the fused model"),
                ));
            }
            Place::Experts(_) => {
                return Err(refuse(
                    weights,
                    format!("'{module}' adapts experts; fuse it (mlx_lm.fuse) and load the fused model"),
                ));
            }
        };
        let part = part(scale, tensors, &at.to_string()).map_err(|problem| refuse(weights, problem))?;
        if part.magnitude.is_some() != dora {
            let problem = format!("fine_tune_type and the weights of '{module}' disagree about DoRA's lengths (m)");
            return Err(refuse(&path, problem));
        }
        parts.insert(at.to_string(), part);
    }
    if parts.is_empty() {
        return Err(refuse(weights, "there is no lora_a and no lora_b in it that this model has a product for"));
    }
    Ok(Lora::of(weights.clone(), parts))
}

fn modules(weights: &ModelPath) -> Result<BTreeMap<String, Module>> {
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    for (name, tensor) in safetensors_file(weights)? {
        let (module, role) = match name.rsplit_once('.') {
            Some((module, "lora_a")) => (module, Role::A),
            Some((module, "lora_b")) => (module, Role::B),
            Some((module, "m")) => (module, Role::Magnitude),
            _ => {
                return Err(refuse(
                    weights,
                    format!("'{name}' is neither lora_a nor lora_b of a product; fuse it (mlx_lm.fuse)"),
                ));
            }
        };
        let tensor =
            tensor.map_err(|found| refuse(weights, format!("'{name}' has element type {found}, expected F32, F16 or BF16")))?;
        let twice = |_| refuse(weights, format!("'{name}' is there twice"));
        modules.entry(module.to_string()).or_default().insert(role, tensor).map_err(twice)?;
    }
    Ok(modules)
}

fn part(scale: f32, mut tensors: Module, name: &str) -> Result<LoraPart, String> {
    let turned = |tensor: Tensor| match (tensor.shape(), tensor.dtype().scalar_bytes()) {
        ([_, _], Some(size)) => Ok(transposed(tensor, size)),
        (shape, _) => Err(format!("{name} has a part of shape {shape:?}, expected two dimensions")),
    };
    let missing = |problem: String| problem.replace("lora_A", "lora_a").replace("lora_B", "lora_b");
    let a = turned(tensors.take(Role::A, name).map_err(missing)?)?;
    let b = turned(tensors.take(Role::B, name).map_err(missing)?)?;
    Ok(LoraPart { a, b, scale, bias: None, magnitude: tensors.tensors.remove(&Role::Magnitude) })
}
