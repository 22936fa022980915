//! Weights of a file that a model does not use.

use super::{GemmaConfig, LayerWeight, WeightPosition};

/// Names that a warning shows; of the rest it says how many there are.
const SHOWN: usize = 16;

/// Ends of the names of tensors that only repeat the configuration: older versions of transformers stored such
/// buffers.
const BUFFERS: [&str; 4] = ["inv_freq", "embed_scale", "position_ids", "rope_freqs.weight"];

/// Beginnings of the names of other modalities' tensors, in GGUF files and of Gemma 3n's embedders.
const MODALITIES: [&str; 5] = ["v.", "a.", "mm.", "embed_vision.", "embed_audio."];

impl GemmaConfig {
    /// Warns of the weights `left` over after loading, by their keys, that are not known to be of no use to this model.
    pub(crate) fn tell_unused(&self, left: impl IntoIterator<Item = String>) {
        let keys: Vec<String> = left.into_iter().filter(|key| !self.may_leave(key)).collect();
        if keys.is_empty() {
            return;
        }
        let mut names = keys.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        if keys.len() > SHOWN {
            names.push_str(&format!(" and {} more", keys.len() - SHOWN));
        }
        let family = self.arch.model_type();
        tracing::warn!("the file holds weights that a model of {family} with this configuration does not use: {names}");
    }

    /// Returns `true` if the weight, which was not taken, changes nothing. Such are weights that the stock model takes,
    /// which were left out on purpose or stand under another name. Such are also keys and values of layers that attend
    /// to those of others, buffers, and other modalities.
    fn may_leave(&self, key: &str) -> bool {
        use LayerWeight::{AltUpScale, Key, KeyNorm, Value};
        match WeightPosition::from_hugging_face(self.arch, key) {
            Some(WeightPosition::Unembed) => true,
            Some(WeightPosition::Layer(layer, _)) if layer >= self.num_hidden_layers => false,
            Some(WeightPosition::Layer(_, AltUpScale)) => true,
            Some(WeightPosition::Layer(layer, Key | KeyNorm | Value)) if self.kv_source_layer(layer) != Some(layer) => true,
            Some(position) => self.has_weight(position),
            None => BUFFERS.iter().any(|end| key.ends_with(end)) || MODALITIES.iter().any(|start| key.starts_with(start)),
        }
    }
}
