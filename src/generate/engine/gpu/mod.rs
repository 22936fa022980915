//! The generator on a GPU: resident weights and caches, plans prepared once a bucket, one submit a run.

mod batch;
mod cache_rows;
mod caches;
mod chunk_sizer;
mod draft;
mod early;
mod inputs;
mod logits_view;
mod memory;
mod model;
mod plans;
mod run;
mod run_plan;
mod sample_mode;
mod speculate;
mod submit_splitter;
#[cfg(test)]
mod tests;
mod timing;
mod tune;

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

pub(crate) use batch::GpuTurn;
use batch::HeldSlot;
use caches::Caches;
use chunk_sizer::ChunkSizer;
use draft::GpuDrafter;
use logits_view::{chosen, short_list};
pub(crate) use memory::{MemoryAsked, largest, plan_memory};
use model::GpuModel;
use plans::{PlanKey, Plans, Ready, output};
use sample_mode::SampleMode;
use submit_splitter::{Sliced, SubmitSplitter, Timed, nothing_begun};

use crate::{
    Error, Result,
    generate::{
        CacheStore, CancelToken, Engine, LogitsView, MOST_LOGITS, ModelGraphs, ModelStats, OnProgress, Outputs, PREFILL_CHUNK,
        PlanPolicy, Profiles, RingCopy, Run, SampleOpts, Sampled, Sequence, sample_token_after,
    },
    runtime::{AdapterKind, Buffer, CacheStats, Clock, GpuContext, Pending, RunTimes, RunTokens, StagedRead},
};

/// The limit that kernels meet first, as wgpu names it.
const BINDING_LIMIT: &str = "max_storage_buffer_binding_size";

/// One sequence on one GPU: its caches, plans and the runs in flight. The model is shared.
pub(crate) struct GpuEngine {
    model: Arc<GpuModel>,
    caches: Caches,
    policy: PlanPolicy,
    profiles: Profiles,
    plans: Plans,
    pace: ChunkSizer,
    slices: SubmitSplitter,
    in_flight: Option<(wgpu::SubmissionIndex, Option<Timed>)>,
    /// The run of which slices are left.
    sliced: Option<SlicedRun>,
    /// Runs that will choose a token, oldest first.
    begun: VecDeque<Begun>,
    /// The plan whose logits were viewed last.
    viewed: Option<PlanKey>,
    drafter: Option<GpuDrafter>,
    /// In plans for several sequences, those used last at the end.
    slots: Vec<HeldSlot>,
    /// Ends waits for the device.
    cancel: CancelToken,
}

/// A run of which slices are left to submit.
struct SlicedRun {
    key: PlanKey,
    mode: SampleMode,
    rows: Range<usize>,
    slices: Sliced,
}

/// A run that was submitted and whose result is not yet read.
struct Begun {
    key: PlanKey,
    mode: SampleMode,
    /// Pieces of the bytes that are read back, in order.
    staged: Vec<StagedRead>,
    submission: wgpu::SubmissionIndex,
    timed: Option<Timed>,
    /// Where the device puts the token that it chooses itself.
    token: Option<(Arc<Buffer>, u64)>,
}

/// The tokens of a run.
#[derive(Clone, Copy)]
enum Tokens<'a> {
    Given(RunTokens<'a>),
    /// One of text, which lies on the device.
    Chosen {
        buffer: &'a Buffer,
        offset: u64,
        position: usize,
    },
}

/// How an engine is made.
#[derive(Default)]
pub(crate) struct EngineOptions {
    /// Most tokens of a run.
    pub(crate) chunk: Option<usize>,
    /// About how long a submit of a run may take.
    pub(crate) submit_time: Option<Duration>,
    /// True if kernels follow from the device alone, and not from timings.
    pub(crate) untimed: bool,
    /// Ends it while kernels are tried; what hears of the upload ends that.
    pub(crate) cancel: Option<CancelToken>,
    /// Hears of the upload.
    pub(crate) on_progress: Option<OnProgress>,
}

impl GpuEngine {
    /// Uploads the weights.
    pub(crate) async fn new(
        context: Arc<GpuContext>,
        model: Arc<ModelGraphs>,
        profiles: Profiles,
        options: EngineOptions,
    ) -> Result<Self> {
        let EngineOptions { chunk, submit_time, untimed, cancel, on_progress } = options;
        let chunk = chunk.unwrap_or(PREFILL_CHUNK);
        let ring = model.ring(chunk)?;
        let software = context.capabilities().kind == AdapterKind::Software;
        let mut model = GpuModel::new(context, model, &profiles, (chunk, ring), untimed, on_progress).await?;
        model.check(&profiles, ring)?;
        model.tune(&profiles, (chunk, ring), untimed, cancel.unwrap_or_default())?;
        let pace = ChunkSizer::new(chunk, model.elements(), software, submit_time);
        let slices = SubmitSplitter::new(submit_time, software);
        Ok(Self::fresh(Arc::new(model), Caches::new(ring), PlanPolicy::default(), profiles, pace, slices))
    }

    fn fresh(
        model: Arc<GpuModel>,
        caches: Caches,
        policy: PlanPolicy,
        profiles: Profiles,
        pace: ChunkSizer,
        slices: SubmitSplitter,
    ) -> Self {
        let plans = Plans::new(&policy);
        let in_flight = None;
        let sliced = None;
        let begun = VecDeque::new();
        let viewed = None;
        let drafter = None;
        let slots = Vec::new();
        let cancel = CancelToken::new();
        Self { model, caches, policy, profiles, plans, pace, slices, in_flight, sliced, begun, viewed, drafter, slots, cancel }
    }

    /// Another engine of the same model.
    fn beside(&self, caches: Caches) -> Self {
        let pace = self.pace.idle();
        let slices = self.slices.another();
        let fresh = Self::fresh(self.model.clone(), caches, self.policy, self.profiles.clone(), pace, slices);
        Self { drafter: self.drafter.as_ref().map(GpuDrafter::another), ..fresh }
    }
}

impl Run for GpuEngine {
    fn begin_rows(&mut self, run: RunTokens) -> Result<()> {
        let key = self.prepare(&run, true, Outputs::Nothing)?;
        self.submit_first(key, Tokens::Given(run), SampleMode::Nothing)?;
        Ok(())
    }

    fn slices_left(&self) -> bool {
        self.sliced.is_some()
    }

    fn go_on(&mut self) -> Result<()> {
        let begun = self.submit_slice(None)?;
        self.begun.extend(begun);
        Ok(())
    }

    fn begin(&mut self, run: RunTokens, opts: &SampleOpts) -> Result<()> {
        self.forget();
        let key = self.prepare(&run, true, Outputs::Last)?;
        let begun = self.submit_first(key, Tokens::Given(run), self.mode(opts))?;
        self.begun.extend(begun);
        Ok(())
    }

    fn begin_next(&mut self, position: usize, opts: &SampleOpts) -> Result<bool> {
        if self.model.model.host_tables {
            return Ok(false); // The host looks up the token's rows.
        }
        let Some((buffer, offset)) = self.begun.back().and_then(|begun| begun.token.clone()) else { return Ok(false) };
        let key = self.prepare(&RunTokens::text(&[0], position), true, Outputs::Last)?;
        if !self.slices.allow_two(&self.plans.of(&key).ready(&key)?.estimates, key.tokens) {
            return Ok(false);
        }
        let chosen = Tokens::Chosen { buffer: &buffer, offset, position };
        let begun = self.submit(key, chosen, self.mode(opts))?;
        self.begun.extend(begun);
        Ok(true)
    }

    fn finish(&mut self, history: &[u32], opts: &SampleOpts) -> Result<Sampled> {
        self.submit_all()?;
        let begun = self.begun.pop_front().ok_or_else(nothing_begun)?;
        let key = begun.key;
        let mode = begun.mode;
        let bytes = self.collect(begun)?;
        let mut bytes_read = bytes.len() as u64;
        let row: Vec<f32> = match mode {
            SampleMode::Argmax => return Ok(Sampled { token: chosen(&bytes, history.len())?, bytes_read, predicted: true }),
            SampleMode::Draw(_) => {
                let (list, drawn) = short_list(&bytes);
                list.check(history.len())?;
                if let Some(token) = list.choose(opts, history.len()) {
                    return Ok(Sampled { token, bytes_read, predicted: token == drawn });
                }
                // The list's mass falls short of what the options ask for: the whole row decides.
                // Growing caches take their plans along.
                let is_there = self.begun.is_empty() && self.plans.of(&key).ready(&key).is_ok();
                let row = if is_there {
                    self.row_of(&key)?
                } else {
                    self.forget();
                    let last = history.len() - 1;
                    self.logits(RunTokens::text(&history[last..], last), true, Outputs::Last)?
                };
                bytes_read += row.len() as u64 * 4;
                row
            }
            SampleMode::Logits | SampleMode::Nothing => bytemuck::pod_collect_to_vec(&bytes),
        };
        Ok(Sampled { token: sample_token_after(&row, opts, history)?, bytes_read, predicted: false })
    }

    fn begin_view(&mut self, run: RunTokens, temperature: f32) -> Result<()> {
        self.begin(run, &SampleOpts::temperature(temperature, 0))
    }

    fn view_logits(&mut self, ids: &[u32]) -> Result<LogitsView> {
        self.look_at(ids)
    }

    fn full_logits(&mut self) -> Result<Vec<f32>> {
        let key = self.viewed.ok_or_else(nothing_begun)?;
        self.row_of(&key)
    }

    fn forget(&mut self) {
        self.begun.drain(..).for_each(|begun| begun.discard(&self.model.context));
        self.give_up_slices();
        self.drafter.iter_mut().for_each(GpuDrafter::forget_text);
    }

    fn time_run(&mut self, run: RunTokens, reps: usize, clock: Option<Clock>) -> Result<RunTimes> {
        self.measure_run(run, reps, clock)
    }

    fn cancel_token(&mut self) -> &mut CancelToken {
        &mut self.cancel
    }

    fn pending(&self) -> Option<Pending> {
        let in_flight = self.in_flight.as_ref().map(|(submission, _)| submission);
        let in_flight = self.sliced.as_ref().and_then(|run| run.slices.submission()).or(in_flight);
        let submission = self.begun.front().map(|begun| &begun.submission).or(in_flight)?;
        Some(Pending::new(&self.model.context, submission))
    }

    fn chunk(&self, want: Outputs) -> usize {
        let paced = match want {
            Outputs::All | Outputs::Each => self.pace.chunk().min(self.rows_at_once()),
            Outputs::Nothing | Outputs::Last => self.pace.chunk(),
        };
        self.policy.chunk(paced)
    }

    fn rows_at_once(&self) -> usize {
        let row = self.model.model.config.vocab_size as u64 * 4;
        // A slot has 16 bytes more than its rows.
        let bindable = (self.model.target.max_binding.min(MOST_LOGITS).saturating_sub(16) / row).max(1) as usize;
        chunk_sizer::bucket_below(bindable)
    }

    fn largest_chunk(&self) -> usize {
        self.pace.largest()
    }
}

impl CacheStore for GpuEngine {
    fn reserve(&mut self, rows: usize) -> Result<()> {
        let rows = self.policy.reserved(rows);
        if rows > self.caches.rows() {
            self.submit_all()?;
            let built = self.model.model.built(true, Outputs::Nothing, self.profiles.kv())?;
            self.caches.allocate(&self.model.context, &built.graph, rows)?;
            // Their bind groups hold the smaller caches.
            self.plans.forget_caches();
            self.slots.clear();
            self.drafter.iter_mut().for_each(GpuDrafter::forget_caches);
        }
        Ok(())
    }

    fn copy_rings(&self) -> Result<RingCopy> {
        self.rings().map(RingCopy::Device)
    }

    fn put_rings(&mut self, copy: &RingCopy) -> Result<()> {
        self.forget();
        match copy {
            RingCopy::Device(rings) => self.set_rings(rings),
            RingCopy::Host(_) => Err(Error::Unsupported("putting the reference's caches on a device".into())),
        }
    }

    fn write_caches(&mut self, rows: usize, source: &mut dyn FnMut(&str, &mut [u8]) -> Result<()>) -> Result<()> {
        self.write_rows(rows, source)
    }
}

impl Sequence for GpuEngine {
    fn policy(&self) -> PlanPolicy {
        self.policy
    }

    fn set_policy(&mut self, policy: PlanPolicy) {
        self.policy = policy;
        self.plans = Plans::new(&policy);
    }

    fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    fn set_profiles(&mut self, profiles: Profiles) -> Result<()> {
        self.model.check(&profiles, self.caches.ring())?;
        self.caches = Caches::new(self.caches.ring());
        self.slots.clear();
        self.plans = Plans::new(&self.policy);
        self.profiles = profiles;
        self.drafter.iter_mut().for_each(GpuDrafter::forget_caches);
        Ok(())
    }

    fn another(&self) -> Engine {
        self.beside(Caches::new(self.caches.ring())).into()
    }

    fn fork(&self) -> Result<Engine> {
        // A prefill chunk in flight was submitted before the copy and is done before it.
        let caches = self.caches.copy(&self.model.context)?;
        Ok(self.beside(caches).into())
    }

    fn context(&self) -> Option<&Arc<GpuContext>> {
        Some(&self.model.context)
    }

    fn model(&self) -> &Arc<ModelGraphs> {
        &self.model.model
    }

    fn stats(&self) -> ModelStats {
        let cache_bytes = self.caches.bytes();
        let dispatches_per_token = self.plans.dispatches_per_token();
        ModelStats { cache_bytes, dispatches_per_token, ..self.model.stats() }
    }

    fn plan_stats(&self) -> (CacheStats, CacheStats) {
        (self.plans.prefill.stats(), self.plans.decode.stats())
    }
}
