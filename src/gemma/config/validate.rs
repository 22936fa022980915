//! Checks that the fields of a configuration fit together.

use super::{
    GemmaConfig, LayerKind, Moe, PerLayerInput, RopeConfig, RopeScaling,
    family::{Bidirectional, Ple, Pooling},
};
use crate::{Error, Result, ir::ops::MOST_EXPERTS};

/// Most products after the mean of a text's tokens: those for which files have names.
pub(in crate::gemma) const MOST_DENSE: usize = 2;

/// Most streams of a model.
pub(in crate::gemma) const MOST_STREAMS: usize = 16;

impl GemmaConfig {
    /// Checks that the fields fit together. [`from_json`](Self::from_json) has done so; needed after changing fields by
    /// hand.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and the rule.
    pub fn validate(&self) -> Result<()> {
        within("hidden_size", self.hidden_size, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1 << 22)?;
        within("num_hidden_layers", self.num_hidden_layers, 1024)?;
        within("num_attention_heads", self.num_attention_heads, 1 << 12)?;
        within("num_key_value_heads", self.num_key_value_heads, 1 << 12)?;
        within("head_dim", self.head_dim, 1 << 12)?;
        within("vocab_size", self.vocab_size, 1 << 20)?;
        within("max_position_embeddings", self.max_position_embeddings, 1 << 30)?;
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 1 << 30)?;
        }
        if self.num_kv_shared_layers >= self.num_hidden_layers {
            let shared = self.num_kv_shared_layers;
            let layers = self.num_hidden_layers;
            return Err(Error::Config(format!("num_kv_shared_layers is {shared} of {layers} layers, expected fewer")));
        }
        if let Some(layers) = self.effective_num_layers {
            within("effective_num_layers", layers, self.num_hidden_layers)?;
        }
        self.validate_relations()?;
        self.validate_layers()?;
        self.validate_ple()?;
        self.validate_altup()?;
        self.validate_embedding()?;
        self.validate_moe()?;
        self.validate_scalars()
    }

    /// Per-layer embeddings: their width, and a row for each token where the family needs one.
    fn validate_ple(&self) -> Result<()> {
        let Some(PerLayerInput { hidden_size, vocab_size }) = self.per_layer_input else { return Ok(()) };
        let ple = self.arch.family().ple;
        within("hidden_size_per_layer_input", hidden_size, 1 << 16)?;
        if ple == Ple::Projection {
            return Ok(());
        }
        let rows = vocab_size.unwrap_or(0);
        within("vocab_size_per_layer_input", rows, 1 << 20)?;
        if ple != Ple::PartialTable && rows < self.vocab_size {
            let tokens = self.vocab_size;
            return Err(Error::Config(format!("vocab_size_per_layer_input is {rows}: tokens up to {tokens} have no row")));
        }
        Ok(())
    }

    fn validate_relations(&self) -> Result<()> {
        let problem = if self.layer_types.len() != self.num_hidden_layers {
            let found = self.layer_types.len();
            let expected = self.num_hidden_layers;
            format!("layer_types has {found} entries, num_hidden_layers is {expected}")
        } else if self.sliding_window.is_none() && self.layer_types.contains(&LayerKind::Sliding) {
            "sliding_window is null, but layer_types has sliding layers".to_string()
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    /// Sizes of each layer, and that layers of one kind can share a rotary table and caches.
    fn validate_layers(&self) -> Result<()> {
        if let Some((layer, _)) = self.per_layer_config.iter().find(|(layer, _)| **layer >= self.num_hidden_layers) {
            let layers = self.num_hidden_layers;
            return Err(Error::Config(format!("per_layer_config names layer {layer}, num_hidden_layers is {layers}")));
        }
        for layer in 0..self.num_hidden_layers {
            let n = self.num_attention_heads;
            let k = self.layer_kv_heads(layer);
            let h = self.layer_head_dim(layer);
            let f = self.layer_intermediate_size(layer);
            let first = self.layer_types.iter().position(|kind| *kind == self.layer_types[layer]).unwrap_or(layer);
            let kind_dim = self.layer_head_dim(first);
            let source = self.kv_source_layer(layer);
            let problem = if k == 0 || !n.is_multiple_of(k) {
                format!("num_attention_heads is {n}, which is no multiple of num_key_value_heads {k}")
            } else if h == 0 || h > 1 << 12 || !h.is_multiple_of(2) {
                format!("head_dim is {h}, rotary embedding pairs its dimensions and needs an even number from 2 to 4096")
            } else if f == 0 || f > 1 << 22 {
                format!("intermediate_size is {f}, expected 1 to {}", 1 << 22)
            } else if h != kind_dim {
                format!("head_dim is {h}, layer {first} of the same kind has {kind_dim}; layers of a kind share a rotary table")
            } else if let Some(source) = source {
                if [self.layer_kv_heads(source), self.layer_head_dim(source)] == [k, h] {
                    continue;
                }
                format!("it attends to the K and V of layer {source}, whose heads are others")
            } else {
                let shared = self.num_kv_shared_layers;
                format!("num_kv_shared_layers is {shared}, and no layer of its kind before those owns K and V")
            };
            return Err(Error::Config(format!("layer {layer}: {problem}")));
        }
        Ok(())
    }

    /// AltUp, LAuReL and sparse gates: all of them, and PLE, or none.
    fn validate_altup(&self) -> Result<()> {
        let streams = self.altup.map_or(0, |altup| altup.num_inputs);
        let active = self.altup.map_or(0, |altup| altup.active_idx);
        let rank = self.laurel_rank.unwrap_or(0);
        let sparse = &self.activation_sparsity;
        let problem = if !self.arch.family().altup {
            if self.altup.is_none() && self.laurel_rank.is_none() && sparse.is_empty() {
                return Ok(());
            }
            format!(
                "altup_num_inputs is {streams}, laurel_rank {rank}, activation_sparsity has {}; none is for {:?}",
                sparse.len(),
                self.arch
            )
        } else if !(2..=MOST_STREAMS).contains(&streams) {
            format!("altup_num_inputs is {streams}, expected 2 to {MOST_STREAMS}")
        } else if active >= streams {
            format!("altup_active_idx is {active}, altup_num_inputs {streams}")
        } else if rank == 0 || rank > 1 << 16 {
            format!("laurel_rank is {rank}, expected 1 to {}", 1 << 16)
        } else if self.per_layer_input.is_none() {
            format!("hidden_size_per_layer_input is 0, {:?} needs it", self.arch)
        } else if !sparse.is_empty() && sparse.len() != self.num_hidden_layers {
            format!("activation_sparsity has {} entries, num_hidden_layers is {}", sparse.len(), self.num_hidden_layers)
        } else if let Some(odd) = sparse.iter().flatten().find(|deviations| !deviations.is_finite()) {
            format!("activation_sparsity has {odd}, expected finite numbers")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    /// The fields that only models that embed texts have.
    fn validate_embedding(&self) -> Result<()> {
        let arch = self.arch;
        let family = arch.family();
        let projects = family.pooling == Pooling::ProjectionThenMean;
        let dim = self.embedding_dim.unwrap_or(0);
        let ple = self.per_layer_input.map_or(0, |input| input.hidden_size);
        let dense = &self.embedding_dense;
        let both_ways = self.use_bidirectional_attention;
        let problem = if both_ways && family.bidirectional == Bidirectional::Never {
            format!("use_bidirectional_attention is true, which is not for {arch:?}")
        } else if projects && (!both_ways || dim == 0 || ple == 0) {
            format!(
                "use_bidirectional_attention is {both_ways}, embedding_dim {dim}, hidden_size_per_layer_input {ple}; {arch:?} \
                 needs all three"
            )
        } else if !projects && self.embedding_dim.is_some() {
            format!("embedding_dim is {dim}, which is not for {arch:?}")
        } else if !dense.is_empty() && (family.pooling != Pooling::MeanThenDense || !both_ways || dense.len() > MOST_DENSE) {
            let found = format!("embedding_dense is {dense:?}, use_bidirectional_attention {both_ways}");
            format!("{found}; at most {MOST_DENSE} products go with Gemma 3 and bidirectional attention, none with {arch:?}")
        } else if let Some(odd) = dense.iter().chain([&dim]).find(|width| **width > 1 << 20) {
            format!("embedding_dense is {dense:?}, embedding_dim {dim}: {odd} is too large")
        } else if dense.contains(&0) {
            format!("embedding_dense is {dense:?}, expected widths of 1 or more")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    fn validate_moe(&self) -> Result<()> {
        let Some(Moe { num_experts, top_k_experts, intermediate_size }) = self.moe else { return Ok(()) };
        if !self.arch.family().moe {
            return Err(Error::Config(format!("num_experts is {num_experts}, which is not for {:?}", self.arch)));
        }
        within("num_experts", num_experts, MOST_EXPERTS)?;
        if !(1..=num_experts).contains(&top_k_experts) {
            let problem = format!("top_k_experts is {top_k_experts}, expected 1 to num_experts, {num_experts}");
            return Err(Error::Config(problem));
        }
        within("moe_intermediate_size", intermediate_size, 1 << 22)
    }

    fn validate_scalars(&self) -> Result<()> {
        positive("rms_norm_eps", self.rms_norm_eps)?;
        for (key, value) in [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            value.map_or(Ok(()), |v| positive(key, v))?;
        }
        validate_rope(&self.rope_full)?;
        validate_rope(&self.rope_sliding)
    }
}

fn validate_rope(rope: &RopeConfig) -> Result<()> {
    positive("rope_theta", rope.theta)?;
    match rope.scaling {
        RopeScaling::Proportional { partial_rotary_factor, factor } => {
            positive("the rope scaling's factor", factor)?;
            if !(0.0..=1.0).contains(&partial_rotary_factor) {
                return Err(Error::Config(format!("partial_rotary_factor is {partial_rotary_factor}, expected 0 to 1")));
            }
        }
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => positive("the rope scaling's factor", factor)?,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            positive("the rope scaling's factor", factor)?;
            positive("low_freq_factor", low_freq_factor)?;
            positive("high_freq_factor", high_freq_factor)?;
            if high_freq_factor <= low_freq_factor || original_max_position_embeddings == 0 {
                let problem = format!(
                    "rope scaling {:?}: high_freq_factor must exceed low_freq_factor and the original length be positive",
                    rope.scaling
                );
                return Err(Error::Config(problem));
            }
        }
    }
    Ok(())
}

fn within(key: &str, value: usize, max: usize) -> Result<()> {
    if value == 0 || value > max {
        return Err(Error::Config(format!("{key} is {value}, expected 1 to {max}")));
    }
    Ok(())
}

fn positive(key: &str, value: f32) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::Config(format!("{key} is {value}, expected a positive finite number")))
}
