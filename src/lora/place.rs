//! From an adapter's modules to a model's products.

use crate::gemma::{GemmaConfig, LayerWeight, WeightKind, WeightPosition, text_weight};

/// A module's place in a model.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// A matrix `W` of `W·x`.
    Matrix(WeightPosition),
    /// A table of which rows are read.
    Rows(WeightPosition),
    /// The experts of a layer, whose stacks are told by their shapes.
    Experts(usize),
    /// Part of a vision or audio tower, which text never meets.
    OtherModality,
    /// Keys or values of a layer that attends to those of another: never multiplied.
    Unused,
}

/// The place of the module that Hugging Face calls `module`.
///
/// # Errors
/// The reason why it is none of the model's products.
pub(super) fn of_module(module: &str, config: &GemmaConfig) -> Result<Place, String> {
    let key = format!("{module}.weight");
    let Some(name) = text_weight(&key) else { return Ok(Place::OtherModality) };
    let stem = name.strip_suffix(".weight").unwrap_or(&name);
    if let Some(layer) = experts(stem) {
        check_layer(layer, config)?;
        return if config.weights().any(|at| at == WeightPosition::Layer(layer, LayerWeight::ExpertGateUp)) {
            Ok(Place::Experts(layer))
        } else {
            Err("adapts experts, and the model has none".into())
        };
    }
    if stem.ends_with(".base_layer") {
        return Err("adapts what another adapter had adapted before; merge that one into the model first".into());
    }
    match WeightPosition::from_hugging_face(config.arch, &name) {
        Some(at) => of_position(at, config),
        None => Err(format!("adapts '{stem}', and a {:?} model has no product of that name", config.arch)),
    }
}

/// The place of a weight.
pub(super) fn of_position(at: WeightPosition, config: &GemmaConfig) -> Result<Place, String> {
    if let WeightPosition::Layer(layer, weight) = at {
        check_layer(layer, config)?;
        if matches!(weight, LayerWeight::Key | LayerWeight::Value) && config.kv_source_layer(layer) != Some(layer) {
            return Ok(Place::Unused);
        }
    }
    if at == WeightPosition::Unembed && !config.use_bidirectional_attention {
        // A tied head multiplies the embedding; an adapter of it is its own all the same.
        return Ok(Place::Matrix(at));
    }
    let place = match at.kind() {
        WeightKind::Table => Place::Rows(at),
        WeightKind::Matrix if !matches!(at, WeightPosition::Unembed | WeightPosition::EmbeddingDense(_)) => Place::Matrix(at),
        _ => return Err(format!("adapts {at}, which is multiplied with no vector: a gain or a factor")),
    };
    if config.weights().any(|own| own == at) {
        return Ok(place);
    }
    Err(format!("adapts {at}, which this model has not"))
}

/// The layer of `layers.N.experts`, with the words that PEFT adds where it adapts both stacks.
fn experts(stem: &str) -> Option<usize> {
    let stem = stem.strip_suffix(".base_layer").unwrap_or(stem);
    let layer = stem.strip_prefix("layers.")?.strip_suffix(".experts")?;
    layer.parse().ok()
}

fn check_layer(layer: usize, config: &GemmaConfig) -> Result<(), String> {
    let layers = config.active_num_layers();
    if layer < layers {
        return Ok(());
    }
    Err(format!("adapts layer {layer}, the model has {layers}"))
}
