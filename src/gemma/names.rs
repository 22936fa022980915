//! Foreign weight names: the one place where Hugging Face's and llama.cpp's words meet ours.
//!
//! Ours go by position in the model. The trap that this table exists for: `post_attention_layernorm` is the norm *before* the FFW
//! in Gemma 1 and the norm *after* attention from Gemma 2 on.

use crate::gemma::GemmaArch;

/// Where in the model a weight stands, as it is named everywhere in this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightPosition {
    /// Token embedding `[V, D]`.
    Embed,
    /// LM head `[V, D]`, only in checkpoints whose head is not the embedding.
    Unembed,
    /// Norm after the last layer `[D]`.
    FinalNorm,
    /// A weight of one decoder layer.
    Layer(usize, LayerWeight),
}

macro_rules! layer_weights {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// A weight of a decoder layer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum LayerWeight {
            $(#[doc = $doc] $variant,)*
        }

        impl LayerWeight {
            /// Every kind, in the order of use.
            pub const ALL: &[LayerWeight] = &[$(LayerWeight::$variant),*];

            /// The name by position.
            pub const fn name(self) -> &'static str {
                match self {
                    $(LayerWeight::$variant => $name,)*
                }
            }
        }
    };
}

layer_weights! {
    PreAttentionNorm "pre_attention_norm" "Norm of the stream before attention `[D]`.",
    Query "query" "Query projection `[N·H, D]`.",
    Key "key" "Key projection `[K·H, D]`.",
    Value "value" "Value projection `[K·H, D]`.",
    QueryNorm "query_norm" "Norm of each query head `[H]` (Gemma 3).",
    KeyNorm "key_norm" "Norm of each key head `[H]` (Gemma 3).",
    AttentionOutput "attention_output" "Output projection of attention `[D, N·H]`.",
    PostAttentionNorm "post_attention_norm" "Norm of attention's output `[D]` (Gemma 2 and 3).",
    PreFfwNorm "pre_ffw_norm" "Norm of the stream before the FFW `[D]`.",
    FfwGate "ffw_gate" "Gate projection `[F, D]`.",
    FfwUp "ffw_up" "Up projection `[F, D]`.",
    FfwDown "ffw_down" "Down projection `[D, F]`.",
    PostFfwNorm "post_ffw_norm" "Norm of the FFW's output `[D]` (Gemma 2 and 3).",
}

impl std::fmt::Display for WeightPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightPosition::Embed => f.write_str("embed"),
            WeightPosition::Unembed => f.write_str("unembed"),
            WeightPosition::FinalNorm => f.write_str("final_norm"),
            WeightPosition::Layer(layer, weight) => write!(f, "layer.{layer}.{}", weight.name()),
        }
    }
}

/// Whose names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convention {
    HuggingFace,
    Gguf,
}

impl WeightPosition {
    /// Every weight that a model of `arch` with `layers` layers has, the LM head included.
    pub fn all(arch: GemmaArch, layers: usize) -> impl Iterator<Item = WeightPosition> {
        let layer = move |i| {
            let present = move |weight: &&LayerWeight| layer_name(arch, **weight, Convention::HuggingFace).is_some();
            LayerWeight::ALL.iter().filter(present).map(move |&weight| WeightPosition::Layer(i, weight))
        };
        let ends = [WeightPosition::FinalNorm, WeightPosition::Unembed];
        std::iter::once(WeightPosition::Embed).chain((0..layers).flat_map(layer)).chain(ends)
    }

    /// Hugging Face's name, without the checkpoint's prefix; `None` where `arch` has no such weight.
    pub fn hugging_face(self, arch: GemmaArch) -> Option<String> {
        self.foreign(arch, Convention::HuggingFace)
    }

    /// llama.cpp's name in a GGUF file; `None` where `arch` has no such weight or llama.cpp no such architecture.
    pub fn gguf(self, arch: GemmaArch) -> Option<String> {
        self.foreign(arch, Convention::Gguf)
    }

    /// The position that Hugging Face calls `name` (without the checkpoint's prefix) in a model of `arch`.
    pub fn from_hugging_face(arch: GemmaArch, name: &str) -> Option<Self> {
        Self::from_foreign(arch, name, Convention::HuggingFace)
    }

    /// The position that llama.cpp calls `name` in a model of `arch`.
    pub fn from_gguf(arch: GemmaArch, name: &str) -> Option<Self> {
        Self::from_foreign(arch, name, Convention::Gguf)
    }

    /// Whether the weight is a norm's gain.
    fn is_norm(self) -> bool {
        use LayerWeight::{KeyNorm, PostAttentionNorm, PostFfwNorm, PreAttentionNorm, PreFfwNorm, QueryNorm};
        match self {
            WeightPosition::FinalNorm => true,
            WeightPosition::Embed | WeightPosition::Unembed => false,
            WeightPosition::Layer(_, weight) => {
                [PreAttentionNorm, QueryNorm, KeyNorm, PostAttentionNorm, PreFfwNorm, PostFfwNorm].contains(&weight)
            }
        }
    }

    fn foreign(self, arch: GemmaArch, convention: Convention) -> Option<String> {
        if convention == Convention::Gguf && arch == GemmaArch::VaultGemma {
            return None;
        }
        match self {
            WeightPosition::Layer(layer, weight) => {
                let name = layer_name(arch, weight, convention)?;
                Some(format!("{}{layer}.{name}.weight", layers_prefix(convention)))
            }
            end => Some(end_name(end, convention).to_string()),
        }
    }

    fn from_foreign(arch: GemmaArch, name: &str, convention: Convention) -> Option<Self> {
        let Some(rest) = name.strip_prefix(layers_prefix(convention)) else {
            let ends = [WeightPosition::Embed, WeightPosition::Unembed, WeightPosition::FinalNorm];
            return ends.into_iter().find(|end| end.foreign(arch, convention).as_deref() == Some(name));
        };
        let (layer, weight) = rest.split_once('.')?;
        let weight = weight.strip_suffix(".weight")?;
        let found = LayerWeight::ALL.iter().find(|&&w| layer_name(arch, w, convention) == Some(weight))?;
        let position = WeightPosition::Layer(layer.parse().ok()?, *found);
        (position.foreign(arch, convention).as_deref() == Some(name)).then_some(position)
    }
}

/// The loader's key of a tensor that llama.cpp calls `name` in a model of `architecture`, and whether the tensor is a norm that has
/// 1 added (gemma-spec §10). What has no name of Hugging Face's keeps its own, and its values.
pub(crate) fn gguf_key(architecture: &str, name: &str) -> (String, bool) {
    let arch = match architecture {
        "gemma" => Some(GemmaArch::Gemma),
        "gemma2" => Some(GemmaArch::Gemma2),
        // An embedding model is a Gemma 3 without a head.
        "gemma3" | "gemma-embedding" => Some(GemmaArch::Gemma3),
        _ => None,
    };
    let found = arch.and_then(|arch| {
        let position = WeightPosition::from_gguf(arch, name)?;
        Some((position.hugging_face(arch)?, position.is_norm()))
    });
    found.unwrap_or_else(|| (name.to_string(), false))
}

/// What may stand before a text weight's name, by the class that saved it; the longest that fits is taken off.
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

/// Parts of a name by which the weights of other modalities are known.
const OTHER_MODALITIES: [&str; 3] = ["vision", "audio", "multi_modal_projector"];

/// A weight's name without the checkpoint's prefix; `None` for weights of vision and audio towers and their projectors.
pub(crate) fn text_weight(name: &str) -> Option<&str> {
    if OTHER_MODALITIES.iter().any(|part| name.contains(part)) {
        return None;
    }
    let head = end_name(WeightPosition::Unembed, Convention::HuggingFace);
    if name.strip_prefix("language_model.") == Some(head) {
        return Some(head);
    }
    Some(PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name))
}

const fn layers_prefix(convention: Convention) -> &'static str {
    match convention {
        Convention::HuggingFace => "layers.",
        Convention::Gguf => "blk.",
    }
}

const fn end_name(end: WeightPosition, convention: Convention) -> &'static str {
    match (end, convention) {
        (WeightPosition::Embed, Convention::HuggingFace) => "embed_tokens.weight",
        (WeightPosition::Embed, Convention::Gguf) => "token_embd.weight",
        (WeightPosition::FinalNorm, Convention::HuggingFace) => "norm.weight",
        (WeightPosition::FinalNorm, Convention::Gguf) => "output_norm.weight",
        (_, Convention::HuggingFace) => "lm_head.weight",
        (_, Convention::Gguf) => "output.weight",
    }
}

/// The name within a layer, without `.weight`.
const fn layer_name(arch: GemmaArch, weight: LayerWeight, convention: Convention) -> Option<&'static str> {
    use GemmaArch::{Gemma, Gemma2, Gemma3};
    let (hugging_face, gguf) = match (weight, arch) {
        (LayerWeight::PreAttentionNorm, _) => ("input_layernorm", "attn_norm"),
        (LayerWeight::Query, _) => ("self_attn.q_proj", "attn_q"),
        (LayerWeight::Key, _) => ("self_attn.k_proj", "attn_k"),
        (LayerWeight::Value, _) => ("self_attn.v_proj", "attn_v"),
        (LayerWeight::QueryNorm, Gemma3) => ("self_attn.q_norm", "attn_q_norm"),
        (LayerWeight::KeyNorm, Gemma3) => ("self_attn.k_norm", "attn_k_norm"),
        (LayerWeight::AttentionOutput, _) => ("self_attn.o_proj", "attn_output"),
        (LayerWeight::PostAttentionNorm, Gemma2 | Gemma3) => ("post_attention_layernorm", "post_attention_norm"),
        (LayerWeight::PreFfwNorm, Gemma) => ("post_attention_layernorm", "ffn_norm"),
        (LayerWeight::PreFfwNorm, _) => ("pre_feedforward_layernorm", "ffn_norm"),
        (LayerWeight::FfwGate, _) => ("mlp.gate_proj", "ffn_gate"),
        (LayerWeight::FfwUp, _) => ("mlp.up_proj", "ffn_up"),
        (LayerWeight::FfwDown, _) => ("mlp.down_proj", "ffn_down"),
        (LayerWeight::PostFfwNorm, Gemma2 | Gemma3) => ("post_feedforward_layernorm", "post_ffw_norm"),
        (LayerWeight::QueryNorm | LayerWeight::KeyNorm | LayerWeight::PostAttentionNorm | LayerWeight::PostFfwNorm, _) => {
            return None;
        }
    };
    Some(match convention {
        Convention::HuggingFace => hugging_face,
        Convention::Gguf => gguf,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHS: [GemmaArch; 4] = [GemmaArch::Gemma, GemmaArch::Gemma2, GemmaArch::VaultGemma, GemmaArch::Gemma3];

    #[test]
    fn names_go_both_ways() {
        for arch in ARCHS {
            for position in WeightPosition::all(arch, 12) {
                let name = position.hugging_face(arch).unwrap();
                assert_eq!(WeightPosition::from_hugging_face(arch, &name), Some(position), "{arch:?} {name}");
                match position.gguf(arch) {
                    Some(name) => assert_eq!(WeightPosition::from_gguf(arch, &name), Some(position), "{arch:?} {name}"),
                    None => assert_eq!(arch, GemmaArch::VaultGemma),
                }
            }
        }
        let counts = ARCHS.map(|arch| WeightPosition::all(arch, 1).count());
        assert_eq!(counts, [3 + 9, 3 + 11, 3 + 9, 3 + 13]);
    }

    #[test]
    fn one_foreign_name_has_two_positions() {
        let name = "layers.3.post_attention_layernorm.weight";
        let position = |arch| WeightPosition::from_hugging_face(arch, name);
        assert_eq!(position(GemmaArch::Gemma), Some(WeightPosition::Layer(3, LayerWeight::PreFfwNorm)));
        assert_eq!(position(GemmaArch::Gemma2), Some(WeightPosition::Layer(3, LayerWeight::PostAttentionNorm)));
        assert_eq!(position(GemmaArch::VaultGemma), None);
        assert_eq!(
            WeightPosition::Layer(3, LayerWeight::PreFfwNorm).gguf(GemmaArch::Gemma).as_deref(),
            Some("blk.3.ffn_norm.weight")
        );
        assert_eq!(WeightPosition::Layer(3, LayerWeight::PreFfwNorm).to_string(), "layer.3.pre_ffw_norm");
    }

    #[test]
    fn prefixes_come_off_and_other_modalities_are_left_out() {
        for prefix in ["model.", "language_model.model.", "model.language_model.", ""] {
            assert_eq!(text_weight(&format!("{prefix}layers.0.mlp.up_proj.weight")), Some("layers.0.mlp.up_proj.weight"));
        }
        assert_eq!(text_weight("lm_head.weight"), Some("lm_head.weight"));
        assert_eq!(text_weight("language_model.lm_head.weight"), Some("lm_head.weight"));
        for name in [
            "model.vision_tower.x",
            "multi_modal_projector.mm_soft_emb_norm.weight",
            "model.embed_audio.x",
            "vision_tower.layers.0",
        ] {
            assert_eq!(text_weight(name), None, "{name}");
        }
    }

    #[test]
    fn names_that_are_not_ours_have_no_position() {
        for name in
            ["layers.x.mlp.up_proj.weight", "layers.03.mlp.up_proj.weight", "layers.3.mlp.up_proj", "layers.3", "", "norm"]
        {
            assert_eq!(WeightPosition::from_hugging_face(GemmaArch::Gemma3, name), None, "{name}");
        }
        assert_eq!(WeightPosition::Layer(0, LayerWeight::QueryNorm).hugging_face(GemmaArch::Gemma2), None);
    }
}
