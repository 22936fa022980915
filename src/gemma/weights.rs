//! Which weights a model has, and their shapes.

use super::{GemmaConfig, LayerWeight, WeightPosition};
use crate::{
    Error, Result,
    weights::{StoredHead, WeightLoader},
};

impl GemmaConfig {
    /// Sets [`tie_word_embeddings`](Self::tie_word_embeddings) to what the weights say, whatever the configuration does: a head that is
    /// not the embedding is a head, a copy of the embedding is none. Where nothing of the kind is stored, the flag stays.
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

    /// Whether the model reads this weight, where its family knows it. Checkpoints may hold more, such as projections of keys for
    /// layers that attend to those of others.
    pub(super) fn has_weight(&self, position: WeightPosition) -> bool {
        use LayerWeight::{
            ExpertDown, ExpertGateUp, ExpertScale, PostDenseNorm, PostExpertNorm, PreExpertNorm, Router, RouterScale,
        };
        use LayerWeight::{Key, KeyNorm, PerLayerGate, PerLayerProjection, PostPerLayerNorm, Value};
        let per_layer = self.hidden_size_per_layer_input > 0;
        match position {
            WeightPosition::Embed | WeightPosition::FinalNorm => true,
            WeightPosition::Unembed => !self.tie_word_embeddings,
            WeightPosition::EmbeddingProjection => self.embedding_dim > 0,
            WeightPosition::EmbeddingDense(j) => j < self.embedding_dense.len(),
            WeightPosition::PerLayerEmbed
            | WeightPosition::PerLayerModelProjection
            | WeightPosition::PerLayerProjectionNorm
            | WeightPosition::Layer(_, PerLayerGate | PerLayerProjection | PostPerLayerNorm) => per_layer,
            // A model has no drafter's weights: `GemmaDrafterConfig`.
            WeightPosition::DraftInput | WeightPosition::DraftOutput | WeightPosition::DraftCentroids => false,
            WeightPosition::StreamProjection(j) | WeightPosition::StreamUnembed(j) => j + 1 < self.altup_num_inputs,
            WeightPosition::Layer(_, LayerWeight::StreamScale) => self.altup_correct_scale,
            WeightPosition::Layer(
                _,
                PostDenseNorm | RouterScale | Router | ExpertScale | PreExpertNorm | ExpertGateUp | ExpertDown | PostExpertNorm,
            ) => self.is_moe(),
            WeightPosition::Layer(layer, Key | KeyNorm) => self.kv_source_layer(layer) == Some(layer),
            WeightPosition::Layer(layer, Value) => self.kv_source_layer(layer) == Some(layer) && !self.layer_k_eq_v(layer),
            WeightPosition::Layer(..) => true,
        }
    }

    /// The shape of a weight of this model; none for a drafter's.
    pub fn weight_shape(&self, position: WeightPosition) -> Vec<usize> {
        let (d, p) = (self.hidden_size, self.hidden_size_per_layer_input);
        let all_layers = self.num_hidden_layers * p;
        let (layer, weight) = match position {
            WeightPosition::Embed | WeightPosition::Unembed => return vec![self.vocab_size, d],
            WeightPosition::FinalNorm => return vec![d],
            WeightPosition::DraftInput | WeightPosition::DraftOutput | WeightPosition::DraftCentroids => return Vec::new(),
            WeightPosition::PerLayerEmbed => return vec![self.vocab_size_per_layer_input, all_layers],
            WeightPosition::PerLayerModelProjection => return vec![all_layers, d],
            WeightPosition::PerLayerProjectionNorm => return vec![p],
            WeightPosition::StreamProjection(_) | WeightPosition::StreamUnembed(_) => return vec![d, d],
            WeightPosition::EmbeddingProjection => return vec![self.embedding_dim, d],
            WeightPosition::EmbeddingDense(j) => {
                let width = |j: usize| self.embedding_dense.get(j).copied().unwrap_or(0);
                return vec![width(j), if j == 0 { d } else { width(j - 1) }];
            }
            WeightPosition::Layer(layer, weight) => (layer, weight),
        };
        let (streams, rank) = (self.altup_num_inputs, self.laurel_rank);
        let f = self.layer_intermediate_size(layer);
        match weight {
            LayerWeight::Query => vec![self.layer_q_dim(layer), d],
            LayerWeight::Key | LayerWeight::Value => vec![self.layer_kv_dim(layer), d],
            LayerWeight::QueryNorm | LayerWeight::KeyNorm => vec![self.layer_head_dim(layer)],
            LayerWeight::AttentionOutput => vec![d, self.layer_q_dim(layer)],
            LayerWeight::FfwGate | LayerWeight::FfwUp => vec![f, d],
            LayerWeight::FfwDown => vec![d, f],
            LayerWeight::PerLayerGate => vec![p, d],
            LayerWeight::PerLayerProjection => vec![d, p],
            LayerWeight::StreamRouter => vec![streams, d],
            LayerWeight::StreamPredict => vec![streams * streams, streams],
            LayerWeight::StreamCorrect => vec![streams, streams],
            LayerWeight::LowRankDown => vec![rank, d],
            LayerWeight::LowRankUp => vec![d, rank],
            LayerWeight::LayerScalar => vec![1],
            LayerWeight::Router => vec![self.num_experts, d],
            LayerWeight::ExpertScale => vec![self.num_experts],
            LayerWeight::ExpertGateUp => vec![self.num_experts, 2 * self.moe_intermediate_size, d],
            LayerWeight::ExpertDown => vec![self.num_experts, d, self.moe_intermediate_size],
            LayerWeight::PreAttentionNorm
            | LayerWeight::PostAttentionNorm
            | LayerWeight::PreFfwNorm
            | LayerWeight::PostFfwNorm
            | LayerWeight::PostDenseNorm
            | LayerWeight::RouterScale
            | LayerWeight::PreExpertNorm
            | LayerWeight::PostExpertNorm
            | LayerWeight::PostPerLayerNorm
            | LayerWeight::StreamRouterNorm
            | LayerWeight::StreamScale
            | LayerWeight::PostLowRankNorm => vec![d],
        }
    }
}
