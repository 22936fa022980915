//! The weights of a model: which it has, their shapes, and their names here and in files.

mod foreign;
mod projector;
mod row;
mod table;

pub(crate) use foreign::{GgufValues, TOKEN_ORDER, dense_key, embedder_weights, gguf_key, gguf_stack, text_weight, tower_weight};
pub(crate) use projector::{ProjectorShape, ProjectorValues, ProjectorWeight, projector_weight};
#[cfg(feature = "lora")]
pub(crate) use row::WeightKind;
pub use table::{LayerWeight, WeightPosition};

use super::{GemmaArch, GemmaConfig};
use crate::{
    Error, Result,
    weights::{StoredHead, WeightLoader},
};

impl LayerWeight {
    /// The name by position.
    pub const fn name(self) -> &'static str {
        self.row().name
    }
}

impl std::fmt::Display for WeightPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (row, number) = self.row();
        match self {
            WeightPosition::Layer(layer, _) => write!(f, "layer.{layer}.{}", row.name),
            _ => f.write_str(&row.name.replacen("{}", &number.to_string(), 1)),
        }
    }
}

impl WeightPosition {
    /// Every weight that a model of `arch` with `layers` layers may have; [`GemmaConfig::weights`] are those that it
    /// has.
    pub(super) fn known(arch: GemmaArch, layers: usize) -> impl Iterator<Item = WeightPosition> {
        let most = Self::NUMBERED.iter().map(|position| position(0).row().0.most).max().unwrap_or(0);
        let numbered = (0..most).flat_map(|number| Self::NUMBERED.iter().map(move |position| position(number)));
        let of_layer = |layer| LayerWeight::ALL.iter().map(move |&weight| WeightPosition::Layer(layer, weight));
        let all = Self::ENDS.iter().copied().chain(numbered).chain((0..layers).flat_map(of_layer));
        all.filter(move |position| position.hugging_face(arch).is_some())
    }
}

impl GemmaConfig {
    /// Sets [`tie_word_embeddings`](Self::tie_word_embeddings) to what the weights say, whatever the configuration
    /// does: a head that is not the embedding is a head, a copy of the embedding is none. Where nothing of the kind is
    /// stored, the flag stays.
    ///
    /// Whatever loads a model does this first; call it where the flag is asked for before that.
    ///
    /// # Errors
    /// [`Error::Config`] where the flag is false and there is one matrix alone; those of reading the weights
    /// ([`WeightLoader::stored_head`]).
    pub fn settle_head(&mut self, loader: &dyn WeightLoader) -> Result<()> {
        if WeightPosition::Unembed.hugging_face(self.arch).is_none() {
            return Ok(());
        }
        let tied = match loader.stored_head()? {
            StoredHead::Absent => self.tie_word_embeddings,
            StoredHead::Own => false,
            StoredHead::Copy => true,
            StoredHead::Alone if self.tie_word_embeddings => true,
            StoredHead::Alone => {
                let found = "tie_word_embeddings is false, but the weights hold the LM head without an embedding";
                let advice = "set it to true if the head is the embedding, else fetch the weights again";
                return Err(Error::Config(format!("{found}; {advice}")));
            }
        };
        if tied != self.tie_word_embeddings {
            tracing::info!(tied, "tie_word_embeddings follows the weights, not the configuration");
        }
        self.tie_word_embeddings = tied;
        Ok(())
    }

    /// Every weight that the layers which run and the ends of the model read.
    pub fn weights(&self) -> impl Iterator<Item = WeightPosition> + '_ {
        WeightPosition::known(self.arch, self.active_num_layers()).filter(|position| self.has_weight(*position))
    }

    /// True if a model of this configuration reads the weight; the caller has checked that its family knows it.
    /// Checkpoints may hold more, such as projections of keys for layers that attend to those of others.
    pub(super) fn has_weight(&self, position: WeightPosition) -> bool {
        let (row, number) = position.row();
        (row.present)(self, number)
    }

    /// The shape of a weight of this model; none for a drafter's.
    pub fn weight_shape(&self, position: WeightPosition) -> Vec<usize> {
        let (row, number) = position.row();
        (row.shape)(self, number)
    }
}

#[cfg(test)]
mod tests;
