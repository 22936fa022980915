//! Tokens in, tokens out: the generator, its sampler, and the engines that run the graphs for it.

mod batch;
mod draft;
mod engine;
mod generator;
mod hooks;
mod identity;
mod kv_state;
mod memory;
mod numbers;
mod policy;
mod profiles;
mod sample;
mod token_order;

pub(crate) use batch::{Turn, parts_of};
pub(crate) use draft::{DraftModel, MOST_DRAFTED};
pub use draft::{DraftStats, Drafter};
pub(crate) use engine::{
    ALIGNED_CHUNK, CacheStore, Engine, FINAL_NORM, GraphKey, LogitsView, MOST_LOGITS, ModelGraphs, Outputs, ReferenceEngine,
    RingCopy, Run, Sampled, Sequence, largest, sample_after_draft,
};
pub use engine::{FlowHook, ModelStats, PREFILL_CHUNK, SMALLEST_BUCKET};
pub use generator::{GemmaGenerator, GeneratorOptions, TablePlacement};
pub use hooks::{Chosen, LogitBias, LogitChanges, LogitProcessor, SampleHooks, Sampler, TokenSet};
pub(crate) use identity::CacheRow;
pub use kv_state::{KvCacheState, bucket_decode_mask, kv_from_prefill_outputs, split_decode_logits_kv};
#[cfg(feature = "tokenizer")]
pub(crate) use memory::no_device;
pub use memory::{CacheMemory, MemoryPlan};
pub(crate) use policy::{PlanPolicy, token_bucket};
pub(crate) use profiles::Profiles;
pub use profiles::decode_profile_for_device;
pub(crate) use sample::{DeviceDraw, SHORT_LIST, ShortList};
pub use sample::{SampleOpts, sample_token, sample_token_after};
pub(crate) use token_order::TokenOrder;

pub use crate::{cancel::CancelToken, runtime::OnProgress};

const _: () = {
    const fn sendable<T: Send + 'static>() {}
    const fn shareable<T: Send + Sync + 'static>() {}
    sendable::<GemmaGenerator>();
    sendable::<GeneratorOptions>();
    sendable::<OnProgress>();
    shareable::<CancelToken>();
    shareable::<RingCopy>();
    sendable::<SampleHooks>();
    shareable::<SampleOpts>();
    shareable::<ModelStats>();
    shareable::<KvCacheState>();
    shareable::<MemoryPlan>();
    shareable::<ModelGraphs>();
};
