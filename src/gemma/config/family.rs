//! The families, a row each: their names in files, and the facts in which their layers and configurations differ.

use super::BidirectionalPictures;
use crate::ir::ops::Gain;

/// Everything in which one family differs from another, apart from sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    /// The family; every row has its own.
    pub(crate) arch: GemmaArch,
    /// `model_type`s of its text models in `config.json`, its own first. That of a multimodal wrapper is one of them
    /// without `_text`.
    pub(crate) model_types: &'static [&'static str],
    /// `general.architecture`s of its GGUF files; none where llama.cpp does not know the family.
    pub(crate) architectures: &'static [&'static str],
    /// `general.architecture` of its drafters' GGUF files.
    pub(crate) drafter: Option<&'static str>,
    /// The family whose defaults hold for absent keys where it has none of its own.
    pub(crate) like: Option<GemmaArch>,
    /// How a norm's stored weight becomes its gain.
    pub(crate) gain: Gain,
    /// Norms after attention and after the FFW, too.
    pub(crate) post_norms: bool,
    /// Norms on queries and keys.
    pub(crate) query_key_norms: bool,
    /// A norm without a weight on values.
    pub(crate) value_norm: bool,
    /// Where per-layer embeddings (PLE) may come from.
    pub(crate) ple: Ple,
    /// AltUp, LAuReL and sparse gates.
    pub(crate) altup: bool,
    /// Experts beside the FFW, in models that have some.
    pub(crate) moe: bool,
    /// A factor on the stream after each layer.
    pub(crate) layer_scalar: bool,
    /// The factor on attention scores.
    pub(crate) score_scale: ScoreScale,
    /// `attn_logit_softcapping`.
    pub(crate) attention_softcap: SoftcapKey,
    /// `final_logit_softcapping`.
    pub(crate) final_softcap: SoftcapKey,
    /// Layers that attend to a window, and how it counts where attention is bidirectional.
    pub(crate) window: Option<Window>,
    /// `sliding_window_pattern` is a key of its `config.json`; in other families it may only repeat their own pattern.
    pub(crate) has_pattern_key: bool,
    /// The last layer is a full one, whatever the pattern says.
    pub(crate) last_layer_full: bool,
    /// `use_bidirectional_attention`.
    pub(crate) bidirectional: Bidirectional,
    /// The layers in which the tokens of a picture see each other, unless a model says otherwise.
    pub(crate) bidirectional_pictures: BidirectionalPictures,
    /// The spelling of rotary tables in `config.json`.
    pub(crate) rope_keys: RopeKeys,
    /// How a text becomes a vector in models that embed texts.
    pub(crate) pooling: Pooling,
    /// The turns that its instruction-tuned models were trained on.
    #[cfg_attr(not(feature = "tokenizer"), expect(dead_code, reason = "for chat formats"))]
    pub(crate) turns: Turns,
    /// Keys of its `config.json` that change nothing.
    pub(crate) harmless_keys: &'static [&'static str],
}

/// Sources of per-layer embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ple {
    /// The family has none.
    None,
    /// The token's scaled embedding, projected, and a table with a row for each token.
    Table,
    /// The same, where tokens past the table's end take its first row.
    PartialTable,
    /// The token's scaled embedding alone, projected.
    Projection,
}

/// The factor on attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScoreScale {
    /// `head_dim^-1/2`.
    HeadDim,
    /// `query_pre_attn_scalar^-1/2`.
    QueryPreAttnScalar,
    /// 1.
    One,
}

/// A softcap's key in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SoftcapKey {
    /// No such key.
    None,
    /// The key of `config.json` is read and never used, as in transformers.
    Unused,
    /// The cap.
    Cap,
}

/// Keys that a sliding layer sees where attention is bidirectional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// `sliding_window / 2` on either side.
    HalfOnEitherSide,
    /// `sliding_window` on either side.
    WholeOnEitherSide,
}

/// The values of `use_bidirectional_attention` that are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bidirectional {
    /// `false`.
    Never,
    /// `true` or `false`.
    Switch,
    /// `"all"`, `"vision"`, which is of the tokens of a picture, or `null`.
    Modality,
    /// The family has no such key and is always bidirectional.
    Always,
}

/// Spellings of rotary tables in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RopeKeys {
    /// One table: `rope_theta` and `rope_scaling`, or `rope_parameters`.
    OneTable,
    /// A table for each kind of layer: `rope_theta`, `rope_local_base_freq` and `rope_scaling`, or `rope_parameters`.
    TwoTables,
    /// A table for each kind of layer, in `rope_parameters` alone.
    Parameters,
}

/// The way from hidden states to a text's vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The family does not embed texts.
    None,
    /// The mean, then dense layers.
    MeanThenDense,
    /// A projection of each token, then the mean; there is no LM head.
    ProjectionThenMean,
}

/// Formats of a conversation's turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turns {
    /// The family has only pre-trained models.
    None,
    /// Of user and model.
    Gemma,
    /// The same, with instructions.
    Gemma3,
    /// With thoughts and tools.
    Gemma4,
}

/// `general.architecture` of Gemma 4's drafters.
pub(super) const DRAFTER: &str = "gemma4-assistant";

macro_rules! families {
    ($($(#[$doc:meta])* $arch:ident = $family:expr;)*) => {
        /// The model families that this crate computes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum GemmaArch {
            $($(#[$doc])* $arch,)*
        }

        impl GemmaArch {
            /// Every family, oldest first.
            pub const ALL: &[GemmaArch] = &[$(GemmaArch::$arch),*];

            /// The family's row.
            pub(crate) const fn family(self) -> Family {
                match self {
                    $(GemmaArch::$arch => Family { arch: GemmaArch::$arch, ..$family },)*
                }
            }
        }
    };
}

families! {
    /// Gemma 1 (`model_type` `gemma`): norms before attention and before the FFW.
    Gemma = Family {
        arch: GemmaArch::Gemma,
        model_types: &["gemma"],
        architectures: &["gemma"],
        drafter: None,
        like: None,
        gain: Gain::OnePlus,
        post_norms: false,
        query_key_norms: false,
        value_norm: false,
        ple: Ple::None,
        altup: false,
        moe: false,
        layer_scalar: false,
        score_scale: ScoreScale::HeadDim,
        attention_softcap: SoftcapKey::None,
        final_softcap: SoftcapKey::None,
        window: None,
        has_pattern_key: false,
        last_layer_full: false,
        bidirectional: Bidirectional::Never,
        bidirectional_pictures: BidirectionalPictures::Never,
        rope_keys: RopeKeys::OneTable,
        pooling: Pooling::None,
        turns: Turns::Gemma,
        harmless_keys: &[],
    };

    /// Gemma 2 (`gemma2`): norms before and after both, windows, softcaps.
    Gemma2 = Family {
        model_types: &["gemma2"],
        architectures: &["gemma2"],
        post_norms: true,
        score_scale: ScoreScale::QueryPreAttnScalar,
        attention_softcap: SoftcapKey::Cap,
        final_softcap: SoftcapKey::Cap,
        window: Some(Window::HalfOnEitherSide),
        ..GemmaArch::Gemma.family()
    };

    /// VaultGemma (`vaultgemma`): as Gemma 2, without the norms after.
    VaultGemma = Family {
        model_types: &["vaultgemma"],
        architectures: &[],
        like: Some(GemmaArch::Gemma2),
        post_norms: false,
        turns: Turns::None,
        ..GemmaArch::Gemma2.family()
    };

    /// Gemma 3 text (`gemma3_text`, or the text part of `gemma3`): as Gemma 2, with norms on queries and keys and two
    /// rotary tables. EmbeddingGemma 1 is a Gemma 3 with bidirectional attention.
    Gemma3 = Family {
        model_types: &["gemma3_text"],
        architectures: &["gemma3", "gemma-embedding"],
        query_key_norms: true,
        attention_softcap: SoftcapKey::Unused,
        has_pattern_key: true,
        bidirectional: Bidirectional::Switch,
        bidirectional_pictures: BidirectionalPictures::EveryLayer,
        rope_keys: RopeKeys::TwoTables,
        pooling: Pooling::MeanThenDense,
        turns: Turns::Gemma3,
        ..GemmaArch::Gemma2.family()
    };

    /// Gemma 3n text (`gemma3n_text`, or the text part of `gemma3n`): as Gemma 3, with a norm on values, AltUp, LAuReL
    /// and PLE.
    Gemma3n = Family {
        model_types: &["gemma3n_text"],
        architectures: &["gemma3n"],
        gain: Gain::Plain,
        value_norm: true,
        ple: Ple::PartialTable,
        altup: true,
        score_scale: ScoreScale::One,
        attention_softcap: SoftcapKey::None,
        has_pattern_key: false,
        bidirectional: Bidirectional::Never,
        bidirectional_pictures: BidirectionalPictures::Never,
        pooling: Pooling::None,
        // A limit of training, and a scale that released files have and attention does not use.
        harmless_keys: &["altup_coef_clip", "query_pre_attn_scalar"],
        ..GemmaArch::Gemma3.family()
    };

    /// Gemma 4 text (`gemma4_text`, `gemma4_unified_text`, or the text part of `gemma4` and `gemma4_unified`): as Gemma
    /// 3, with a norm on values and a factor on the stream after each layer; some models have PLE, some experts.
    Gemma4 = Family {
        model_types: &["gemma4_text", "gemma4_unified_text"],
        architectures: &["gemma4"],
        drafter: Some(DRAFTER),
        gain: Gain::Plain,
        value_norm: true,
        ple: Ple::Table,
        moe: true,
        layer_scalar: true,
        score_scale: ScoreScale::One,
        attention_softcap: SoftcapKey::None,
        has_pattern_key: false,
        last_layer_full: true,
        bidirectional: Bidirectional::Modality,
        bidirectional_pictures: BidirectionalPictures::SlidingLayers,
        rope_keys: RopeKeys::Parameters,
        pooling: Pooling::None,
        turns: Turns::Gemma4,
        ..GemmaArch::Gemma3.family()
    };

    /// EmbeddingGemma 2 text (`embedding_gemma2_text`, or the text part of `embedding_gemma2`): as Gemma 4,
    /// bidirectional, without a table of per-layer embeddings.
    EmbeddingGemma2 = Family {
        model_types: &["embedding_gemma2_text"],
        architectures: &[],
        drafter: None,
        like: Some(GemmaArch::Gemma4),
        ple: Ple::Projection,
        moe: false,
        final_softcap: SoftcapKey::None,
        window: Some(Window::WholeOnEitherSide),
        has_pattern_key: true,
        bidirectional: Bidirectional::Always,
        bidirectional_pictures: BidirectionalPictures::Never,
        pooling: Pooling::ProjectionThenMean,
        turns: Turns::None,
        ..GemmaArch::Gemma4.family()
    };
}

impl GemmaArch {
    /// The text model's `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        self.family().model_types[0]
    }

    /// How the stored weight of a norm becomes its gain.
    pub const fn gain(self) -> Gain {
        self.family().gain
    }

    /// True if each head's values are normed, without a weight.
    pub const fn norms_values(self) -> bool {
        self.family().value_norm
    }

    /// The family of text models with this `model_type`, and the type as the family has it.
    pub(crate) fn of_model_type(model_type: &str) -> Option<(Self, &'static str)> {
        Self::ALL.iter().find_map(|arch| {
            let own = arch.family().model_types.iter().find(|own| **own == model_type)?;
            Some((*arch, *own))
        })
    }

    /// The family of GGUF files of this `general.architecture`, drafters not among them.
    pub(crate) fn of_architecture(architecture: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|arch| arch.family().architectures.contains(&architecture))
    }

    /// The family of drafters whose GGUF files have this `general.architecture`.
    pub(crate) fn of_drafter(architecture: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|arch| arch.family().drafter == Some(architecture))
    }
}
