//! Facts of a model and of its layers that follow from the configuration.

use super::{
    BidirectionalPictures, GemmaConfig, GemmaLayerStyle, LayerAttnOptions, LayerKind, LayerOverrides, RopeConfig, family::Window,
};
use crate::ir::MaskKind;

impl GemmaConfig {
    /// Head dimension H of layers that have none of their own.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Query heads to a KV head, G = N/K, of layers without sizes of their own.
    pub fn kv_group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Width of all query heads, N·H, of layers without sizes of their own.
    pub fn q_proj_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads, K·H, of layers without sizes of their own.
    pub fn kv_proj_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// How every layer is put together.
    pub fn layer_style(&self) -> GemmaLayerStyle {
        self.arch
    }

    /// The number of layers to run: `effective_num_layers` where set, else all.
    pub fn active_num_layers(&self) -> usize {
        self.effective_num_layers.map_or(self.num_hidden_layers, |n| n.min(self.num_hidden_layers))
    }

    /// True if every layer has experts beside its FFW.
    pub fn is_moe(&self) -> bool {
        self.moe.is_some()
    }

    /// FFW dimension of one expert; `None` without experts.
    pub fn expert_ffn_dim(&self) -> Option<usize> {
        self.moe.map(|moe| moe.intermediate_size)
    }

    /// Head dimension H of `layer`.
    pub fn layer_head_dim(&self, layer: usize) -> usize {
        self.layer_override(layer, |own| own.head_dim).unwrap_or(self.head_dim)
    }

    /// KV heads K of `layer`.
    pub fn layer_kv_heads(&self, layer: usize) -> usize {
        self.layer_override(layer, |own| own.num_key_value_heads).unwrap_or(self.num_key_value_heads)
    }

    /// FFW dimension F of `layer`.
    pub fn layer_intermediate_size(&self, layer: usize) -> usize {
        self.layer_override(layer, |own| own.intermediate_size).unwrap_or(self.intermediate_size)
    }

    fn layer_override(&self, layer: usize, size: impl Fn(&LayerOverrides) -> Option<usize>) -> Option<usize> {
        self.per_layer_config.get(&layer).and_then(size)
    }

    /// Width of all query heads of `layer`: N·H.
    pub fn layer_q_dim(&self, layer: usize) -> usize {
        self.num_attention_heads * self.layer_head_dim(layer)
    }

    /// Width of all key (or value) heads of `layer`: K·H.
    pub fn layer_kv_dim(&self, layer: usize) -> usize {
        self.layer_kv_heads(layer) * self.layer_head_dim(layer)
    }

    /// The standard deviations above their mean that a gate of the FFW of `layer` must exceed to count; `None` where
    /// all count.
    pub fn layer_sparsity(&self, layer: usize) -> Option<f32> {
        self.activation_sparsity.get(layer).copied().flatten()
    }

    /// True if the values of `layer` are its keys before norm and rotation. It has no value projection then.
    pub fn layer_k_eq_v(&self, layer: usize) -> bool {
        self.attention_k_eq_v && self.layer_types.get(layer) == Some(&LayerKind::Full)
    }

    /// Layers that own keys and values, the first ones; those after them attend to the K and V of one of these.
    pub fn num_kv_layers(&self) -> usize {
        self.first_kv_shared_layer().min(self.active_num_layers())
    }

    fn first_kv_shared_layer(&self) -> usize {
        self.num_hidden_layers.saturating_sub(self.num_kv_shared_layers)
    }

    /// The layer whose keys and values `layer` attends to: itself where it owns some, else the last owner of its kind.
    /// `None` where there is no such layer, which [`validate`](Self::validate) refuses.
    pub fn kv_source_layer(&self, layer: usize) -> Option<usize> {
        let first_shared = self.first_kv_shared_layer();
        if layer < first_shared {
            return Some(layer);
        }
        let kind = self.layer_types.get(layer)?;
        self.layer_types[..first_shared.min(layer)].iter().rposition(|other| other == kind)
    }

    /// Factor on the attention scores: `query_pre_attn_scalar^-1/2`, in Gemma 1 `head_dim^-1/2`.
    pub fn attn_score_scale(&self) -> f32 {
        let scalar = self.query_pre_attn_scalar.map_or(self.head_dim as f64, f64::from);
        scalar.powf(-0.5) as f32
    }

    /// Width of the vector that a text is embedded as.
    pub fn embedding_width(&self) -> usize {
        self.embedding_dense.last().copied().or(self.embedding_dim).unwrap_or(self.hidden_size)
    }

    /// Mask, scale and softcap of `layer`.
    ///
    /// # Panics
    /// `layer` must be below `num_hidden_layers` and the configuration valid.
    pub fn layer_attn_options(&self, layer: usize) -> LayerAttnOptions {
        let window = self.sliding_window.filter(|_| self.layer_types[layer] == LayerKind::Sliding);
        let whole = self.arch.family().window == Some(Window::WholeOnEitherSide);
        let mask = match (window, self.use_bidirectional_attention) {
            (Some(radius), true) if whole => MaskKind::SymmetricWindow(radius),
            (Some(window), true) => MaskKind::SymmetricWindow(window / 2),
            (Some(window), false) => MaskKind::SlidingWindow(window),
            (None, true) => MaskKind::None,
            (None, false) => MaskKind::Causal,
        };
        LayerAttnOptions { mask, scale: self.attn_score_scale(), softcap: self.attn_logit_softcapping }
    }

    /// True if the tokens of a picture see each other in `layer`.
    ///
    /// # Panics
    /// `layer` must be below `num_hidden_layers` and the configuration valid.
    pub fn layer_has_bidirectional_pictures(&self, layer: usize) -> bool {
        match self.bidirectional_pictures {
            BidirectionalPictures::Never => false,
            BidirectionalPictures::SlidingLayers => self.layer_types[layer] == LayerKind::Sliding,
            BidirectionalPictures::EveryLayer => !self.use_bidirectional_attention,
        }
    }

    /// The rotary table of `layer`.
    ///
    /// # Panics
    /// `layer` must be below `num_hidden_layers` and the configuration valid.
    pub fn layer_rope(&self, layer: usize) -> &RopeConfig {
        match self.layer_types[layer] {
            LayerKind::Sliding => &self.rope_sliding,
            LayerKind::Full => &self.rope_full,
        }
    }
}

#[cfg(test)]
mod tests;
