//! Gemma: its configuration, rotary tables, weight names, blocks and the flow that puts them together.

mod altup;
mod attention;
#[cfg(feature = "audio")]
pub mod audio;
mod blocks;
mod config;
mod drafter;
mod flow;
mod hard_tokens;
mod layer;
mod moe;
mod opts;
mod ple;
mod pooling;
mod random_weights;
mod rope;
#[cfg(any(feature = "audio", feature = "vision"))]
pub(crate) mod tower;
mod unused;
#[cfg(feature = "vision")]
pub mod vision;
mod weights;

pub use crate::profile::gemma_profile_near_weights;
pub use altup::{AltUpLayerStage, AltUpMergeStage, AltUpSplitStage};
pub use attention::{SelfAttentionStage, SelfAttnPrefillSpec, gemma_attn_spec, gemma_strided_layer_mask, gemma2_layer_mask};
pub use blocks::{
    DecodeRopeParamsStage, EmbedScaleStage, FactorStage, GeGluStage, GemmaKvTapStage, GemmaRmsNormStage, LmHeadStage,
    LogitSoftcapStage, RopeTablesStage,
};
#[cfg(feature = "vision")]
pub(crate) use config::MOST_SOFT_TOKENS;
#[cfg(feature = "hub")]
pub(crate) use config::is_projector_name;
pub use config::{
    AltUp, AudioConfig, BidirectionalPictures, Centroids, ConformerConfig, ConformerKind, Embedder, Gemma4VisionConfig,
    GemmaArch, GemmaConfig, GemmaDrafterConfig, GemmaLayerStyle, HardTokens, LayerAttnOptions, LayerKind, LayerOverrides,
    MediaTokens, MobileNetConfig, Moe, MultimodalConfig, PerLayerInput, RopeConfig, RopeScaling, SiglipConfig,
    UnifiedAudioConfig, UnifiedVisionConfig, VisionConfig,
};
pub(crate) use config::{Projector, family, is_projector, projectors, text_rows};
pub(crate) use drafter::{CHOSEN, HIDDEN, ORDERED_EMBED, TARGET_EMBED, drafter_flow};
pub use flow::{GemmaFlow, GemmaMode};
use layer::rope_table_name;
pub use layer::{
    GemmaDecodeLayerSpec, GemmaLayerCtx, gemma_moe_decode_layer_composed, gemma_moe_prefill_layer_composed,
    gemma_prefill_layer_composed,
};
pub use moe::MoeFfnStage;
pub use opts::{
    GemmaDecodeOpts, GemmaPrefillOpts, build_gemma_decode_built, build_gemma_decode_flow, build_gemma_decode_graph,
    build_gemma_prefill_built, build_gemma_prefill_flow,
};
pub use ple::{PleGateStage, PleInputsStage};
pub use pooling::PoolingStage;
#[cfg(feature = "audio")]
pub use random_weights::random_audio_weights;
pub use random_weights::{random_vision_weights, random_weights};
pub use rope::{build_rope_tables, default_inv_freq, resolve_inv_freq, rope_slice};
#[cfg(feature = "lora")]
pub(crate) use weights::WeightKind;
pub(crate) use weights::{
    GgufValues, ProjectorShape, ProjectorValues, ProjectorWeight, TOKEN_ORDER, dense_key, embedder_weights, gguf_key, gguf_stack,
    projector_weight, text_weight, tower_weight,
};
pub use weights::{LayerWeight, WeightPosition};
