//! The two spellings of rotary settings in `config.json`.
//!
//! Old: `rope_theta`, `rope_local_base_freq` (sliding layers of Gemma 3) and `rope_scaling` (full layers only).
//! New: `rope_parameters`, one table, or from Gemma 3 on one for each kind of layer; where it is silent, the old keys
//! speak. Gemma 4 and EmbeddingGemma 2 know the new spelling alone, and old keys may only repeat it.

use serde_json::Value;

use super::{RopeConfig, RopeScaling, absent::Defaults, family::RopeKeys, fields::Fields};
use crate::{Error, Result};

/// The tables of full and of sliding layers.
pub(super) fn read(f: &mut Fields, keys: RopeKeys, context: usize, defaults: &Defaults) -> Result<(RopeConfig, RopeConfig)> {
    let tables = match keys {
        RopeKeys::Parameters => new_alone(f, context, defaults)?,
        RopeKeys::TwoTables => two_tables(f, context, defaults)?,
        RopeKeys::OneTable => {
            let table = one_table(f, context, defaults)?;
            (table, table)
        }
    };
    // The name that some programs have for rope_theta, which the others do not read.
    repeats(f, "rope_global_base_freq", tables.0.theta)?;
    Ok(tables)
}

/// One table for all layers.
fn one_table(f: &mut Fields, context: usize, defaults: &Defaults) -> Result<RopeConfig> {
    let theta = f.number_or(defaults, "rope_theta")?;
    let old = f.object("rope_scaling")?.map(|scaling| table(scaling, theta, context)).transpose()?;
    let new = f.object("rope_parameters")?.map(|parameters| table(parameters, theta, context)).transpose()?;
    agreed(old, new).map(|table| table.unwrap_or(RopeConfig::new(theta)))
}

/// A table for full and one for sliding layers, in either spelling.
fn two_tables(f: &mut Fields, context: usize, defaults: &Defaults) -> Result<(RopeConfig, RopeConfig)> {
    let theta = f.number_or(defaults, "rope_theta")?;
    let local = f.number_or(defaults, "rope_local_base_freq")?;
    let old = f.object("rope_scaling")?.map(|scaling| table(scaling, theta, context)).transpose()?;
    let mut full = None;
    let mut sliding = None;
    if let Some(mut nested) = f.object("rope_parameters")? {
        full = nested.object("full_attention")?.map(|t| table(t, theta, context)).transpose()?;
        sliding = nested.object("sliding_attention")?.map(|t| table(t, local, context)).transpose()?;
        nested.finish_table(&[])?;
    }
    Ok((agreed(old, full)?.unwrap_or(RopeConfig::new(theta)), sliding.unwrap_or(RopeConfig::new(local))))
}

/// Both tables whole in `rope_parameters`, or neither: their class has no bases for tables that are given.
fn new_alone(f: &mut Fields, context: usize, defaults: &Defaults) -> Result<(RopeConfig, RopeConfig)> {
    let (full, sliding) = match f.object("rope_parameters")? {
        None => (stock(defaults, "full_attention")?, stock(defaults, "sliding_attention")?),
        Some(mut nested) => {
            let mut whole = |kind: &str| match nested.object(kind)? {
                None => {
                    Err(nested.refuse(kind, &Value::Null, "a table: where one kind of layer has one, each must have its own"))
                }
                Some(given) if !given.has("rope_theta") => Err(given.refuse("rope_theta", &Value::Null, "a number")),
                Some(given) => table(given, 0.0, context),
            };
            let full = whole("full_attention")?;
            let sliding = whole("sliding_attention")?;
            nested.finish_table(&[])?;
            (full, sliding)
        }
    };
    if let Some(value) = f.take("rope_scaling") {
        return Err(f.refuse("rope_scaling", &value, "nothing: the family reads rope_parameters alone"));
    }
    repeats(f, "rope_theta", full.theta)?;
    repeats(f, "rope_local_base_freq", sliding.theta)?;
    Ok((full, sliding))
}

/// The table of a kind of layer that a family has where `rope_parameters` is absent.
pub(super) fn stock(defaults: &Defaults, kind: &str) -> Result<RopeConfig> {
    let key = format!("rope_parameters.{kind}.rope_theta");
    let theta = defaults.number(&key).ok_or_else(|| Error::Config(format!("{key} is missing")))?;
    let scaling = match defaults.number(&format!("rope_parameters.{kind}.partial_rotary_factor")) {
        Some(partial_rotary_factor) => RopeScaling::Proportional { partial_rotary_factor, factor: 1.0 },
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta, scaling })
}

/// The scaling that both spellings give, or the one that is there.
fn agreed(old: Option<RopeConfig>, new: Option<RopeConfig>) -> Result<Option<RopeConfig>> {
    match (old, new) {
        (Some(old), Some(new)) if old.scaling != new.scaling => {
            let problem = format!("rope_scaling says {:?}, rope_parameters {:?}; remove one", old.scaling, new.scaling);
            Err(Error::Config(problem))
        }
        (old, new) => Ok(new.or(old)),
    }
}

/// Refuses a base under a key that is not read here and says something else.
fn repeats(f: &mut Fields, key: &str, theta: f32) -> Result<()> {
    match f.number(key)? {
        Some(other) if other != theta => Err(f.refuse(key, &other.into(), &format!("{theta}, or the table in rope_parameters"))),
        _ => Ok(()),
    }
}

/// One table: `rope_type` (or `type`), `rope_theta` and what the type takes.
fn table(mut t: Fields, theta: f32, context: usize) -> Result<RopeConfig> {
    let theta = t.number("rope_theta")?.unwrap_or(theta);
    let name = t.text("rope_type")?;
    let alias = t.text("type")?;
    if let (Some(name), Some(alias)) = (&name, &alias)
        && name != alias
    {
        return Err(t.refuse("type", &alias.as_str().into(), &format!("{name:?}, as rope_type says")));
    }
    let required = |t: &mut Fields, key: &str| t.number(key)?.ok_or_else(|| t.refuse(key, &serde_json::Value::Null, "a number"));
    let scaling = match name.or(alias).as_deref() {
        None | Some("default") => {
            if let Some(factor) = t.number("factor")?
                && factor != 1.0
            {
                return Err(t.refuse("factor", &factor.into(), "no factor where rope_type is \"default\""));
            }
            RopeScaling::None
        }
        Some("linear") => RopeScaling::Linear { factor: required(&mut t, "factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: required(&mut t, "factor")?,
            low_freq_factor: required(&mut t, "low_freq_factor")?,
            high_freq_factor: required(&mut t, "high_freq_factor")?,
            original_max_position_embeddings: t.size("original_max_position_embeddings")?.unwrap_or(context),
        },
        Some("proportional") => RopeScaling::Proportional {
            partial_rotary_factor: t.number("partial_rotary_factor")?.unwrap_or(1.0),
            factor: t.number("factor")?.unwrap_or(1.0),
        },
        Some(other) => {
            let known = "\"default\", \"linear\", \"llama3\" or \"proportional\"";
            return Err(t.refuse("rope_type", &other.into(), known));
        }
    };
    t.finish_table(&["original_max_position_embeddings"])?;
    Ok(RopeConfig { theta, scaling })
}
