//! Everything that touches the GPU. The only module that names `wgpu`.
//!
//! [`Device`] says which adapter is wanted, [`GpuContext`] is an opened one: buffers, submits, bounded waits,
//! read-backs and what the device can do ([`Capabilities`]). Weights become resident through [`WeightUploader`].

pub(crate) mod arithmetic;
pub(crate) mod bandwidth;
mod buffer;
mod capabilities;
mod compile_cache;
mod context;
pub(crate) mod counters;
mod device;
mod device_rows;
pub(crate) mod dispatch_cost;
mod dispatch_timer;
mod driver_cache;
mod first_use;
mod gpu_options;
mod lost;
mod lru;
mod memory;
mod packed_rows;
pub(crate) mod pipeline;
pub(crate) mod prepared;
mod random;
pub(crate) mod read_back;
mod requirements;
pub(crate) mod resident;
mod run_tokens;
pub(crate) mod scratch;
mod session;
mod size_blocks;
mod staging_ring;
mod texture;
mod tuning;
pub(crate) mod upload;
mod waiter;
mod waits;

pub use buffer::Buffer;
pub use capabilities::{AdapterKind, Capabilities, CooperativeMatrix, KernelTier};
pub use compile_cache::{BucketedCompileCache, CompileCache, DynamicDimCompileCache};
pub use context::GpuContext;
pub use counters::CounterSnapshot;
#[cfg(not(target_arch = "wasm32"))]
pub use device::adapters;
pub use device::{AdapterDescription, Device, Opened, OwnDevice, adapters_async};
pub(crate) use device_rows::{DeviceRows, KeptRows};
pub use dispatch_timer::{Clock, DispatchTime, RunTimes};
pub use driver_cache::PipelineBlob;
pub(crate) use first_use::first_use;
pub use gpu_options::GpuOptions;
pub use lru::CacheStats;
pub(crate) use lru::Lru;
pub(crate) use memory::{PlannedRuns, PlannedWeights};
pub(crate) use pipeline::PipelineCache;
pub(crate) use prepared::{Bindings, PreparedPlan, STEP_STRIDE, SequenceSlot, Step};
pub(crate) use read_back::StagedRead;
pub(crate) use requirements::limit;
pub use requirements::{required_features, required_limits, wanted_features, wanted_limits};
pub(crate) use resident::{ResidentWeight, ResidentWeights};
pub(crate) use run_tokens::{RunTokens, table_rows};
pub(crate) use scratch::ScratchPool;
pub(crate) use session::Running;
#[cfg(any(feature = "audio", feature = "vision"))]
pub(crate) use session::SubmitBound;
pub use session::{CompileOptions, CompiledGraph, RunInput, Session, SessionWeights};
pub(crate) use staging_ring::StagingRing;
pub use texture::TexturePixels;
pub use tuning::Tuning;
pub(crate) use tuning::{Bench, Budget, TrialRun};
pub(crate) use upload::WeightUploader;
pub use upload::{OnProgress, UploadPhase, UploadProgress};
pub(crate) use waiter::{Pending, Wait};
/// The `wgpu` that this crate is built against, for applications that hand over their own device.
pub use wgpu;

pub use crate::plan::Cost;

const _: () = {
    const fn sendable<T: Send + 'static>() {}
    const fn shareable<T: Send + Sync + 'static>() {}
    sendable::<CompiledGraph>();
    sendable::<StagedRead>();
    sendable::<WeightUploader>();
    shareable::<AdapterDescription>();
    shareable::<Buffer>();
    shareable::<CacheStats>();
    shareable::<Capabilities>();
    shareable::<Clock>();
    shareable::<Device>();
    shareable::<GpuContext>();
    shareable::<GpuOptions>();
    shareable::<Opened>();
    shareable::<PipelineBlob>();
    shareable::<PipelineCache>();
    shareable::<PreparedPlan>();
    shareable::<ResidentWeight>();
    shareable::<RunTimes>();
    shareable::<ScratchPool>();
    shareable::<Session>();
    shareable::<SessionWeights>();
};
