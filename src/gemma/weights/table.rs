//! The weights, a row each: position, names in Hugging Face and GGUF, shape, families and models that have it.
//!
//! Positions go by place in the model. `post_attention_layernorm` is the norm *before* the FFW in Gemma 1 and the norm
//! *after* attention from Gemma 2 on.

use super::row::{Row, WeightKind};
use crate::{
    gemma::{
        GemmaArch::{EmbeddingGemma2, Gemma},
        GemmaConfig,
        config::{MOST_DENSE, MOST_STREAMS},
        family::{Family, Ple, Pooling},
    },
    weights::{EMBED_KEY, HEAD_KEY},
};

macro_rules! weights {
    (
        ends { $($(#[$end_doc:meta])* $end:ident = $end_row:expr;)* }
        numbered { $($(#[$numbered_doc:meta])* $numbered:ident = $numbered_row:expr;)* }
        layers { $($(#[$layer_doc:meta])* $layer:ident = $layer_row:expr;)* }
    ) => {
        /// Where in the model a weight stands, as it is named everywhere in this crate.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum WeightPosition {
            $($(#[$end_doc])* $end,)*
            $($(#[$numbered_doc])* $numbered(usize),)*
            /// A weight of one decoder layer.
            Layer(usize, LayerWeight),
        }

        /// A weight of a decoder layer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum LayerWeight {
            $($(#[$layer_doc])* $layer,)*
        }

        impl WeightPosition {
            /// The weights that belong to no layer and have no number.
            pub(in crate::gemma) const ENDS: &[WeightPosition] = &[$(WeightPosition::$end),*];

            /// The weights that belong to no layer and have a number, from 0.
            pub(super) const NUMBERED: &[fn(usize) -> WeightPosition] = &[$(WeightPosition::$numbered),*];

            /// The weight's row, and its number.
            pub(super) const fn row(self) -> (Row, usize) {
                match self {
                    $(WeightPosition::$end => ($end_row, 0),)*
                    $(WeightPosition::$numbered(number) => ($numbered_row, number),)*
                    WeightPosition::Layer(layer, weight) => (weight.row(), layer),
                }
            }
        }

        impl LayerWeight {
            /// Every kind, in the order of use.
            pub const ALL: &[LayerWeight] = &[$(LayerWeight::$layer),*];

            /// The weight's row.
            pub(super) const fn row(self) -> Row {
                match self {
                    $(LayerWeight::$layer => $layer_row,)*
                }
            }
        }
    };
}

weights! {
    ends {
        /// Token embedding `[V, D]`.
        Embed = Row::table("embed", EMBED_KEY, "token_embd.weight", |m, _| vec![m.vocab_size, m.hidden_size]);
        /// Table of per-layer embeddings (PLE), those of all layers side by side, `[rows, layers·P]` (Gemma 3n and 4).
        PleEmbed = Row::table("ple_embed", "embed_tokens_per_layer.weight", "per_layer_token_embd.weight",
            |m, _| vec![ple_rows(m), m.num_hidden_layers * ple(m)]).of(|f| matches!(f.ple, Ple::Table | Ple::PartialTable)).when(has_ple);
        /// Projection of the embedding to per-layer embeddings, `[layers·P, D]` (Gemma 3n, 4 and EmbeddingGemma 2).
        PleModelProjection = Row::matrix("ple_model_projection", "per_layer_model_projection.weight",
            "per_layer_model_proj.weight", |m, _| vec![m.num_hidden_layers * ple(m), m.hidden_size]).of(may_have_ple).when(has_ple)
            .renamed(&[(EmbeddingGemma2, "ple.per_layer_model_projection.weight")]);
        /// Norm of that projection, by layer `[P]` (Gemma 3n, 4 and EmbeddingGemma 2).
        PleProjectionNorm = Row::norm("ple_projection_norm", "per_layer_projection_norm.weight",
            "per_layer_proj_norm.weight").sized(|m, _| vec![ple(m)]).of(may_have_ple).when(has_ple)
            .renamed(&[(EmbeddingGemma2, "ple.per_layer_projection_norm.weight")]);
        /// Norm after the last layer `[D]`.
        FinalNorm = Row::norm("final_norm", "norm.weight", "output_norm.weight");
        /// LM head `[V, D]`, only in checkpoints whose head is not the embedding.
        Unembed = Row::matrix("unembed", HEAD_KEY, "output.weight", |m, _| vec![m.vocab_size, m.hidden_size])
            .of(|f| f.pooling != Pooling::ProjectionThenMean).when(|m, _| !m.tie_word_embeddings);
        /// Projection of the target's embedding and hidden state to a drafter's stream, `[D, 2·B]` (drafters of Gemma
        /// 4).
        DraftInput = Row::matrix("draft_input", "pre_projection.weight", "nextn.pre_projection.weight", of_drafter)
            .of(|f| f.drafter.is_some()).when(|_, _| false);
        /// Projection of a drafter's stream to a stand-in for the target's next hidden state, `[B, D]` (drafters of
        /// Gemma 4).
        DraftOutput = Row::matrix("draft_output", "post_projection.weight", "nextn.post_projection.weight", of_drafter)
            .of(|f| f.drafter.is_some()).when(|_, _| false);
        /// The centroids by which a drafter chooses among tokens, `[C, D]` (drafters of Gemma 4).
        DraftCentroids = Row::matrix("draft_centroids", "masked_embedding.centroids.weight", "masked_embd_centroids.weight",
            of_drafter).of(|f| f.drafter.is_some()).when(|_, _| false);
        /// Projection of each token's final state, `[width, D]` (EmbeddingGemma 2).
        EmbeddingProjection = Row::matrix("embedding_projection", "embedding_projection.weight", "",
            |m, _| vec![m.embedding_dim.unwrap_or(0), m.hidden_size]).not_in_gguf()
            .of(|f| f.pooling == Pooling::ProjectionThenMean).when(|m, _| m.embedding_dim.is_some());
    }

    numbered {
        /// Projection of the embedding to AltUp's stream j + 1, `[D, D]` (Gemma 3n).
        AltUpProjection = Row::matrix("altup_projection.{}", "altup_projections.{}.weight", "",
            |m, _| vec![m.hidden_size, m.hidden_size]).stacked("altup_proj.weight").numbered(MOST_STREAMS - 1, 0)
            .of(|f| f.altup).when(|m, j| j + 1 < streams(m));
        /// Projection of AltUp's stream j + 1 before the streams are merged, `[D, D]` (Gemma 3n).
        AltUpUnembed = Row::matrix("altup_unembed.{}", "altup_unembed_projections.{}.weight", "",
            |m, _| vec![m.hidden_size, m.hidden_size]).stacked("altup_unembd_proj.weight").numbered(MOST_STREAMS - 1, 0)
            .of(|f| f.altup).when(|m, j| j + 1 < streams(m));
        /// Dense layer j after the mean of a text's tokens, `[out, in]` (EmbeddingGemma 1). Files count modules, these
        /// from 2.
        EmbeddingDense = Row::matrix("embedding_dense_{}", "{}_Dense.linear.weight", "dense_{}.weight", dense)
            .numbered(MOST_DENSE, 2).of(|f| f.pooling == Pooling::MeanThenDense).when(|m, j| j < m.embedding_dense.len());
    }

    layers {
        /// Norm of the stream before attention `[D]`.
        PreAttentionNorm = Row::norm("pre_attention_norm", "input_layernorm.weight", "attn_norm.weight");
        /// Query projection `[N·H, D]`.
        Query = Row::matrix("query", "self_attn.q_proj.weight", "attn_q.weight", |m, i| vec![m.layer_q_dim(i), m.hidden_size]);
        /// Key projection `[K·H, D]`.
        Key = Row::matrix("key", "self_attn.k_proj.weight", "attn_k.weight", |m, i| vec![m.layer_kv_dim(i), m.hidden_size])
            .when(owns_keys);
        /// Value projection `[K·H, D]`.
        Value = Row::matrix("value", "self_attn.v_proj.weight", "attn_v.weight", |m, i| vec![m.layer_kv_dim(i), m.hidden_size])
            .when(|m, i| owns_keys(m, i) && !m.layer_k_eq_v(i));
        /// Norm of each query head `[H]` (from Gemma 3 on).
        QueryNorm = Row::norm("query_norm", "self_attn.q_norm.weight", "attn_q_norm.weight")
            .sized(|m, i| vec![m.layer_head_dim(i)]).of(|f| f.query_key_norms);
        /// Norm of each key head `[H]` (from Gemma 3 on).
        KeyNorm = Row::norm("key_norm", "self_attn.k_norm.weight", "attn_k_norm.weight")
            .sized(|m, i| vec![m.layer_head_dim(i)]).of(|f| f.query_key_norms).when(owns_keys);
        /// Output projection of attention `[D, N·H]`.
        AttentionOutput = Row::matrix("attention_output", "self_attn.o_proj.weight", "attn_output.weight",
            |m, i| vec![m.hidden_size, m.layer_q_dim(i)]);
        /// Norm of attention's output `[D]` (from Gemma 2 on).
        PostAttentionNorm = Row::norm("post_attention_norm", "post_attention_layernorm.weight", "post_attention_norm.weight")
            .of(|f| f.post_norms);
        /// Norm of the stream before the FFW `[D]`.
        PreFfwNorm = Row::norm("pre_ffw_norm", "pre_feedforward_layernorm.weight", "ffn_norm.weight")
            .renamed(&[(Gemma, "post_attention_layernorm.weight")]);
        /// Gate projection `[F, D]`.
        FfwGate = Row::matrix("ffw_gate", "mlp.gate_proj.weight", "ffn_gate.weight",
            |m, i| vec![m.layer_intermediate_size(i), m.hidden_size]);
        /// Up projection `[F, D]`.
        FfwUp = Row::matrix("ffw_up", "mlp.up_proj.weight", "ffn_up.weight",
            |m, i| vec![m.layer_intermediate_size(i), m.hidden_size]);
        /// Down projection `[D, F]`.
        FfwDown = Row::matrix("ffw_down", "mlp.down_proj.weight", "ffn_down.weight",
            |m, i| vec![m.hidden_size, m.layer_intermediate_size(i)]);
        /// Norm of the FFW's output beside experts `[D]` (Gemma 4).
        PostDenseNorm = Row::norm("post_dense_norm", "post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight")
            .of(may_name_experts).when(has_experts);
        /// Norm before the router of experts `[D]` (Gemma 4).
        RouterScale = Row::norm("router_scale", "router.scale", "ffn_gate_inp.scale").of(may_name_experts).when(has_experts);
        /// The router of experts: a number for each `[E, D]` (Gemma 4).
        Router = Row::matrix("router", "router.proj.weight", "ffn_gate_inp.weight", |m, _| vec![experts(m), m.hidden_size])
            .of(may_name_experts).when(has_experts);
        /// Factor on each expert's output `[E]` (Gemma 4).
        ExpertScale = Row::factor("expert_scale", "router.per_expert_scale", "ffn_down_exps.scale", |m, _| vec![experts(m)])
            .of(may_name_experts).when(has_experts);
        /// Norm of the stream before the experts `[D]` (Gemma 4).
        PreExpertNorm = Row::norm("pre_expert_norm", "pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight")
            .of(may_name_experts).when(has_experts);
        /// Gate, then up projections of all experts `[E, 2·F, D]` (Gemma 4).
        ExpertGateUp = Row::experts("expert_gate_up", "experts.gate_up_proj", "ffn_gate_up_exps.weight",
            |m, _| vec![experts(m), 2 * expert_width(m), m.hidden_size]).of(may_name_experts).when(has_experts);
        /// Down projections of all experts `[E, D, F]` (Gemma 4).
        ExpertDown = Row::experts("expert_down", "experts.down_proj", "ffn_down_exps.weight",
            |m, _| vec![experts(m), m.hidden_size, expert_width(m)]).of(may_name_experts).when(has_experts);
        /// Norm of the sum of the experts' outputs `[D]` (Gemma 4).
        PostExpertNorm = Row::norm("post_expert_norm", "post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight")
            .of(may_name_experts).when(has_experts);
        /// Norm of the FFW's output `[D]` (from Gemma 2 on).
        PostFfwNorm = Row::norm("post_ffw_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight").of(|f| f.post_norms);
        /// Gate of the layer's per-layer embeddings, from the stream `[P, D]` (Gemma 3n, 4 and EmbeddingGemma 2).
        PleGate = Row::matrix("ple_gate", "per_layer_input_gate.weight", "inp_gate.weight",
            |m, _| vec![ple(m), m.hidden_size]).of(may_have_ple).when(has_ple)
            .renamed(&[(EmbeddingGemma2, "ple_block.per_layer_input_gate.weight")]);
        /// Projection of the gated embeddings to the stream `[D, P]` (Gemma 3n, 4 and EmbeddingGemma 2).
        PleProjection = Row::matrix("ple_projection", "per_layer_projection.weight", "proj.weight",
            |m, _| vec![m.hidden_size, ple(m)]).of(may_have_ple).when(has_ple)
            .renamed(&[(EmbeddingGemma2, "ple_block.per_layer_projection.weight")]);
        /// Norm of that projection `[D]` (Gemma 3n, 4 and EmbeddingGemma 2).
        PostPleNorm = Row::norm("post_ple_norm", "post_per_layer_input_norm.weight", "post_norm.weight")
            .of(may_have_ple).when(has_ple).renamed(&[(EmbeddingGemma2, "ple_block.post_per_layer_input_norm.weight")]);
        /// Norm before AltUp's router `[D]` (Gemma 3n).
        AltUpRouterNorm = Row::norm("altup_router_norm", "altup.router_norm.weight", "altup_router_norm.weight")
            .of(|f| f.altup);
        /// AltUp's router: a number for each stream `[N, D]` (Gemma 3n).
        AltUpRouter = Row::matrix("altup_router", "altup.modality_router.weight", "altup_router.weight",
            |m, _| vec![streams(m), m.hidden_size]).of(|f| f.altup);
        /// AltUp's prediction: from those numbers the coefficients of all streams in each `[N·N, N]` (Gemma 3n).
        AltUpPredict = Row::matrix("altup_predict", "altup.prediction_coefs.weight", "altup_predict_coef.weight",
            |m, _| vec![streams(m) * streams(m), streams(m)]).of(|f| f.altup);
        /// AltUp's correction: from those numbers the coefficient of each stream `[N, N]` (Gemma 3n).
        AltUpCorrect = Row::matrix("altup_correct", "altup.correction_coefs.weight", "altup_correct_coef.weight",
            |m, _| vec![streams(m), streams(m)]).of(|f| f.altup);
        /// Factor on AltUp's active stream where it gates per-layer embeddings `[D]` (Gemma 3n).
        AltUpScale = Row::factor("altup_scale", "altup.correct_output_scale", "altup_correct_scale.weight",
            |m, _| vec![m.hidden_size]).of(|f| f.altup).when(|m, _| m.altup.is_some_and(|altup| altup.correct_scale));
        /// LAuReL's projection to its rank r `[r, D]` (Gemma 3n).
        LaurelDown = Row::matrix("laurel_down", "laurel.linear_left.weight", "laurel_l.weight",
            |m, _| vec![laurel_rank(m), m.hidden_size]).of(|f| f.altup);
        /// LAuReL's projection back to the stream `[D, r]` (Gemma 3n).
        LaurelUp = Row::matrix("laurel_up", "laurel.linear_right.weight", "laurel_r.weight",
            |m, _| vec![m.hidden_size, laurel_rank(m)]).of(|f| f.altup);
        /// Norm of LAuReL's output `[D]` (Gemma 3n).
        PostLaurelNorm = Row::norm("post_laurel_norm", "laurel.post_laurel_norm.weight", "laurel_post_norm.weight")
            .of(|f| f.altup);
        /// Factor on the stream after the layer `[1]` (Gemma 4 and EmbeddingGemma 2).
        LayerScalar = Row::factor("layer_scalar", "layer_scalar", "layer_output_scale.weight", |_, _| vec![1])
            .of(|f| f.layer_scalar);
    }
}

impl WeightPosition {
    /// The kind of arithmetic that the weight takes part in.
    pub(crate) const fn kind(self) -> WeightKind {
        self.row().0.kind
    }
}

fn owns_keys(config: &GemmaConfig, layer: usize) -> bool {
    config.kv_source_layer(layer) == Some(layer)
}

fn may_have_ple(family: &Family) -> bool {
    family.ple != Ple::None
}

fn has_ple(config: &GemmaConfig, _: usize) -> bool {
    config.per_layer_input.is_some()
}

/// P, the width of per-layer embeddings.
fn ple(config: &GemmaConfig) -> usize {
    config.per_layer_input.map_or(0, |input| input.hidden_size)
}

fn ple_rows(config: &GemmaConfig) -> usize {
    config.per_layer_input.and_then(|input| input.vocab_size).unwrap_or(0)
}

/// EmbeddingGemma 2 has no experts; they would have the names that Gemma 4 gives them.
fn may_name_experts(family: &Family) -> bool {
    family.moe || family.arch == EmbeddingGemma2
}

fn has_experts(config: &GemmaConfig, _: usize) -> bool {
    config.is_moe()
}

fn experts(config: &GemmaConfig) -> usize {
    config.moe.map_or(0, |moe| moe.num_experts)
}

fn expert_width(config: &GemmaConfig) -> usize {
    config.moe.map_or(0, |moe| moe.intermediate_size)
}

fn streams(config: &GemmaConfig) -> usize {
    config.altup.map_or(0, |altup| altup.num_inputs)
}

fn laurel_rank(config: &GemmaConfig) -> usize {
    config.laurel_rank.unwrap_or(0)
}

/// A drafter's shapes follow from its own configuration.
fn of_drafter(_: &GemmaConfig, _: usize) -> Vec<usize> {
    Vec::new()
}

fn dense(config: &GemmaConfig, module: usize) -> Vec<usize> {
    let width = |module: usize| config.embedding_dense.get(module).copied().unwrap_or(0);
    let input = if module == 0 { config.hidden_size } else { width(module - 1) };
    vec![width(module), input]
}
