//! Foreign weight names: the one place where Hugging Face's and llama.cpp's words meet ours.
//!
//! Ours go by position in the model. The trap that this table exists for: `post_attention_layernorm` is the norm *before* the FFW
//! in Gemma 1 and the norm *after* attention from Gemma 2 on.

use super::config::{MOST_DENSE, MOST_STREAMS};
use crate::{gemma::GemmaArch, ir::ops::Gain};

/// Where in the model a weight stands, as it is named everywhere in this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightPosition {
    /// Token embedding `[V, D]`.
    Embed,
    /// LM head `[V, D]`, only in checkpoints whose head is not the embedding.
    Unembed,
    /// Norm after the last layer `[D]`.
    FinalNorm,
    /// What each token brings each layer, `[rows, layers·P]` (Gemma 3n and 4).
    PerLayerEmbed,
    /// Projection of the embedding to what each layer gets of it, `[layers·P, D]` (Gemma 3n, 4 and EmbeddingGemma 2).
    PerLayerModelProjection,
    /// Norm of that projection, for each layer `[P]` (Gemma 3n, 4 and EmbeddingGemma 2).
    PerLayerProjectionNorm,
    /// What makes stream j + 1 of the embedding, `[D, D]` (Gemma 3n).
    StreamProjection(usize),
    /// What makes stream j + 1 part of the result, `[D, D]` (Gemma 3n).
    StreamUnembed(usize),
    /// From the target's embedding and hidden state to a drafter's stream, `[D, 2·B]` (drafters of Gemma 4).
    DraftInput,
    /// From a drafter's stream to what stands for the target's next hidden state, `[B, D]` (drafters of Gemma 4).
    DraftOutput,
    /// Projection of each token's final state, `[width, D]` (EmbeddingGemma 2).
    EmbeddingProjection,
    /// Product j after the mean of a text's tokens, `[out, in]` (EmbeddingGemma 1).
    EmbeddingDense(usize),
    /// The centroids by which a drafter chooses among tokens, `[C, D]` (drafters of Gemma 4).
    DraftCentroids,
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
    QueryNorm "query_norm" "Norm of each query head `[H]` (from Gemma 3 on).",
    KeyNorm "key_norm" "Norm of each key head `[H]` (from Gemma 3 on).",
    AttentionOutput "attention_output" "Output projection of attention `[D, N·H]`.",
    PostAttentionNorm "post_attention_norm" "Norm of attention's output `[D]` (from Gemma 2 on).",
    PreFfwNorm "pre_ffw_norm" "Norm of the stream before the FFW `[D]`.",
    FfwGate "ffw_gate" "Gate projection `[F, D]`.",
    FfwUp "ffw_up" "Up projection `[F, D]`.",
    FfwDown "ffw_down" "Down projection `[D, F]`.",
    PostDenseNorm "post_dense_norm" "Norm of the FFW's output beside experts `[D]` (Gemma 4).",
    RouterScale "router_scale" "Gain of the norm of the stream that the router sees `[D]` (Gemma 4).",
    Router "router" "Projection of that to a number an expert `[E, D]` (Gemma 4).",
    ExpertScale "expert_scale" "Factor on what an expert gives `[E]` (Gemma 4).",
    PreExpertNorm "pre_expert_norm" "Norm of the stream before the experts `[D]` (Gemma 4).",
    ExpertGateUp "expert_gate_up" "Gate, then up projections of all experts `[E, 2·F, D]` (Gemma 4).",
    ExpertDown "expert_down" "Down projections of all experts `[E, D, F]` (Gemma 4).",
    PostExpertNorm "post_expert_norm" "Norm of what the experts give together `[D]` (Gemma 4).",
    PostFfwNorm "post_ffw_norm" "Norm of the FFW's output `[D]` (from Gemma 2 on).",
    PerLayerGate "per_layer_gate" "Gate of what the layer gets of each token, from the stream `[P, D]` (Gemma 3n, 4 and EmbeddingGemma 2).",
    PerLayerProjection "per_layer_projection" "Projection of that to the stream `[D, P]` (Gemma 3n, 4 and EmbeddingGemma 2).",
    PostPerLayerNorm "post_per_layer_norm" "Norm of that projection `[D]` (Gemma 3n, 4 and EmbeddingGemma 2).",
    StreamRouterNorm "stream_router_norm" "Norm of what decides how streams mix `[D]` (Gemma 3n).",
    StreamRouter "stream_router" "Projection of that to one number a stream `[N, D]` (Gemma 3n).",
    StreamPredict "stream_predict" "From those to how each stream is predicted from all `[N·N, N]` (Gemma 3n).",
    StreamCorrect "stream_correct" "From those to how each stream follows the computed one `[N, N]` (Gemma 3n).",
    StreamScale "stream_scale" "Factor on the computed stream where it gates the layer's own input `[D]` (Gemma 3n).",
    LowRankDown "low_rank_down" "The path beside attention, to its rank r `[r, D]` (Gemma 3n).",
    LowRankUp "low_rank_up" "The path beside attention, back to the stream `[D, r]` (Gemma 3n).",
    PostLowRankNorm "post_low_rank_norm" "Norm of that path `[D]` (Gemma 3n).",
    LayerScalar "layer_scalar" "Factor on the stream after the layer `[1]` (Gemma 4 and EmbeddingGemma 2).",
}

impl std::fmt::Display for WeightPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightPosition::Embed => f.write_str("embed"),
            WeightPosition::Unembed => f.write_str("unembed"),
            WeightPosition::FinalNorm => f.write_str("final_norm"),
            WeightPosition::PerLayerEmbed => f.write_str("per_layer_embed"),
            WeightPosition::PerLayerModelProjection => f.write_str("per_layer_model_projection"),
            WeightPosition::PerLayerProjectionNorm => f.write_str("per_layer_projection_norm"),
            WeightPosition::StreamProjection(j) => write!(f, "stream_projection.{j}"),
            WeightPosition::StreamUnembed(j) => write!(f, "stream_unembed.{j}"),
            WeightPosition::DraftInput => f.write_str("draft_input"),
            WeightPosition::DraftOutput => f.write_str("draft_output"),
            WeightPosition::DraftCentroids => f.write_str("draft_centroids"),
            WeightPosition::EmbeddingProjection => f.write_str("embedding_projection"),
            WeightPosition::EmbeddingDense(j) => write!(f, "embedding_dense_{j}"),
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
    /// The weights that belong to no layer.
    pub(super) const ENDS: [WeightPosition; 10] = [
        WeightPosition::Embed,
        WeightPosition::PerLayerEmbed,
        WeightPosition::PerLayerModelProjection,
        WeightPosition::PerLayerProjectionNorm,
        WeightPosition::FinalNorm,
        WeightPosition::Unembed,
        WeightPosition::DraftInput,
        WeightPosition::DraftOutput,
        WeightPosition::DraftCentroids,
        WeightPosition::EmbeddingProjection,
    ];

    /// Every weight that a model of `arch` with `layers` layers may have; [`GemmaConfig::weights`](super::GemmaConfig::weights) are
    /// those that it has.
    pub(super) fn known(arch: GemmaArch, layers: usize) -> impl Iterator<Item = WeightPosition> {
        let of_layer = |layer| LayerWeight::ALL.iter().map(move |&weight| WeightPosition::Layer(layer, weight));
        let of_stream = |j| [WeightPosition::StreamProjection(j), WeightPosition::StreamUnembed(j)];
        let ends = Self::ENDS.into_iter().chain((0..MOST_STREAMS - 1).flat_map(of_stream));
        let ends = ends.chain((0..MOST_DENSE).map(WeightPosition::EmbeddingDense));
        let all = ends.chain((0..layers).flat_map(of_layer));
        all.filter(move |position| position.hugging_face(arch).is_some())
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
        use LayerWeight::{KeyNorm, PostAttentionNorm, PostFfwNorm, PostPerLayerNorm, PreAttentionNorm, PreFfwNorm, QueryNorm};
        use LayerWeight::{PostDenseNorm, PostExpertNorm, PreExpertNorm};
        const NORMS: [LayerWeight; 10] = [
            PreAttentionNorm,
            QueryNorm,
            KeyNorm,
            PostAttentionNorm,
            PreFfwNorm,
            PostFfwNorm,
            PostPerLayerNorm,
            PostDenseNorm,
            PreExpertNorm,
            PostExpertNorm,
        ];
        match self {
            WeightPosition::Layer(_, weight) => NORMS.contains(&weight),
            end => matches!(end, WeightPosition::FinalNorm | WeightPosition::PerLayerProjectionNorm),
        }
    }

    fn foreign(self, arch: GemmaArch, convention: Convention) -> Option<String> {
        if convention == Convention::Gguf && matches!(arch, GemmaArch::VaultGemma | GemmaArch::EmbeddingGemma2) {
            return None;
        }
        match self {
            WeightPosition::Layer(layer, weight) => {
                let name = layer_name(arch, weight, convention)?;
                Some(format!("{}{layer}.{name}{}", layers_prefix(convention), suffix(weight, convention)))
            }
            WeightPosition::StreamProjection(j) | WeightPosition::StreamUnembed(j) => {
                let stem = stream_stem(self)?;
                let known = arch == GemmaArch::Gemma3n && convention == Convention::HuggingFace;
                known.then(|| format!("{stem}{j}.weight"))
            }
            WeightPosition::EmbeddingDense(j) => {
                let known = arch == GemmaArch::Gemma3 && j < MOST_DENSE;
                known.then(|| match convention {
                    Convention::HuggingFace => dense_key(j),
                    Convention::Gguf => format!("dense_{}.weight", j + 2),
                })
            }
            end => Some(end_name(arch, end, convention)?.to_string()),
        }
    }

    fn from_foreign(arch: GemmaArch, name: &str, convention: Convention) -> Option<Self> {
        let Some(rest) = name.strip_prefix(layers_prefix(convention)) else {
            let ends = Self::known(arch, 0);
            return ends.into_iter().find(|end| end.foreign(arch, convention).as_deref() == Some(name));
        };
        let (layer, weight) = rest.split_once('.')?;
        let fits = |w: LayerWeight| weight.strip_suffix(suffix(w, convention)) == layer_name(arch, w, convention);
        let found = LayerWeight::ALL.iter().find(|&&w| layer_name(arch, w, convention).is_some() && fits(w))?;
        let position = WeightPosition::Layer(layer.parse().ok()?, *found);
        (position.foreign(arch, convention).as_deref() == Some(name)).then_some(position)
    }
}

/// The loader's key of a tensor that llama.cpp calls `name` in a model of `architecture`, and whether the tensor is a norm that has
/// 1 added (docs/gemma.md, GGUF files). What has no name of Hugging Face's keeps its own, and its values.
pub(crate) fn gguf_key(architecture: &str, name: &str) -> (String, bool) {
    let arch = match architecture {
        "gemma" => Some(GemmaArch::Gemma),
        "gemma2" => Some(GemmaArch::Gemma2),
        // An embedding model is a Gemma 3 without a head.
        "gemma3" | "gemma-embedding" => Some(GemmaArch::Gemma3),
        "gemma3n" => Some(GemmaArch::Gemma3n),
        "gemma4" | "gemma4-assistant" => Some(GemmaArch::Gemma4),
        _ => None,
    };
    let found = arch.and_then(|arch| {
        let position = WeightPosition::from_gguf(arch, name)?;
        // In another model's file they are of a drafter that came with it.
        let drafts = matches!(position, WeightPosition::DraftInput | WeightPosition::DraftOutput);
        (!drafts || architecture == "gemma4-assistant").then_some(())?;
        Some((position.hugging_face(arch)?, position.is_norm() && arch.gain() == Gain::OnePlus))
    });
    found.unwrap_or_else(|| (name.to_string(), false))
}

/// The loader's keys of the matrices that llama.cpp stacks in the tensor `name` of three dimensions, `count` of them; `None` where it
/// is no such stack.
pub(crate) fn gguf_stack(architecture: &str, name: &str, count: usize) -> Option<Vec<String>> {
    let position = match (architecture, name) {
        ("gemma3n", "altup_proj.weight") => WeightPosition::StreamProjection,
        ("gemma3n", "altup_unembd_proj.weight") => WeightPosition::StreamUnembed,
        _ => return None,
    };
    if count >= MOST_STREAMS {
        return None;
    }
    (0..count).map(|j| position(j).hugging_face(GemmaArch::Gemma3n)).collect()
}

/// The loader's key of the weight of dense module `j`, which has a file of its own in sentence-transformers' layout.
pub(crate) fn dense_key(j: usize) -> String {
    format!("{}_Dense.linear.weight", j + 2)
}

/// What may stand before a text weight's name, by the class that saved it; the first that fits is taken off.
const PREFIXES: [&str; 4] = ["model.language_model.", "language_model.model.", "model.", "language_model."];

/// Parts of a name by which the weights of other modalities are known.
const OTHER_MODALITIES: [&str; 3] = ["vision", "audio", "multi_modal_projector"];

/// A weight's name without the checkpoint's prefix; `None` for weights of vision and audio towers and their projectors.
pub(crate) fn text_weight(name: &str) -> Option<&str> {
    if OTHER_MODALITIES.iter().any(|part| name.contains(part)) {
        return None;
    }
    if name.strip_prefix("language_model.") == Some(HEAD_KEY) {
        return Some(HEAD_KEY);
    }
    Some(PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name))
}

const fn layers_prefix(convention: Convention) -> &'static str {
    match convention {
        Convention::HuggingFace => "layers.",
        Convention::Gguf => "blk.",
    }
}

/// What stands before the number in Hugging Face's name of a stream's weight.
const fn stream_stem(position: WeightPosition) -> Option<&'static str> {
    match position {
        WeightPosition::StreamProjection(_) => Some("altup_projections."),
        WeightPosition::StreamUnembed(_) => Some("altup_unembed_projections."),
        _ => None,
    }
}

/// Hugging Face's name of the order in which a drafter's centroids have the tokens, `[V]` in 64-bit integers.
pub(crate) const TOKEN_ORDER: &str = "masked_embedding.token_ordering";

/// Hugging Face's name of an LM head of its own.
pub(crate) const HEAD_KEY: &str = "lm_head.weight";

/// Hugging Face's name of the embedding.
pub(crate) const EMBED_KEY: &str = "embed_tokens.weight";

const fn end_name(arch: GemmaArch, end: WeightPosition, convention: Convention) -> Option<&'static str> {
    use GemmaArch::{EmbeddingGemma2, Gemma3n, Gemma4};
    let (hugging_face, gguf) = match (end, arch) {
        (WeightPosition::DraftInput, Gemma4) => ("pre_projection.weight", "nextn.pre_projection.weight"),
        (WeightPosition::DraftOutput, Gemma4) => ("post_projection.weight", "nextn.post_projection.weight"),
        (WeightPosition::DraftCentroids, Gemma4) => ("masked_embedding.centroids.weight", "masked_embd_centroids.weight"),
        (WeightPosition::Unembed, EmbeddingGemma2) => return None,
        (WeightPosition::EmbeddingProjection, EmbeddingGemma2) => ("embedding_projection.weight", ""),
        (WeightPosition::PerLayerModelProjection, EmbeddingGemma2) => ("ple.per_layer_model_projection.weight", ""),
        (WeightPosition::PerLayerProjectionNorm, EmbeddingGemma2) => ("ple.per_layer_projection_norm.weight", ""),
        (WeightPosition::Embed, _) => (EMBED_KEY, "token_embd.weight"),
        (WeightPosition::FinalNorm, _) => ("norm.weight", "output_norm.weight"),
        (WeightPosition::Unembed, _) => (HEAD_KEY, "output.weight"),
        (WeightPosition::PerLayerEmbed, Gemma3n | Gemma4) => ("embed_tokens_per_layer.weight", "per_layer_token_embd.weight"),
        (WeightPosition::PerLayerModelProjection, Gemma3n | Gemma4) => {
            ("per_layer_model_projection.weight", "per_layer_model_proj.weight")
        }
        (WeightPosition::PerLayerProjectionNorm, Gemma3n | Gemma4) => {
            ("per_layer_projection_norm.weight", "per_layer_proj_norm.weight")
        }
        _ => return None,
    };
    Some(match convention {
        Convention::HuggingFace => hugging_face,
        Convention::Gguf => gguf,
    })
}

/// What ends a layer's weight's name.
const fn suffix(weight: LayerWeight, convention: Convention) -> &'static str {
    match (weight, convention) {
        (LayerWeight::LayerScalar | LayerWeight::StreamScale, Convention::HuggingFace) => "",
        (LayerWeight::ExpertGateUp | LayerWeight::ExpertDown, Convention::HuggingFace) => "",
        (LayerWeight::RouterScale | LayerWeight::ExpertScale, _) => "",
        _ => ".weight",
    }
}

/// The name within a layer, without its suffix.
const fn layer_name(arch: GemmaArch, weight: LayerWeight, convention: Convention) -> Option<&'static str> {
    use GemmaArch::{EmbeddingGemma2, Gemma, Gemma2, Gemma3, Gemma3n, Gemma4};
    let (hugging_face, gguf) = match (weight, arch) {
        (LayerWeight::PerLayerGate, EmbeddingGemma2) => ("ple_block.per_layer_input_gate", ""),
        (LayerWeight::PerLayerProjection, EmbeddingGemma2) => ("ple_block.per_layer_projection", ""),
        (LayerWeight::PostPerLayerNorm, EmbeddingGemma2) => ("ple_block.post_per_layer_input_norm", ""),
        // All else is called as in Gemma 4.
        (_, EmbeddingGemma2) => return layer_name(Gemma4, weight, convention),
        (LayerWeight::PreAttentionNorm, _) => ("input_layernorm", "attn_norm"),
        (LayerWeight::Query, _) => ("self_attn.q_proj", "attn_q"),
        (LayerWeight::Key, _) => ("self_attn.k_proj", "attn_k"),
        (LayerWeight::Value, _) => ("self_attn.v_proj", "attn_v"),
        (LayerWeight::QueryNorm, Gemma3 | Gemma3n | Gemma4) => ("self_attn.q_norm", "attn_q_norm"),
        (LayerWeight::KeyNorm, Gemma3 | Gemma3n | Gemma4) => ("self_attn.k_norm", "attn_k_norm"),
        (LayerWeight::AttentionOutput, _) => ("self_attn.o_proj", "attn_output"),
        (LayerWeight::PostAttentionNorm, Gemma2 | Gemma3 | Gemma3n | Gemma4) => {
            ("post_attention_layernorm", "post_attention_norm")
        }
        (LayerWeight::PreFfwNorm, Gemma) => ("post_attention_layernorm", "ffn_norm"),
        (LayerWeight::PreFfwNorm, _) => ("pre_feedforward_layernorm", "ffn_norm"),
        (LayerWeight::FfwGate, _) => ("mlp.gate_proj", "ffn_gate"),
        (LayerWeight::FfwUp, _) => ("mlp.up_proj", "ffn_up"),
        (LayerWeight::FfwDown, _) => ("mlp.down_proj", "ffn_down"),
        (LayerWeight::PostFfwNorm, Gemma2 | Gemma3 | Gemma3n | Gemma4) => ("post_feedforward_layernorm", "post_ffw_norm"),
        (LayerWeight::PerLayerGate, Gemma3n | Gemma4) => ("per_layer_input_gate", "inp_gate"),
        (LayerWeight::PerLayerProjection, Gemma3n | Gemma4) => ("per_layer_projection", "proj"),
        (LayerWeight::PostPerLayerNorm, Gemma3n | Gemma4) => ("post_per_layer_input_norm", "post_norm"),
        (LayerWeight::StreamRouterNorm, Gemma3n) => ("altup.router_norm", "altup_router_norm"),
        (LayerWeight::StreamRouter, Gemma3n) => ("altup.modality_router", "altup_router"),
        (LayerWeight::StreamPredict, Gemma3n) => ("altup.prediction_coefs", "altup_predict_coef"),
        (LayerWeight::StreamCorrect, Gemma3n) => ("altup.correction_coefs", "altup_correct_coef"),
        (LayerWeight::StreamScale, Gemma3n) => ("altup.correct_output_scale", "altup_correct_scale"),
        (LayerWeight::LowRankDown, Gemma3n) => ("laurel.linear_left", "laurel_l"),
        (LayerWeight::LowRankUp, Gemma3n) => ("laurel.linear_right", "laurel_r"),
        (LayerWeight::PostLowRankNorm, Gemma3n) => ("laurel.post_laurel_norm", "laurel_post_norm"),
        (LayerWeight::PostDenseNorm, Gemma4) => ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
        (LayerWeight::RouterScale, Gemma4) => ("router.scale", "ffn_gate_inp.scale"),
        (LayerWeight::Router, Gemma4) => ("router.proj", "ffn_gate_inp"),
        (LayerWeight::ExpertScale, Gemma4) => ("router.per_expert_scale", "ffn_down_exps.scale"),
        (LayerWeight::PreExpertNorm, Gemma4) => ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
        (LayerWeight::ExpertGateUp, Gemma4) => ("experts.gate_up_proj", "ffn_gate_up_exps"),
        (LayerWeight::ExpertDown, Gemma4) => ("experts.down_proj", "ffn_down_exps"),
        (LayerWeight::PostExpertNorm, Gemma4) => ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
        (LayerWeight::LayerScalar, Gemma4) => ("layer_scalar", "layer_output_scale"),
        _ => return None,
    };
    Some(match convention {
        Convention::HuggingFace => hugging_face,
        Convention::Gguf => gguf,
    })
}

#[cfg(test)]
mod tests;
