//! A tower on a device: its weights once, a compiled graph for each size of input, and the soft tokens that it made.

mod slot;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(crate) use slot::Slot;

use crate::{
    Error, Result,
    cancel::CancelToken,
    flow::{BuiltModel, ModelFlow},
    ir::{Compute, DimBinding, Value},
    plan::SOFTWARE_MOST,
    profile::{CompileProfile, Precision},
    prompt::SoftTokens,
    runtime::{
        AdapterKind, Capabilities, CompileOptions, CompiledGraph, DeviceRows, GpuContext, Lru, OnProgress, PlannedRuns,
        PlannedWeights, RunInput, ScratchPool, Session, SessionWeights, StagingRing, SubmitBound,
    },
    weights::{WeightLoader, WeightMap},
};

/// Compiled graphs that are kept, those of the sizes that were run last.
const KEPT_GRAPHS: usize = 5;

/// Bytes of soft tokens that are kept, unless the options say otherwise.
const KEPT_BYTES: usize = 64 << 20;

/// Work that is cancelled, as errors name it.
const LOADING: &str = "loading a tower";
const WAITING: &str = "the wait for a tower";

/// How to load a tower.
#[derive(Debug, Clone, Default)]
pub struct TowerOptions {
    /// How the tower is compiled. Default: the preset, whose products go through cooperative matrices where the device
    /// has them; those of Gemma 4's towers are in f32, as their numbers may exceed what f16 holds.
    pub profile: Option<CompileProfile>,
    /// Most bytes of soft tokens that are kept on the host, those that were asked for last: what they are of is not
    /// encoded again. Those made last are kept whatever their size. Default: 64 MiB.
    pub kept_bytes: Option<usize>,
    /// True to keep a copy of them on the device too, where prefill takes them instead of uploading them with each
    /// prompt. Default: on the host alone. The reference has no device to keep them on.
    pub kept_on_device: bool,
    /// About how long one submit may keep the device, as
    /// [`GeneratorOptions::submit_time`](crate::generate::GeneratorOptions::submit_time). Default: no bound, one submit
    /// a run.
    pub submit_time: Option<Duration>,
    /// Ends the loading of the tower with [`Error::Cancelled`](crate::Error::Cancelled), between two pieces of its
    /// weights. Of a tower that is loaded, see [`VisionEncoder::with_cancel`](crate::vision::VisionEncoder::with_cancel)
    /// and its like.
    pub cancel_load: Option<CancelToken>,
}

impl TowerOptions {
    /// Those of a tower whose products are in f32 on every device, as `precision.compute = "f32"` makes a text model's.
    pub fn exact() -> Self {
        Self::default().computing(Compute::F32)
    }

    /// Those of a tower beside a text model with this profile of prefill: exact where it is.
    pub fn beside(profile: &CompileProfile) -> Self {
        if profile.precision.compute == Compute::F32 { Self::exact() } else { Self::default() }
    }

    /// Most bytes of the device that kept soft tokens take, of which one source has `tokens`, each of `width` numbers.
    fn most_on_device(&self, [tokens, width]: [usize; 2]) -> u64 {
        let one = tokens * width * size_of::<f32>();
        if self.kept_on_device { self.kept_bytes.unwrap_or(KEPT_BYTES).max(one) as u64 } else { 0 }
    }

    /// With the profile of a tower whose products are computed in `compute`, unless one is given.
    pub(crate) fn computing(self, compute: Compute) -> Self {
        Self { profile: self.profile.or_else(|| Some(profile(compute))), ..self }
    }

    fn profile(&self) -> CompileProfile {
        self.profile.clone().unwrap_or_else(|| profile(Compute::F32))
    }
}

/// The preset of towers whose products are computed in `compute`.
fn profile(compute: Compute) -> CompileProfile {
    let preset = CompileProfile::gemma_prefill();
    CompileProfile { precision: Precision { compute, ..preset.precision }, ..preset }
}

/// The device memory of a tower, from the headers of its files alone.
///
/// The figures are those of its buffers, to the byte, once it has run its largest size first. They leave out the inputs
/// of smaller sizes, and scratch that runs in ascending sizes make up to four times as large.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TowerMemory {
    /// Bytes of the weights as they lie on the device, with the padding between them.
    pub weights: u64,
    /// Bytes of inputs and intermediate results of a run of the largest size.
    pub runs: u64,
    /// Bytes of the buffers that weights pass through, which are free again before the first run.
    pub loading: u64,
    /// Most bytes of soft tokens that are kept on the device ([`TowerOptions::kept_on_device`]).
    pub kept: u64,
    /// Bytes of the largest binding, and its name.
    pub largest_binding: (u64, String),
}

impl TowerMemory {
    /// Most bytes that are held at any moment.
    pub fn peak(&self) -> u64 {
        self.weights + self.loading.max(self.runs + self.kept)
    }

    /// Of the tower of `flow`, which is that of the largest size, with the weights of `loader`, on a device like
    /// `device`. `soft` is the most soft tokens of one source, and their width.
    pub(crate) fn of(
        flow: &ModelFlow,
        soft: [usize; 2],
        loader: &mut dyn WeightLoader,
        device: &Capabilities,
        options: &TowerOptions,
    ) -> Result<Self> {
        let built = flow.build(loader)?;
        let weights = PlannedWeights::of(device, &built.params)?;
        let runs = PlannedRuns::of_graphs(device, [(&built.graph, DimBinding::new())], &options.profile())?;
        Ok(Self {
            weights: weights.bytes,
            runs: runs.bytes,
            loading: StagingRing::bytes(device),
            kept: options.most_on_device(soft),
            largest_binding: runs.largest_binding.max(weights.largest_binding()),
        })
    }
}

/// The inputs of a tower's graph by their names.
pub type TowerInputs = Vec<(&'static str, Value)>;

/// The flow of a tower for one size of input.
type FlowOf = Box<dyn Fn(usize) -> Result<ModelFlow> + Send + Sync>;

/// What soft tokens are of: a hash of the content, and a size where they depend on one.
pub(crate) type Source = ([u8; 32], usize);

/// See the module.
pub(crate) struct Tower {
    flow: FlowOf,
    profile: CompileProfile,
    session: Session,
    /// Handles, from which graphs for other sizes are built.
    loader: WeightMap,
    weights: SessionWeights,
    submit_time: Option<Duration>,
    graphs: async_lock::Mutex<Graphs>,
    kept: Mutex<Lru<Source, Kept>>,
    kept_bytes: usize,
    kept_on_device: bool,
}

/// Soft tokens that are kept, and their copy on the device.
struct Kept {
    soft: SoftTokens,
    _copy: Option<Arc<DeviceRows>>,
}

/// Compiled graphs, which share their scratch: one run is under way at a time.
struct Graphs {
    compiled: Lru<usize, CompiledGraph>,
    scratch: ScratchPool,
}

impl Tower {
    /// The tower of `flow`, which is built for `size` first, with the weights of `loader`; on `gpu`, or on the reference
    /// without one.
    pub(crate) async fn new(
        flow: FlowOf,
        size: usize,
        loader: &mut dyn WeightLoader,
        gpu: Option<Arc<GpuContext>>,
        options: &TowerOptions,
    ) -> Result<Self> {
        let software = gpu.as_ref().is_some_and(|gpu| gpu.capabilities().kind == AdapterKind::Software);
        let session = gpu.map_or_else(Session::reference, |gpu| Session::on(&gpu));
        let loader = WeightMap::take_all(loader)?;
        let built = flow(size)?.build(&mut loader.clone())?;
        let cancel = options.cancel_load.clone().unwrap_or_default();
        cancel.check(LOADING)?;
        let on_progress: OnProgress = Box::new(move |_| !cancel.is_cancelled());
        let weights = session.load_async(&built.params, Some(on_progress)).await?;
        Ok(Self {
            flow,
            profile: options.profile(),
            session,
            loader,
            weights,
            submit_time: options.submit_time.or(software.then_some(SOFTWARE_MOST)),
            graphs: async_lock::Mutex::new(Graphs { compiled: Lru::new(KEPT_GRAPHS), scratch: ScratchPool::default() }),
            kept: Mutex::new(Lru::new(usize::MAX)),
            kept_bytes: options.kept_bytes.unwrap_or(KEPT_BYTES),
            kept_on_device: options.kept_on_device,
        })
    }

    /// The soft tokens of what was encoded before, else the turn to encode it, unless `cancel` is cancelled.
    pub(crate) async fn find(&self, source: &Source, cancel: &CancelToken) -> Result<Found<'_>> {
        if let Some(soft) = self.kept(source) {
            return Ok(Found::Kept(soft));
        }
        let turn = self.turn(cancel).await?;
        // Another may have encoded it meanwhile.
        Ok(self.kept(source).map_or(Found::Turn(turn), Found::Kept))
    }

    fn kept(&self, source: &Source) -> Option<SoftTokens> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(source).map(|kept| kept.soft.clone())
    }

    /// Waits until no other run is under way, unless `cancel` is cancelled.
    pub(crate) async fn turn(&self, cancel: &CancelToken) -> Result<Turn<'_>> {
        cancel.check(WAITING)?;
        Ok(Turn { tower: self, graphs: cancel.unless(WAITING, self.graphs.lock()).await? })
    }

    /// How its graphs are compiled.
    pub(crate) fn profile(&self) -> &CompileProfile {
        &self.profile
    }

    /// The graph for `size`.
    pub(crate) fn build(&self, size: usize) -> Result<BuiltModel> {
        (self.flow)(size)?.build(&mut self.loader.clone())
    }

    fn compile(&self, built: &BuiltModel, scratch: &mut ScratchPool, cancel: &CancelToken) -> Result<CompiledGraph> {
        let options = CompileOptions::default().with_weights(&self.weights).with_profile(&self.profile);
        self.session.compile_into(&built.graph, &options, scratch, cancel)
    }
}

/// What a tower has of a source.
pub(crate) enum Found<'t> {
    /// Its soft tokens.
    Kept(SoftTokens),
    /// Nothing; nobody else encodes it.
    Turn(Turn<'t>),
}

/// The tower, and nobody else runs it.
pub(crate) struct Turn<'t> {
    tower: &'t Tower,
    graphs: async_lock::MutexGuard<'t, Graphs>,
}

impl Turn<'_> {
    /// The outputs of the graph for `size`, and the values of nodes by their labels, unless `cancel` is cancelled
    /// before they are there.
    pub(crate) async fn run(
        &mut self,
        size: usize,
        inputs: &TowerInputs,
        labels: &[&str],
        cancel: &CancelToken,
    ) -> Result<Vec<(String, Value)>> {
        let given: Vec<(&str, RunInput)> = inputs.iter().map(|(name, input)| (*name, RunInput::Value(input))).collect();
        let Self { tower, graphs } = self;
        let Graphs { compiled, scratch } = &mut **graphs;
        let bound = SubmitBound { most: tower.submit_time, cancel: cancel.clone() };
        if !labels.is_empty() {
            let built = tower.build(size)?.with_extra_hir_outputs(labels.iter().copied())?;
            return tower.compile(&built, scratch, cancel)?.run_within(&given, &bound).await;
        }
        let graph = compiled.get_or_try_insert(&size, || tower.compile(&tower.build(size)?, scratch, cancel))?;
        graph.run_within(&given, &bound).await
    }

    /// Keeps soft tokens for the next who asks for them.
    pub(crate) fn keep(&self, source: &Source, soft: &SoftTokens) -> Result<()> {
        let gpu = self.tower.session.context().filter(|_| self.tower.kept_on_device);
        // Without room on the device they are uploaded with each prompt.
        let told = |error: &Error| tracing::debug!(%error, "soft tokens are kept on the host alone");
        let copy = || gpu.and_then(|gpu| DeviceRows::keep(gpu, soft).inspect_err(told).ok());
        let bytes = |soft: &SoftTokens| size_of_val(soft.values());
        let mut kept = self.tower.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.tower.kept_bytes.saturating_sub(bytes(soft));
        while kept.values().map(|kept| bytes(&kept.soft)).sum::<usize>() > most && kept.drop_oldest() {}
        kept.get_or_try_insert(source, || Ok(Kept { soft: soft.clone(), _copy: copy() })).map(|_| ())
    }
}
