//! The keys of `config.json` for layers: kinds, heads, widths, and the parts that only some families have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    AltUp, GemmaConfig, LayerKind, LayerOverrides, Moe, PerLayerInput,
    absent::Defaults,
    family::{Family, GemmaArch, Window},
    fields::Fields,
    preset::layer_pattern,
    sparsity::deviations,
};
use crate::{Error, Result};

/// Reads the sizes of layers, and what single families add to them.
pub(super) fn read(f: &mut Fields, config: &mut GemmaConfig, d: &Defaults) -> Result<()> {
    let own = match config.arch {
        GemmaArch::Gemma3n => gemma3n(f, config, d)?,
        GemmaArch::Gemma4 => gemma4(f, config, d)?,
        GemmaArch::EmbeddingGemma2 => embedding_gemma2(f, config, d)?,
        _ => {
            config.intermediate_size = f.size_or(d, "intermediate_size")?;
            BTreeMap::new()
        }
    };
    config.set_layer_sizes(own);
    Ok(())
}

/// Gemma 3n; returns the widths of the FFW by layer.
fn gemma3n(f: &mut Fields, config: &mut GemmaConfig, d: &Defaults) -> Result<BTreeMap<usize, LayerOverrides>> {
    let layers = config.num_hidden_layers;
    let widths = widths(f, layers, d)?;
    config.intermediate_size = widths.first().copied().unwrap_or(0);
    config.num_kv_shared_layers = f.size_or(d, "num_kv_shared_layers")?;
    let hidden_size = f.size_or(d, "hidden_size_per_layer_input")?;
    let vocab_size = f.size_or(d, "vocab_size_per_layer_input")?;
    config.per_layer_input = per_layer_input(hidden_size, Some(vocab_size));
    config.altup = Some(AltUp {
        num_inputs: f.size_or(d, "altup_num_inputs")?,
        active_idx: f.size_or(d, "altup_active_idx")?,
        correct_scale: f.switch_or(d, "altup_correct_scale")?,
    });
    config.laurel_rank = Some(f.size_or(d, "laurel_rank")?);
    config.activation_sparsity = sparsity(f, layers)?;
    let own = |(layer, width)| (layer, LayerOverrides { intermediate_size: Some(width), ..LayerOverrides::default() });
    Ok(widths.into_iter().enumerate().map(own).collect())
}

/// Gemma 4; returns the heads of full layers, and the widths of the FFW where they are doubled. A unified model has
/// per-layer embeddings only where its configuration says so.
fn gemma4(f: &mut Fields, config: &mut GemmaConfig, d: &Defaults) -> Result<BTreeMap<usize, LayerOverrides>> {
    config.intermediate_size = f.size_or(d, "intermediate_size")?;
    config.attention_k_eq_v = f.switch_or(d, "attention_k_eq_v")?;
    config.num_kv_shared_layers = f.size_or(d, "num_kv_shared_layers")?;
    let mut own = heads(f, &config.layer_types, config.attention_k_eq_v, d)?;
    if f.switch_or(d, "use_double_wide_mlp")? {
        let layers = config.num_hidden_layers;
        for layer in layers.saturating_sub(config.num_kv_shared_layers)..layers {
            own.entry(layer).or_default().intermediate_size = Some(config.intermediate_size.saturating_mul(2));
        }
    }
    const WIDTH: &str = "hidden_size_per_layer_input";
    let hidden_size = if f.is_null(WIDTH) { 0 } else { f.size_or(d, WIDTH)? };
    let vocab_size = f.size_or(d, "vocab_size_per_layer_input")?;
    config.per_layer_input = per_layer_input(hidden_size, Some(vocab_size));
    config.moe = moe(f, d)?;
    Ok(own)
}

/// EmbeddingGemma 2; returns the heads of full layers. There are no tables of per-layer embeddings.
fn embedding_gemma2(f: &mut Fields, config: &mut GemmaConfig, d: &Defaults) -> Result<BTreeMap<usize, LayerOverrides>> {
    config.intermediate_size = f.size_or(d, "intermediate_size")?;
    config.per_layer_input = per_layer_input(f.size_or(d, "hidden_size_per_layer_input")?, None);
    config.embedding_dim = Some(f.size_or(d, "embedding_dim")?);
    heads(f, &config.layer_types, true, d)
}

/// A width of 0 says that there are no per-layer embeddings.
pub(super) fn per_layer_input(hidden_size: usize, vocab_size: Option<usize>) -> Option<PerLayerInput> {
    (hidden_size > 0).then_some(PerLayerInput { hidden_size, vocab_size })
}

/// The experts where `enable_moe_block` is on; the other keys say nothing where it is off. A unified model has none.
fn moe(f: &mut Fields, defaults: &Defaults) -> Result<Option<Moe>> {
    let on = f.switch_or(defaults, "enable_moe_block")?;
    let num_experts = f.size("num_experts")?;
    let top_k_experts = f.size("top_k_experts")?;
    let intermediate_size = f.size("moe_intermediate_size")?;
    if !on {
        return Ok(None);
    }
    if defaults.family() == "gemma4_unified_text" {
        let expected = "false in a unified model, which has no experts";
        return Err(f.refuse("enable_moe_block", &Value::Bool(true), expected));
    }
    let given = |size: Option<usize>, key: &str| match size {
        Some(size) if size > 0 => Ok(size),
        found => Err(Error::Config(format!("{key} is {found:?}, expected 1 or more, as enable_moe_block is true"))),
    };
    Ok(Some(Moe {
        num_experts: given(num_experts, "num_experts")?,
        top_k_experts: given(top_k_experts, "top_k_experts")?,
        intermediate_size: given(intermediate_size, "moe_intermediate_size")?,
    }))
}

/// The widths of the FFW by layer: one for all, or a list.
fn widths(f: &mut Fields, layers: usize, defaults: &Defaults) -> Result<Vec<usize>> {
    const KEY: &str = "intermediate_size";
    let Some(list) = f.list(KEY)? else { return Ok(vec![f.size_or(defaults, KEY)?; layers]) };
    let sizes: Option<Vec<usize>> = list.iter().map(|size| usize::try_from(size.as_u64()?).ok()).collect();
    match sizes.filter(|sizes| sizes.len() == layers) {
        Some(sizes) => Ok(sizes),
        None => Err(f.refuse(KEY, &Value::Array(list), &format!("a whole number, or {layers} of them"))),
    }
}

/// The share of the gates that count nothing, by layer or for all; without the key 0.95 in the first ten of more than
/// ten layers.
fn sparsity(f: &mut Fields, layers: usize) -> Result<Vec<Option<f32>>> {
    const KEY: &str = "activation_sparsity_pattern";
    let shares: Vec<f64> = match f.list(KEY)? {
        Some(list) => {
            let shares: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            shares.ok_or_else(|| f.refuse(KEY, &Value::Array(list), "a list of numbers"))?
        }
        None => match f.take(KEY) {
            Some(share) => vec![share.as_f64().ok_or_else(|| f.refuse(KEY, &share, "a number or a list of numbers"))?; layers],
            None => (0..layers).map(|layer| if layers > 10 && layer < 10 { 0.95 } else { 0.0 }).collect(),
        },
    };
    if shares.len() != layers || !shares.iter().all(|share| (0.0..1.0).contains(share)) {
        return Err(Error::Config(format!(
            "{KEY} is {shares:?}, expected a share from 0 to below 1 for each of {layers} layers"
        )));
    }
    let of = |share: &f64| (*share > 0.0).then(|| deviations(*share) as f32);
    let sparse: Vec<Option<f32>> = shares.iter().map(of).collect();
    Ok(if sparse.iter().all(Option::is_none) { Vec::new() } else { sparse })
}

/// The heads of single layers, in either spelling: `per_layer_config`, or `global_head_dim` and
/// `num_global_key_value_heads` of all full layers, of which the latter counts where `own_kv_heads` says so.
fn heads(
    f: &mut Fields,
    kinds: &[LayerKind],
    own_kv_heads: bool,
    defaults: &Defaults,
) -> Result<BTreeMap<usize, LayerOverrides>> {
    const GLOBAL: [&str; 2] = ["global_head_dim", "num_global_key_value_heads"];
    let Some(own) = f.object("per_layer_config")? else {
        let head_dim = f.size_or(defaults, GLOBAL[0])?;
        let kv_heads = f.size(GLOBAL[1])?.or_else(|| defaults.size(GLOBAL[1]));
        let kv_heads = kv_heads.filter(|heads| own_kv_heads && *heads > 0);
        let full = kinds.iter().enumerate().filter(|(_, kind)| **kind == LayerKind::Full);
        let sizes = LayerOverrides { head_dim: Some(head_dim), num_key_value_heads: kv_heads, ..LayerOverrides::default() };
        return Ok(full.map(|(layer, _)| (layer, sizes)).collect());
    };
    for key in GLOBAL {
        if let Some(value) = f.take(key) {
            return Err(f.refuse(key, &value, "nothing beside per_layer_config, which decides alone"));
        }
    }
    own.entries()
        .map(|(layer, mut sizes)| {
            let known = layer.parse().ok().filter(|index| *index < kinds.len());
            let index: usize = known.ok_or_else(|| {
                Error::Config(format!("per_layer_config names layer {layer:?}, expected 0 to {}", kinds.len().saturating_sub(1)))
            })?;
            let own = LayerOverrides {
                head_dim: sizes.size("head_dim")?,
                num_key_value_heads: sizes.size("num_key_value_heads")?,
                intermediate_size: None,
            };
            sizes.finish_table(&[])?;
            Ok((index, own))
        })
        .collect()
}

impl GemmaConfig {
    /// Sets the sizes of single layers to `own`, as far as they differ from the model's.
    pub(super) fn set_layer_sizes(&mut self, own: BTreeMap<usize, LayerOverrides>) {
        let differs = |own: Option<usize>, size: usize| own.filter(|own| *own != size);
        let of = |(layer, own): (usize, LayerOverrides)| {
            let own = LayerOverrides {
                head_dim: differs(own.head_dim, self.head_dim),
                num_key_value_heads: differs(own.num_key_value_heads, self.num_key_value_heads),
                intermediate_size: differs(own.intermediate_size, self.intermediate_size),
            };
            (own != LayerOverrides::default()).then_some((layer, own))
        };
        self.per_layer_config = own.into_iter().filter_map(of).collect();
    }
}

/// An explicit `layer_types` wins; else every so many-th layer is full. The last layer of Gemma 4 and EmbeddingGemma 2
/// is, whatever the list says.
///
/// `sliding_window_pattern` counts in Gemma 3 and EmbeddingGemma 2; in other families transformers ignores it and other
/// programs follow it. `_sliding_window_pattern` is what transformers writes beside `layer_types`, and never reads.
pub(super) fn layer_types(f: &mut Fields, family: &Family, layers: usize, defaults: &Defaults) -> Result<Vec<LayerKind>> {
    const KEY: &str = "sliding_window_pattern";
    if layers == 0 || layers > 1024 {
        return Err(Error::Config(format!("num_hidden_layers is {layers}, expected 1 to 1024")));
    }
    let given = f.size(KEY)?;
    let written = f.size("_sliding_window_pattern")?;
    if given == Some(0) {
        return Err(f.refuse(KEY, &0.into(), "1 or more"));
    }
    let own = defaults.size(KEY);
    let period = if family.has_pattern_key { given.or(own) } else { own };
    let pattern = || layer_pattern(family, layers, period);
    let Some(value) = f.take("layer_types") else {
        if given.is_some_and(|given| layer_pattern(family, layers, Some(given)) != pattern()) {
            let expected = "the family's own pattern, or layer_types beside it, which decides alone";
            return Err(f.refuse(KEY, &given.into(), expected));
        }
        if written.is_some() && written != period {
            tracing::warn!(?written, ?period, "_sliding_window_pattern without layer_types has no effect, as in transformers");
        }
        return Ok(pattern());
    };
    // Older programs list the kinds under another name, too.
    f.take("attention_types");
    let kind = |name: &Value| match name.as_str() {
        Some("full_attention") => Ok(LayerKind::Full),
        Some("sliding_attention") if family.window.is_some() => Ok(LayerKind::Sliding),
        _ => Err(f.refuse("layer_types", name, "\"full_attention\" or (from Gemma 2 on) \"sliding_attention\"")),
    };
    let mut kinds: Vec<LayerKind> = match &value {
        Value::Array(list) => list.iter().map(kind).collect::<Result<_>>()?,
        other => return Err(f.refuse("layer_types", other, "a list")),
    };
    if let Some(last) = kinds.last_mut().filter(|_| family.last_layer_full) {
        *last = LayerKind::Full;
    }
    Ok(kinds)
}

pub(super) fn window(f: &mut Fields, family: &Family, defaults: &Defaults) -> Result<Option<usize>> {
    if family.window.is_none() {
        return Ok(None);
    }
    let window = if f.has("sliding_window") { f.size("sliding_window")? } else { Some(f.size_or(defaults, "sliding_window")?) };
    match f.size("sliding_window_size")? {
        Some(other) if Some(other) != window => {
            Err(f.refuse("sliding_window_size", &other.into(), "the value of sliding_window"))
        }
        _ => Ok(window),
    }
}

/// Tells of a window that transformers has halved: until August 2026 it saved a model that looks both ways with half
/// the window, made odd, and halves that again when it reads it, as every program does. Models that are made for tests
/// may have odd windows too.
pub(super) fn tell_halved(config: &GemmaConfig) {
    let halves = config.arch.family().window == Some(Window::HalfOnEitherSide);
    let halved = config.use_bidirectional_attention && halves;
    if let Some(window) = config.sliding_window.filter(|window| halved && *window > 32 && window % 2 == 1) {
        let made_with = (window - 1).saturating_mul(2);
        tracing::warn!(
            window,
            made_with,
            "the sliding window of a model that looks both ways is odd, as transformers saved it by mistake: half of what the model was \
             made with; write the whole one to its configuration"
        );
    }
}
