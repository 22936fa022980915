//! The two spellings of rotary settings in `config.json`.
//!
//! Old: `rope_theta`, `rope_local_base_freq` (sliding layers of Gemma 3) and `rope_scaling` (full layers only).
//! New: `rope_parameters`, one table, or from Gemma 3 on one for each kind of layer; where it is silent, the old keys speak.

use super::{GemmaArch, RopeConfig, RopeScaling, fields::Fields};
use crate::{Error, Result};

/// The tables of full and of sliding layers.
pub(super) fn read(f: &mut Fields, arch: GemmaArch, context: usize) -> Result<(RopeConfig, RopeConfig)> {
    use GemmaArch::{EmbeddingGemma2, Gemma3, Gemma3n, Gemma4};
    let two_tables = matches!(arch, Gemma3 | Gemma3n | Gemma4 | EmbeddingGemma2);
    let theta = f.number("rope_theta")?.unwrap_or(if two_tables { 1e6 } else { 1e4 });
    let old_scaling = f.object("rope_scaling")?.map(|s| table(s, theta, context)).transpose()?;
    let parameters = f.object("rope_parameters")?;

    let (new_full, sliding) = match parameters {
        None => (None, None),
        Some(flat) if !two_tables => (Some(table(flat, theta, context)?), None),
        Some(mut nested) => {
            let full = nested.object("full_attention")?.map(|t| table(t, theta, context)).transpose()?;
            let local = f.number("rope_local_base_freq")?.unwrap_or(1e4);
            let sliding = nested.object("sliding_attention")?.map(|t| table(t, local, context)).transpose()?;
            nested.finish(&[])?;
            (full, Some(sliding.unwrap_or(RopeConfig::new(local))))
        }
    };
    if let (Some(old), Some(new)) = (old_scaling, new_full)
        && old.scaling != new.scaling
    {
        let problem = format!("rope_scaling says {:?}, rope_parameters {:?}; remove one", old.scaling, new.scaling);
        return Err(Error::Config(problem));
    }
    let stock = match arch {
        Gemma4 | EmbeddingGemma2 => RopeScaling::Proportional { partial_rotary_factor: 0.25, factor: 1.0 },
        _ => RopeScaling::None,
    };
    let full = new_full.or(old_scaling).unwrap_or(RopeConfig { theta, scaling: stock });
    let sliding = match (two_tables, sliding) {
        (false, _) => full,
        (true, Some(sliding)) => sliding,
        (true, None) => RopeConfig::new(f.number("rope_local_base_freq")?.unwrap_or(1e4)),
    };
    Ok((full, sliding))
}

/// One table: `rope_type` (or `type`), `rope_theta` and what the type takes.
fn table(mut t: Fields, theta: f32, context: usize) -> Result<RopeConfig> {
    let theta = t.number("rope_theta")?.unwrap_or(theta);
    let (name, alias) = (t.text("rope_type")?, t.text("type")?);
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
    t.finish(&[&["original_max_position_embeddings"]])?;
    Ok(RopeConfig { theta, scaling })
}
