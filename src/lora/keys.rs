//! Names of an adapter's tensors: `base_model.model.<module>.lora_A.<adapter>.weight` and its like.

use std::collections::BTreeMap;

use crate::weights::Tensor;

/// The role of a tensor in its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    A,
    B,
    /// Of B.
    Bias,
    /// DoRA's.
    Magnitude,
    /// A of a table, `[r, V]`.
    TableA,
    /// B of a table, `[N, r]`.
    TableB,
    /// A copy of the adapted weight, which PEFT saves of embeddings and heads.
    Copy,
}

impl Role {
    /// PEFT's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Role::A => "lora_A",
            Role::B => "lora_B",
            Role::Bias => "lora_B.bias",
            Role::Magnitude => "lora_magnitude_vector",
            Role::TableA => "lora_embedding_A",
            Role::TableB => "lora_embedding_B",
            Role::Copy => "base_layer.weight",
        }
    }
}

/// A tensor's place by its name.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    /// The module's path in the model that was adapted.
    pub(super) module: String,
    pub(super) role: Role,
    /// The adapter's name, where the file has it.
    pub(super) adapter: Option<String>,
}

/// Parts that wrappers of modules leave in names.
const WRAPPERS: [&str; 5] =
    ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "original_module"];

/// Reads PEFT's name of a tensor.
///
/// # Errors
/// The tensor's description, if it is no part of a product.
pub(super) fn peft(key: &str) -> Result<Key, String> {
    let mut words: Vec<&str> = key.split('.').filter(|word| !WRAPPERS.contains(word)).collect();
    while words.starts_with(&["base_model", "model"]) {
        words.drain(..2);
    }
    if words.first() == Some(&"module") {
        words.remove(0);
    }
    if let [module @ .., "base_layer", "weight"] = &words[..] {
        return Ok(Key { module: module.join("."), role: Role::Copy, adapter: None });
    }
    let Some(at) = words.iter().rposition(|word| word.starts_with("lora_")) else { return Err(other(&words)) };
    let mut rest = words[at + 1..].to_vec();
    let role = match (words[at], rest.last()) {
        ("lora_A", Some(&"weight")) => Role::A,
        ("lora_B", Some(&"weight")) => Role::B,
        ("lora_B", Some(&"bias")) => Role::Bias,
        ("lora_magnitude_vector", _) => Role::Magnitude,
        ("lora_embedding_A", _) => Role::TableA,
        ("lora_embedding_B", _) => Role::TableB,
        ("lora_diag", _) => return Err("belongs to KaSA, which cuts the model's own weights".into()),
        (word, _) => return Err(format!("ends with '{word}', expected lora_A.weight or lora_B.weight")),
    };
    if matches!(rest.last(), Some(&("weight" | "bias"))) {
        rest.pop();
    }
    let adapter = Some(rest.join(".")).filter(|name| !name.is_empty());
    Ok(Key { module: words[..at].join("."), role, adapter })
}

/// The description of a tensor that belongs to no low-rank product.
fn other(words: &[&str]) -> String {
    let has = |word: &str| words.contains(&word);
    let what = match words.last() {
        _ if has("token_adapter") || has("trainable_tokens_delta") => {
            "rows of an embedding that were trained (trainable_token_indices)"
        }
        _ if has("modules_to_save") => "a whole weight that was trained (modules_to_save)",
        _ if has("prompt_embeddings") => "a prompt that was trained, which is no LoRA",
        Some(&"bias") => "a bias, and Gemma's projections have none",
        Some(&"weight") => "a whole weight beside the low ranks (modules_to_save, or an embedding that was resized)",
        _ => "neither lora_A nor lora_B of a product",
    };
    format!("is {what}")
}

/// The tensors of one module.
#[derive(Default)]
pub(super) struct Module {
    pub(super) tensors: BTreeMap<Role, Tensor>,
}

impl Module {
    /// Adds a tensor; its role where there is one of that already.
    pub(super) fn insert(&mut self, role: Role, tensor: Tensor) -> Result<(), Role> {
        match self.tensors.insert(role, tensor) {
            Some(_) => Err(role),
            None => Ok(()),
        }
    }

    /// A tensor that must be there beside another.
    pub(super) fn take(&mut self, role: Role, name: &str) -> Result<Tensor, String> {
        self.tensors.remove(&role).ok_or_else(|| format!("{name} has no {}", role.word()))
    }
}
