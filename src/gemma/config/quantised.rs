//! Configurations of quantised checkpoints, refused by what they are.

use serde_json::Value;

use super::fields::Fields;
use crate::{
    Error, Result,
    error::WeightError,
    weights::{Scheme, quantised_by},
};

/// Keys that describe how a checkpoint's weights are quantised: transformers', MLX's, and compressed-tensors' former
/// one.
const KEYS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];

/// Refuses a configuration of weights that are quantised. An empty object says nothing.
pub(super) fn refuse(fields: &mut Fields) -> Result<()> {
    for key in KEYS {
        let Some(value) = fields.take(key).filter(|value| value.as_object().is_none_or(|map| !map.is_empty())) else { continue };
        let found = format!("{} in config.json; remove the key if the weights are not quantised", fields.shown(key, &value));
        let (scheme, nearest) = match named(key, &value) {
            Some(Scheme { name, nearest, .. }) => ((*name).to_string(), *nearest),
            None => ("a quantised checkpoint".to_string(), "Q8_0, of 4 bits Q4_K"),
        };
        return Err(Error::Weight(WeightError::Quantised { scheme, found, nearest }));
    }
    Ok(())
}

/// The scheme that an object of `key` names.
fn named(key: &str, value: &Value) -> Option<&'static Scheme> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let flag = |key: &str| value.get(key).and_then(Value::as_bool) == Some(true);
    let method = match (text("quant_method"), key) {
        (Some(method), _) => method,
        (None, "compression_config") => "compressed-tensors",
        (None, _) if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes",
        (None, _) if value.get("quant_algo").is_some() => "modelopt",
        (None, _) if value.get("group_size").is_some() && value.get("bits").is_some() => "mlx",
        (None, _) => return None,
    };
    quantised_by(method, flag("load_in_4bit") || flag("_load_in_4bit"))
}
