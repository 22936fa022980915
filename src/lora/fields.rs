//! Every field of PEFT's `adapter_config.json`, and its effect on the numbers.

use serde_json::{Map, Value};

/// The effect of a field.
pub(super) enum Rule {
    /// Says how the adapter was trained or stored; what is computed does not follow from it.
    Harmless,
    /// Is read elsewhere.
    Computed,
    /// Is refused unless it is switched off; why.
    Off(&'static str),
}

use Rule::{Computed, Harmless, Off};

/// The fields of `LoraConfig` up to PEFT 0.21, and of earlier versions.
const FIELDS: &[(&str, Rule)] = &[
    (
        "alora_invocation_tokens",
        Off("an activated LoRA works from its invocation tokens on alone, and not on what precedes them"),
    ),
    ("alpha_pattern", Computed),
    ("arrow_config", Off("Arrow routes each token to several adapters")),
    ("auto_mapping", Harmless),
    ("base_model_name_or_path", Harmless),
    ("bias", Computed),
    ("corda_config", Harmless),
    ("enable_lora", Off("it adapts a part of a fused projection, and Gemma has none")),
    ("ensure_weight_tying", Computed),
    ("eva_config", Harmless),
    ("exclude_modules", Computed),
    // PEFT takes it back for linear layers, and Gemma has no others.
    ("fan_in_fan_out", Harmless),
    ("inference_mode", Harmless),
    ("init_lora_weights", Computed),
    ("kasa_config", Off("KaSA cuts small singular values off the model's own weights")),
    ("layer_replication", Off("the model that was adapted repeats layers, which this one does not")),
    ("layers_pattern", Computed),
    ("layers_to_transform", Computed),
    ("loftq_config", Harmless),
    ("lora_alpha", Computed),
    ("lora_bias", Computed),
    ("lora_dropout", Harmless),
    ("lora_ga_config", Harmless),
    ("megatron_config", Off("it adapts Megatron's parallel layers, whose weights lie otherwise")),
    ("megatron_core", Harmless),
    ("merge_weights", Harmless),
    ("modules_to_save", Off("whole weights were trained beside the low ranks")),
    ("monteclora_config", Off("MonteCLoRA draws its weights at random")),
    ("peft_type", Computed),
    ("peft_version", Harmless),
    ("qalora_group_size", Harmless),
    ("r", Computed),
    ("rank_pattern", Computed),
    ("revision", Harmless),
    ("runtime_config", Harmless),
    ("target_modules", Computed),
    ("target_parameters", Computed),
    ("task_type", Computed),
    ("trainable_token_indices", Off("rows of the embedding were trained beside the low ranks")),
    ("use_bdlora", Off("block-diagonal A and B lie otherwise in the file")),
    ("use_dora", Computed),
    ("use_qalora", Off("QALoRA multiplies means of groups of inputs")),
    ("use_rslora", Computed),
    // Another way to compute gradients; the products are the same.
    ("velora_config", Harmless),
];

/// Returns `true` if a value says that its feature is not used.
pub(super) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Refuses fields that are not known, and known ones whose feature is not computed.
pub(super) fn check(fields: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in fields {
        match FIELDS.iter().find(|(known, _)| known == name) {
            Some((_, Harmless | Computed)) => {}
            Some((_, Off(_))) if is_off(value) => {}
            Some((_, Off(why))) => return Err(format!("{name} is {}: {why}; {}", shown(value), super::MERGE)),
            // A field that is not set is not used, whatever a later version of PEFT means by it.
            None if value.is_null() => {}
            None => return Err(format!("{name} is {}, a field that is not known here; {}", shown(value), super::MERGE)),
        }
    }
    kind(fields)?;
    init(fields)?;
    bias(fields)
}

/// Only LoRA, and only for text.
fn kind(fields: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let own = fields.contains_key("r") && fields.contains_key("lora_alpha");
    match text("peft_type") {
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("LORA") => {}
        None if own => {}
        None => return Err("peft_type is missing, expected \"LORA\"; is this PEFT's adapter_config.json?".into()),
        Some(other) => return Err(format!("peft_type is {}, expected \"LORA\"; {}", shown(other), super::MERGE)),
    }
    match text("task_type") {
        None => Ok(()),
        Some(Value::String(task)) if ["CAUSAL_LM", "FEATURE_EXTRACTION"].contains(&task.as_str()) => Ok(()),
        Some(other) => Err(format!("task_type is {}, expected \"CAUSAL_LM\": the adapter is for another head", shown(other))),
    }
}

/// How A and B began, which matters where the model's own weights were changed with them.
fn init(fields: &Map<String, Value>) -> Result<(), String> {
    const SAME: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];
    const CHANGED: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
    let name = match fields.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(()),
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("init_lora_weights is {}, expected true, false or a name", shown(other))),
    };
    let lower = name.to_lowercase();
    if SAME.contains(&lower.as_str()) {
        return Ok(());
    }
    if CHANGED.iter().any(|changed| lower == *changed || lower.starts_with("pissa_") || lower.starts_with("corda_")) {
        let why = "the model's own weights were changed when it began, and A and B belong to the changed ones";
        let advice = "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it, or";
        return Err(format!("init_lora_weights is \"{name}\": {why}; {advice} {}", super::MERGE));
    }
    Err(format!("init_lora_weights is \"{name}\", which is not known here: whether it changes the model's weights is not said"))
}

/// The biases that were trained. Gemma has none, so a value alone changes nothing.
fn bias(fields: &Map<String, Value>) -> Result<(), String> {
    match fields.get("bias") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(bias)) if ["none", "all", "lora_only"].contains(&bias.as_str()) => Ok(()),
        Some(other) => Err(format!("bias is {}, expected \"none\", \"all\" or \"lora_only\"", shown(other))),
    }
}

/// A value, cut to what an error can show.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
