//! An adapter as llama.cpp's `convert_lora_to_gguf.py` writes it.

use std::collections::BTreeMap;

use super::{
    Lora, LoraPart,
    keys::{Module, Role},
    place::{self, Place},
    refuse,
};
use crate::{
    Result,
    files::ModelPath,
    gemma::{GemmaArch, GemmaConfig, WeightPosition},
    ir::DType,
    weights::{GgufFiles, GgufMetadata, ReadMode, ReadOptions},
};

/// Opens an adapter.
pub(super) fn open(path: &ModelPath, model: &GemmaConfig) -> Result<Lora> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, ..ReadOptions::default() })?;
    let alpha = alpha(&files.metadata, model).map_err(|problem| refuse(path, problem))?;
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    for (name, tensor) in files.tensors() {
        let (module, role) = match name.rsplit_once('.') {
            Some((module, "lora_a")) => (module, Role::A),
            Some((module, "lora_b")) => (module, Role::B),
            _ => return Err(refuse(path, format!("tensor '{name}' is neither lora_a nor lora_b of a product"))),
        };
        let tensor = tensor.map_err(|found| refuse(path, format!("tensor '{name}' has {found}, expected F32, F16 or BF16")))?;
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(refuse(path, format!("tensor '{name}' has type {}, expected F32, F16 or BF16", tensor.dtype())));
        }
        let twice = |_| refuse(path, format!("tensor '{name}' is there twice"));
        modules.entry(module.to_string()).or_default().insert(role, tensor).map_err(twice)?;
    }
    let mut parts = BTreeMap::new();
    for (module, tensors) in modules {
        let found = part(alpha, model, &module, tensors).map_err(|problem| refuse(path, format!("'{module}' {problem}")))?;
        if let Some((at, part)) = found {
            parts.insert(at.to_string(), part);
        }
    }
    if parts.is_empty() {
        return Err(refuse(path, "there is no lora_a and no lora_b in it that this model has a product for"));
    }
    Ok(Lora::of(path.clone(), parts))
}

/// `adapter.lora.alpha` of an adapter for models of this family.
fn alpha(metadata: &GgufMetadata, model: &GemmaConfig) -> Result<f32, String> {
    let expect = |key: &str, expected: &str| match metadata.text(key)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(format!("{key} is \"{found}\", expected \"{expected}\"")),
        None => Err(format!("{key} is missing, expected \"{expected}\": this is a model, not an adapter")),
    };
    expect("general.type", "adapter")?;
    expect("adapter.type", "lora")?;
    let architecture = metadata.text("general.architecture")?.unwrap_or_default();
    if GemmaArch::of_architecture(architecture) != Some(model.arch) {
        return Err(format!("general.architecture is \"{architecture}\", and the model is a {:?}", model.arch));
    }
    if metadata.is_array("adapter.alora.invocation_tokens") {
        return Err(
            "adapter.alora.invocation_tokens is there: an activated LoRA works from its invocation tokens on alone".into()
        );
    }
    let alpha = metadata.number("adapter.lora.alpha")?;
    alpha.filter(|alpha| alpha.is_finite()).ok_or_else(|| "adapter.lora.alpha is missing, by which the weights are scaled".into())
}

/// The part for a tensor of the model, such as `blk.0.attn_q.weight`; none where it is never multiplied.
fn part(
    alpha: f32,
    model: &GemmaConfig,
    module: &str,
    mut tensors: Module,
) -> Result<Option<(WeightPosition, LoraPart)>, String> {
    let position = WeightPosition::from_gguf(model.arch, module);
    let at = position.ok_or_else(|| format!("is no tensor of a {:?} model", model.arch))?;
    match place::of_position(at, model)? {
        Place::Matrix(_) => {}
        Place::Unused | Place::OtherModality => return Ok(None),
        Place::Rows(_) | Place::Experts(_) => {
            return Err("is no matrix, and adapters of others are not read from GGUF files".into());
        }
    }
    let missing = |problem: String| problem.replace("lora_A", "lora_a").replace("lora_B", "lora_b");
    let a = tensors.take(Role::A, "it").map_err(missing)?;
    let b = tensors.take(Role::B, "it").map_err(missing)?;
    let rank = a.shape().first().copied().filter(|rank| *rank > 0).ok_or("has an A without a rank")?;
    // As llama.cpp has it: without an alpha there is no factor.
    let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
    Ok(Some((at, LoraPart { a, b, scale, bias: None, magnitude: None })))
}
