//! Everything that touches the GPU. The only module that names `wgpu`.
//!
//! [`Device`] says which adapter is wanted, [`GpuContext`] is an opened one: buffers, submits, bounded waits, read-backs
//! and what the device can do ([`Capabilities`]). Weights become resident through [`WeightUploader`].

mod arithmetic;
mod bandwidth;
mod buffer;
mod capabilities;
mod compile_cache;
mod context;
mod counters;
mod device;
mod dispatch_cost;
mod dispatch_timer;
mod driver_cache;
mod first_use;
mod gpu_options;
mod lost;
mod lru;
mod packed_rows;
mod pipeline;
mod prepared;
mod random;
mod read_back;
mod requirements;
mod resident;
mod scratch;
mod session;
mod size_blocks;
mod staging_ring;
mod tuning;
mod upload;
mod waiter;
mod waits;

pub use arithmetic::{measure_arithmetic_rate, measure_matrix_rate};
pub use bandwidth::measure_copy_bandwidth;
pub use buffer::Buffer;
pub use capabilities::{AdapterKind, Capabilities, CooperativeMatrix, KernelTier};
pub use compile_cache::{BucketedCompileCache, CompileCache, DynamicDimCompileCache};
pub use context::GpuContext;
pub use counters::{CounterSnapshot, Counters};
pub use device::{AdapterDescription, Device, Opened, OwnDevice, adapters, adapters_async};
pub use dispatch_cost::measure_dispatch_cost;
pub use dispatch_timer::{Clock, DispatchTime, RunTimes};
pub use driver_cache::PipelineBlob;
pub(crate) use first_use::first_use;
pub use gpu_options::GpuOptions;
pub use lru::CacheStats;
pub(crate) use lru::Lru;
pub use pipeline::{Pipeline, PipelineCache};
pub use prepared::{Bound, PreparedPlan, Step};
pub(crate) use prepared::{STEP_STRIDE, SequenceSlot};
pub use read_back::StagedRead;
pub(crate) use requirements::limit;
pub use requirements::{required_features, required_limits, wanted_features, wanted_limits};
pub(crate) use resident::{Arrangement, Placed, split};
pub use resident::{ResidentWeight, Shard};
pub use scratch::ScratchPool;
pub(crate) use scratch::pooled_bytes;
pub use session::{CompileOptions, CompiledGraph, RunInput, Session, SessionWeights};
pub(crate) use session::{RunMemory, Running, WeightMemory};
pub(crate) use size_blocks::size_block_bytes;
pub(crate) use staging_ring::StagingRing;
pub use tuning::Tuning;
pub(crate) use tuning::{Bench, Budget, TrialRun};
pub use upload::{OnProgress, UploadPhase, UploadProgress, WeightUploader};
pub(crate) use waiter::Pending;
/// The `wgpu` that this crate is built against, for applications that hand over their own device.
pub use wgpu;

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
    shareable::<Counters>();
    shareable::<Device>();
    shareable::<GpuContext>();
    shareable::<GpuOptions>();
    shareable::<Opened>();
    shareable::<Pipeline>();
    shareable::<PipelineBlob>();
    shareable::<PipelineCache>();
    shareable::<PreparedPlan>();
    shareable::<ResidentWeight>();
    shareable::<RunTimes>();
    shareable::<ScratchPool>();
    shareable::<Session>();
    shareable::<SessionWeights>();
};
