//! Whether the fields of a configuration fit together.

use super::{GemmaArch, GemmaConfig, LayerKind, RopeScaling};
use crate::{Error, Result, ir::ops::MOST_EXPERTS};

/// Most products after the mean of a text's tokens: those for which files have names.
pub(in crate::gemma) const MOST_DENSE: usize = 2;

/// Most streams of a model.
pub(in crate::gemma) const MOST_STREAMS: usize = 16;

impl GemmaConfig {
    /// Checks that the fields fit together. [`from_json`](Self::from_json) has done so; needed after changing fields by hand.
    ///
    /// # Errors
    /// [`Error::Config`] names the field, its value and the rule.
    pub fn validate(&self) -> Result<()> {
        let within = |key: &str, value: usize, max: usize| match value {
            v if v == 0 || v > max => Err(Error::Config(format!("{key} is {v}, expected 1 to {max}"))),
            _ => Ok(()),
        };
        within("hidden_size", self.hidden_size, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1 << 22)?;
        within("num_hidden_layers", self.num_hidden_layers, 1024)?;
        within("num_attention_heads", self.num_attention_heads, 1 << 12)?;
        within("num_key_value_heads", self.num_key_value_heads, 1 << 12)?;
        within("head_dim", self.head_dim, 1 << 12)?;
        within("vocab_size", self.vocab_size, 1 << 20)?;
        within("max_position_embeddings", self.max_position_embeddings, 1 << 30)?;
        if self.hidden_size_per_layer_input > 0 {
            within("hidden_size_per_layer_input", self.hidden_size_per_layer_input, 1 << 16)?;
        }
        let has_table = self.hidden_size_per_layer_input > 0 && self.arch != GemmaArch::EmbeddingGemma2;
        if has_table {
            within("vocab_size_per_layer_input", self.vocab_size_per_layer_input, 1 << 20)?;
        }
        let rows = self.vocab_size_per_layer_input;
        if self.arch != GemmaArch::Gemma3n && has_table && rows < self.vocab_size {
            let tokens = self.vocab_size;
            return Err(Error::Config(format!("vocab_size_per_layer_input is {rows}: tokens up to {tokens} have no row")));
        }
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 1 << 30)?;
        }
        if self.num_kv_shared_layers >= self.num_hidden_layers {
            let (shared, layers) = (self.num_kv_shared_layers, self.num_hidden_layers);
            return Err(Error::Config(format!("num_kv_shared_layers is {shared} of {layers} layers, expected fewer")));
        }
        if let Some(layers) = self.effective_num_layers {
            within("effective_num_layers", layers, self.num_hidden_layers)?;
        }
        self.validate_relations()?;
        self.validate_layers()?;
        self.validate_streams()?;
        self.validate_embedding()?;
        self.validate_experts()?;
        self.validate_scalars()
    }

    fn validate_relations(&self) -> Result<()> {
        let problem = if self.layer_types.len() != self.num_hidden_layers {
            let (found, expected) = (self.layer_types.len(), self.num_hidden_layers);
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

    /// What Gemma 3n has, and it alone.
    fn validate_streams(&self) -> Result<()> {
        let streams = self.altup_num_inputs;
        let rank = self.laurel_rank;
        let sparse = &self.activation_sparsity;
        let problem = if self.arch != GemmaArch::Gemma3n {
            if streams == 0 && rank == 0 && sparse.is_empty() {
                return Ok(());
            }
            format!(
                "altup_num_inputs is {streams}, laurel_rank {rank}, activation_sparsity has {}; none is for {:?}",
                sparse.len(),
                self.arch
            )
        } else if !(2..=MOST_STREAMS).contains(&streams) {
            format!("altup_num_inputs is {streams}, expected 2 to {MOST_STREAMS}")
        } else if self.altup_active_idx >= streams {
            format!("altup_active_idx is {}, altup_num_inputs {streams}", self.altup_active_idx)
        } else if rank == 0 || rank > 1 << 16 {
            format!("laurel_rank is {rank}, expected 1 to {}", 1 << 16)
        } else if self.hidden_size_per_layer_input == 0 {
            "hidden_size_per_layer_input is 0, Gemma 3n needs it".to_string()
        } else if !sparse.is_empty() && sparse.len() != self.num_hidden_layers {
            format!("activation_sparsity has {} entries, num_hidden_layers is {}", sparse.len(), self.num_hidden_layers)
        } else if let Some(odd) = sparse.iter().flatten().find(|deviations| !deviations.is_finite()) {
            format!("activation_sparsity has {odd}, expected finite numbers")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    /// What models that embed texts have, and they alone.
    fn validate_embedding(&self) -> Result<()> {
        let arch = self.arch;
        let dim = self.embedding_dim;
        let dense = &self.embedding_dense;
        let both_ways = self.use_bidirectional_attention;
        let problem = if both_ways && !matches!(arch, GemmaArch::Gemma3 | GemmaArch::Gemma4 | GemmaArch::EmbeddingGemma2) {
            format!("use_bidirectional_attention is true, which is not for {arch:?}")
        } else if arch == GemmaArch::EmbeddingGemma2 && (!both_ways || dim == 0 || self.hidden_size_per_layer_input == 0) {
            let width = self.hidden_size_per_layer_input;
            format!(
                "use_bidirectional_attention is {both_ways}, embedding_dim {dim}, hidden_size_per_layer_input {width}; {arch:?} \
                 needs all three"
            )
        } else if arch != GemmaArch::EmbeddingGemma2 && dim > 0 {
            format!("embedding_dim is {dim}, which is not for {arch:?}")
        } else if !dense.is_empty() && (arch != GemmaArch::Gemma3 || !both_ways || dense.len() > MOST_DENSE) {
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

    /// What a mixture of experts has, all of it or nothing.
    fn validate_experts(&self) -> Result<()> {
        let [experts, top, width] = [self.num_experts, self.top_k_experts, self.moe_intermediate_size];
        let problem = if [experts, top, width] == [0; 3] {
            return Ok(());
        } else if self.arch != GemmaArch::Gemma4 {
            format!("num_experts is {experts}, which is not for {:?}", self.arch)
        } else if !(1..=MOST_EXPERTS).contains(&experts) {
            format!("num_experts is {experts}, expected 1 to {MOST_EXPERTS}")
        } else if !(1..=experts).contains(&top) {
            format!("top_k_experts is {top}, expected 1 to num_experts, {experts}")
        } else if !(1..=1 << 22).contains(&width) {
            format!("moe_intermediate_size is {width}, expected 1 to {}", 1 << 22)
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    fn validate_scalars(&self) -> Result<()> {
        let positive = |key: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::Config(format!("{key} is {value}, expected a positive finite number"))),
        };
        positive("rms_norm_eps", self.rms_norm_eps)?;
        for (key, value) in [
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            value.map_or(Ok(()), |v| positive(key, v))?;
        }
        for rope in [&self.rope_full, &self.rope_sliding] {
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
        }
        Ok(())
    }
}
