//! The engines that run a generator's graphs: a GPU, or the CPU reference.

mod gpu;
mod model;
mod reference;

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

pub(crate) use gpu::{EngineOptions, GpuEngine, GpuTurn, MemoryAsked, largest, plan_memory};
pub use model::FlowHook;
pub(crate) use model::{GraphKey, ModelGraphs};
pub(crate) use reference::ReferenceEngine;

use super::{CacheRow, CancelToken, DraftModel, PlanPolicy, Profiles, SampleOpts, ShortList, sample_token_after};
use crate::{
    Result,
    ir::Value,
    runtime::{Buffer, CacheStats, Clock, GpuContext, Pending, RunTimes, RunTokens, Wait},
};

/// Most tokens of one prefill submit, unless [`GeneratorOptions`](super::GeneratorOptions) say otherwise.
pub const PREFILL_CHUNK: usize = 128;

/// Tokens of a run that a deterministic generator computes rows with: what any device does in bounded time.
pub(crate) const ALIGNED_CHUNK: usize = 16;

/// Rows of the smallest cache, unless [`with_decode_cache`](super::GemmaGenerator::with_decode_cache) says otherwise.
pub const SMALLEST_BUCKET: usize = 256;

/// Most bytes of logits that one run makes, unless one row has more.
pub(crate) const MOST_LOGITS: u64 = 256 << 20;

/// The hidden state that the head reads, by its label in the graph: `[B, T, D]`.
pub(crate) const FINAL_NORM: &str = "final_norm";

/// The outputs that a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outputs {
    /// Rows in the cache alone.
    Nothing,
    /// Logits of the last token.
    Last,
    /// Logits of every token.
    All,
    /// The token that follows each token.
    Each,
}

/// The outcome of a run that samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sampled {
    /// The token.
    pub(crate) token: u32,
    /// Bytes that crossed from the device for it.
    pub(crate) bytes_read: u64,
    /// True if the device predicted it, so that a run begun after it is the right one.
    pub(crate) predicted: bool,
}

/// All logits of a run, or only the largest and those that were asked for.
pub(crate) enum LogitsView {
    /// All of them `[V]`.
    Full(Vec<f32>),
    /// The likeliest, and those of the tokens asked for, in their order.
    List { list: ShortList, logits: Vec<f32> },
}

/// Sizes of a loaded model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelStats {
    /// Adapter, or the reference.
    pub device: String,
    /// Bytes of all weights as they lie on the device.
    pub weight_bytes: u64,
    /// Weights that exceed the largest binding and are split by rows; 0 on the reference.
    pub split_weights: usize,
    /// Bytes of weights that one decode step reads (all but the rows of the embedding that are not looked up, and
    /// experts that are not chosen).
    pub bytes_per_token: u64,
    /// Bytes of the caches now.
    pub cache_bytes: u64,
    /// Dispatches of one greedy decode step; 0 on the reference.
    pub dispatches_per_token: usize,
}

/// The sliding layers' caches as they were, in the hands of the engine that copied them.
pub(crate) enum RingCopy {
    /// Buffers by the names of the caches.
    Device(BTreeMap<String, Arc<Buffer>>),
    /// Values by the names of the caches.
    Host(BTreeMap<String, Value>),
}

/// Runs of the model for one sequence: what fills its caches and gives logits or tokens.
pub(crate) trait Run {
    /// As [`Engine::run`] for the rows alone, of which no more than a first slice need be submitted: they are there when
    /// no [slices are left](Self::slices_left).
    fn begin_rows(&mut self, run: RunTokens) -> Result<()>;

    /// Returns `true` if slices of the run that was begun last are left to submit, by [`go_on`](Self::go_on) or not at
    /// all.
    fn slices_left(&self) -> bool {
        false
    }

    /// Submits the next slice, if one is left, when the one before is done.
    fn go_on(&mut self) -> Result<()> {
        Ok(())
    }

    /// As [`Engine::run`], to choose the token that follows the last of them; drops what was begun before and not
    /// finished. No more than a first slice need be submitted.
    fn begin(&mut self, run: RunTokens, opts: &SampleOpts) -> Result<()>;

    /// Begins to run the token at `position`, which is the one that the device will choose in the run begun last, to
    /// choose the one after it. `false` where only the host can choose.
    fn begin_next(&mut self, position: usize, opts: &SampleOpts) -> Result<bool>;

    /// Waits for the run that was begun first, submitting what slices are left of it: the token that follows `history`.
    /// Where the device did not predict it, what was begun after that run is to be begun again.
    fn finish(&mut self, history: &[u32], opts: &SampleOpts) -> Result<Sampled>;

    /// As [`begin`](Self::begin), to [`view_logits`](Self::view_logits) that choose the token. A list then has the sum at
    /// `temperature`.
    fn begin_view(&mut self, run: RunTokens, temperature: f32) -> Result<()>;

    /// As [`finish`](Self::finish) waits for the run of [`begin_view`](Self::begin_view); the logits of `ids`, all of
    /// them within the vocabulary, are wanted in any case.
    fn view_logits(&mut self, ids: &[u32]) -> Result<LogitsView>;

    /// All logits of the run that [`view_logits`](Self::view_logits) gave a list of, until the next run.
    fn full_logits(&mut self) -> Result<Vec<f32>>;

    /// Drops a run that was begun and not finished, and the state that a drafter would go on from. Rows that were
    /// written into the caches stay.
    fn forget(&mut self);

    /// Times the dispatches of the run that [`begin`](Self::begin) makes, greedily; changes no row but its own.
    fn time_run(&mut self, run: RunTokens, reps: usize, clock: Option<Clock>) -> Result<RunTimes>;

    /// The token that ends its waits for the device, and its work on the host, with
    /// [`Error::Cancelled`](crate::Error::Cancelled). Rows and what was begun are then as after any other error; a
    /// submit under way runs to its end, which the next run waits for.
    fn cancel_token(&mut self) -> &mut CancelToken;

    /// The submission that the next call would wait for; none where it would not, and on the reference.
    fn pending(&self) -> Option<Pending>;

    /// Most tokens that the next run for `outputs` should have: what the device does in a bounded time and can bind.
    fn chunk(&self, outputs: Outputs) -> usize;

    /// Most tokens that a run without caches should have which gives the logits of all: what can be bound, and
    /// [`MOST_LOGITS`].
    fn rows_at_once(&self) -> usize;

    /// Most tokens that any run has.
    fn largest_chunk(&self) -> usize;
}

/// The caches of one sequence.
pub(crate) trait CacheStore {
    /// Makes the caches large enough for `rows` positions, or more where the policy says so.
    fn reserve(&mut self, rows: usize) -> Result<()>;

    /// A copy of the sliding layers' caches, after all that was begun.
    fn copy_rings(&self) -> Result<RingCopy>;

    /// Puts a copy that was made by this engine or another of its model in place of the sliding layers' caches.
    fn put_rings(&mut self, copy: &RingCopy) -> Result<()>;

    /// Takes what [`Engine::read_cache`] gave, of each cache in the order of their names.
    fn write_caches(&mut self, rows: usize, source: &mut dyn FnMut(&str, &mut [u8]) -> Result<()>) -> Result<()>;
}

/// One sequence on its device: the model, shared with other sequences, and caches and plans of its own.
pub(crate) trait Sequence: Run + CacheStore + Send {
    /// Which plans serve which run.
    fn policy(&self) -> PlanPolicy;

    /// Drops all plans and uses others from now on.
    fn set_policy(&mut self, policy: PlanPolicy);

    /// How its graphs are compiled.
    fn profiles(&self) -> &Profiles;

    /// Drops all plans and all rows and compiles otherwise from now on. After an error everything is as it was.
    fn set_profiles(&mut self, profiles: Profiles) -> Result<()>;

    /// Another sequence on the same weights, with the same policy and profiles and no rows.
    fn another(&self) -> Engine;

    /// As [`another`](Self::another), with a copy of the caches.
    fn fork(&self) -> Result<Engine>;

    /// The GPU; none on the reference.
    fn context(&self) -> Option<&Arc<GpuContext>>;

    /// The model, from which an engine on another device can be made.
    fn model(&self) -> &Arc<ModelGraphs>;

    /// Sizes.
    fn stats(&self) -> ModelStats;

    /// Counts of the plans for several tokens and of those for single ones.
    fn plan_stats(&self) -> (CacheStats, CacheStats);
}

/// The device that runs a sequence.
pub(crate) enum Engine {
    /// A GPU.
    Gpu(Box<GpuEngine>),
    /// The CPU reference.
    Reference(Box<ReferenceEngine>),
}

impl Engine {
    /// Lets the task wait, where it is the task that waits, so that the next call of the engine does not.
    pub(crate) async fn awaited(&mut self, wait: Wait) -> Result<()> {
        match self.pending() {
            Some(pending) if wait == Wait::Task => pending.done(&self.cancel_token().clone()).await,
            _ => Ok(()),
        }
    }

    /// Submits what slices are left of the run that was begun last. Where the task waits, the next call of the engine
    /// does not.
    pub(crate) async fn submitted(&mut self, wait: Wait) -> Result<()> {
        self.awaited(wait).await?;
        while self.slices_left() {
            self.go_on()?;
            self.awaited(wait).await?;
        }
        Ok(())
    }

    /// Runs the tokens, and gives the one that follows `history`, which ends with them.
    pub(crate) async fn step(&mut self, run: RunTokens<'_>, history: &[u32], opts: &SampleOpts, wait: Wait) -> Result<u32> {
        self.begin(run, opts)?;
        self.submitted(wait).await?;
        Ok(self.finish(history, opts)?.token)
    }

    /// Runs the tokens, writes their cache rows, and returns logits: none, `[V]`, or `[T, V]`. Rows of earlier positions
    /// must be in the cache. Pictures whose tokens see each other are whole in the run, or outside of it.
    pub(crate) async fn run(&mut self, run: RunTokens<'_>, outputs: Outputs, wait: Wait) -> Result<Vec<f32>> {
        match self {
            Engine::Gpu(engine) => engine.logits_by(run, true, outputs, wait).await,
            Engine::Reference(engine) => engine.execute(run, true, outputs),
        }
    }

    /// Runs a whole sequence without caches.
    pub(crate) async fn recompute(&mut self, sequence: RunTokens<'_>, outputs: Outputs, wait: Wait) -> Result<Vec<f32>> {
        match self {
            Engine::Gpu(engine) => engine.logits_by(sequence, false, outputs, wait).await,
            Engine::Reference(engine) => engine.execute(sequence, false, outputs),
        }
    }

    /// The bytes of the cache `name`: the first `rows` rows of one that grows, a ring whole.
    pub(crate) async fn read_cache(&mut self, name: &str, row: CacheRow, rows: usize, wait: Wait) -> Result<Vec<u8>> {
        match self {
            Engine::Gpu(engine) => engine.read_rows(name, row, rows, wait).await,
            Engine::Reference(engine) => Ok(engine.read_rows(name, row, rows)),
        }
    }

    /// Puts a drafter on the device, to go on from what later runs leave. After an error everything is as it was.
    pub(crate) async fn set_drafter(&mut self, drafter: &Arc<DraftModel>) -> Result<()> {
        match self {
            Engine::Gpu(engine) => engine.set_drafter(drafter).await,
            Engine::Reference(engine) => engine.set_drafter(drafter),
        }
    }

    /// Up to `count` tokens that the drafter takes for likely after `history`, whose rows but the last are in the
    /// cache; none where no run chose the last token of it.
    pub(crate) async fn draft(&mut self, history: &[u32], count: usize, wait: Wait) -> Result<Vec<u32>> {
        match self {
            Engine::Gpu(engine) => engine.draft(history, count, wait).await,
            Engine::Reference(engine) => engine.draft(history, count),
        }
    }

    /// Runs the last token of `history`, all others being in the cache, and `drafted` ones after it: the tokens that
    /// follow `history`, as far as they were drafted, and the one after those. Drops what was begun.
    pub(crate) async fn verify(&mut self, history: &[u32], drafted: &[u32], opts: &SampleOpts, wait: Wait) -> Result<Vec<u32>> {
        match self {
            Engine::Gpu(engine) => engine.verify(history, drafted, opts, wait).await,
            Engine::Reference(engine) => engine.verify(history, drafted, opts),
        }
    }
}

impl From<GpuEngine> for Engine {
    fn from(engine: GpuEngine) -> Self {
        Engine::Gpu(Box::new(engine))
    }
}

impl From<ReferenceEngine> for Engine {
    fn from(engine: ReferenceEngine) -> Self {
        Engine::Reference(Box::new(engine))
    }
}

impl Deref for Engine {
    type Target = dyn Sequence;

    fn deref(&self) -> &Self::Target {
        match self {
            Engine::Gpu(engine) => engine.as_ref(),
            Engine::Reference(engine) => engine.as_ref(),
        }
    }
}

impl DerefMut for Engine {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Engine::Gpu(engine) => engine.as_mut(),
            Engine::Reference(engine) => engine.as_mut(),
        }
    }
}

/// The token that `opts` choose from a row of logits to follow `history` and `drafted`.
pub(crate) fn sample_after_draft(row: &[f32], opts: &SampleOpts, history: &[u32], drafted: &[u32]) -> Result<u32> {
    sample_token_after(row, opts, &[history, drafted].concat())
}
