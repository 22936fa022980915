//! What the generator asks of a device.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use super::{CancelToken, DraftModel, PlanPolicy, Profiles, SampleOpts, ShortList, sample_token_after};
use crate::{
    Error, Result,
    flow::{BuiltModel, ModelParams},
    gemma::{GemmaConfig, GemmaFlow, WeightPosition},
    ir::{
        DType, Graph, MaskKind, Node, Op, Value,
        ops::{Input, Role},
    },
    profile::{CompileProfile, Precision},
    runtime::{Buffer, CacheStats, Clock, CounterSnapshot, GpuContext, GpuEngine, Pending, PipelineBlob, RunTimes},
    weights::{Tensor, WeightLoader, WeightMap},
};

/// Most tokens of one prefill submit, unless [`GeneratorOptions`](super::GeneratorOptions) say otherwise.
pub const PREFILL_CHUNK: usize = 128;

/// Rows of the smallest cache, unless [`with_decode_cache`](super::GemmaGenerator::with_decode_cache) says otherwise.
pub const SMALLEST_BUCKET: usize = 256;

/// Changes the flow of every graph of a model, such as with a [`layer`](GemmaFlow::layer) hook.
pub type FlowHook = Arc<dyn for<'a> Fn(GemmaFlow<'a>) -> GemmaFlow<'a> + Send + Sync>;

/// Most bytes of logits that one run makes, unless one row has more.
pub(crate) const MOST_LOGITS: u64 = 256 << 20;

/// The hidden state that the head reads, by its label in the graph: `[B, T, D]`.
pub(crate) const FINAL_NORM: &str = "final_norm";

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Want {
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
    /// Whether the device chose the same, so that a run begun after it is the right one.
    pub(crate) foreseen: bool,
}

/// The logits of a run, as far as a look at them goes.
pub(crate) enum Looked {
    /// All of them `[V]`.
    Row(Vec<f32>),
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
    /// Bytes of weights that one decode step reads (all but the rows of the embedding that are not looked up, and experts that are not
    /// chosen).
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

/// What one sequence needs of a device: the model, shared with other engines, and caches and plans of its own.
pub(crate) trait Engine: Send {
    /// Runs `tokens` at the positions from `start` on, writes their cache rows, and returns logits: none, `[V]`, or `[T, V]`.
    /// Rows of earlier positions must be in the cache.
    fn run(&mut self, tokens: &[u32], start: usize, want: Want) -> Result<Vec<f32>>;

    /// As [`run`](Self::run) for the rows alone, of which no more than a first slice need be submitted: they are there when no
    /// [slices are left](Self::slices_left).
    fn begin_rows(&mut self, tokens: &[u32], start: usize) -> Result<()> {
        self.run(tokens, start, Want::Nothing).map(|_| ())
    }

    /// Whether slices of the run that was begun last are left to submit, by [`go_on`](Self::go_on) or not at all.
    fn slices_left(&self) -> bool {
        false
    }

    /// Submits the next slice, if one is left, when the one before is done.
    fn go_on(&mut self) -> Result<()> {
        Ok(())
    }

    /// As [`run`](Self::run) for the tokens of `history` from `start` on, to choose the token that follows `history`; drops what was
    /// begun before and not finished. No more than a first slice need be submitted.
    fn begin(&mut self, history: &[u32], start: usize, opts: &SampleOpts) -> Result<()>;

    /// Begins to run the token at `position`, which is the one that the device will choose in the run begun last, to choose the one
    /// after it. `false` where only the host can choose.
    fn begin_next(&mut self, position: usize, opts: &SampleOpts) -> Result<bool>;

    /// Waits for the run that was begun first, submitting what slices are left of it: the token that follows `history`. Where the device
    /// did not foresee it, what was begun after that run is to be begun again.
    fn finish(&mut self, history: &[u32], opts: &SampleOpts) -> Result<Sampled>;

    /// As [`begin`](Self::begin), to [`look`](Self::look) at the logits that choose the token after `history`. A list then has the sum at
    /// `temperature`.
    fn begin_look(&mut self, history: &[u32], start: usize, temperature: f32) -> Result<()>;

    /// As [`finish`](Self::finish) waits for the run of [`begin_look`](Self::begin_look); the logits of `ids`, none of them outside of
    /// the vocabulary, are wanted in any case.
    fn look(&mut self, ids: &[u32]) -> Result<Looked>;

    /// All logits of the run that [`look`](Self::look) gave a list of, until the next run.
    fn whole_row(&mut self) -> Result<Vec<f32>>;

    /// Runs the last token of `history`, all others being in the cache, and `drafted` ones after it: the tokens that follow `history`, as
    /// far as they were drafted, and the one after those. Drops what was begun.
    fn verify(&mut self, history: &[u32], drafted: &[u32], opts: &SampleOpts) -> Result<Vec<u32>>;

    /// Puts a drafter on the device, to go on from what later runs leave. After an error everything is as it was.
    fn set_drafter(&mut self, drafter: &Arc<DraftModel>) -> Result<()>;

    /// Up to `count` tokens that the drafter takes for likely after `history`, whose rows but the last are in the cache; none where no run
    /// chose the last token of it.
    fn draft(&mut self, history: &[u32], count: usize) -> Result<Vec<u32>>;

    /// Drops what was begun and not finished, and what a drafter would go on from. What was written into the caches stays.
    fn forget(&mut self);

    /// Times the dispatches of the run that [`begin`](Self::begin) makes, greedily; changes no row but its own.
    fn time_run(&mut self, history: &[u32], start: usize, reps: usize, clock: Option<Clock>) -> Result<RunTimes>;

    /// Runs a whole sequence without caches.
    fn recompute(&mut self, tokens: &[u32], want: Want) -> Result<Vec<f32>>;

    /// Makes the caches large enough for `rows` positions, or more where the policy says so.
    fn reserve(&mut self, rows: usize) -> Result<()>;

    /// Which plans serve which run.
    fn policy(&self) -> PlanPolicy;

    /// Drops all plans and uses others from now on.
    fn set_policy(&mut self, policy: PlanPolicy);

    /// What ends its waits for the device, and its work on the host, with [`Error::Cancelled`]. Rows and what was begun are then as
    /// after any other error; a submit under way runs to its end, which the next run waits for.
    fn cancel_token(&mut self) -> &mut CancelToken;

    /// How its graphs are compiled.
    fn profiles(&self) -> &Profiles;

    /// Drops all plans and all rows and compiles otherwise from now on. After an error everything is as it was.
    fn set_profiles(&mut self, profiles: Profiles) -> Result<()>;

    /// Another engine on the same weights, with the same policy and profiles and no rows.
    fn another(&self) -> Box<dyn Engine>;

    /// As [`another`](Self::another), with a copy of the caches.
    fn fork(&self) -> Result<Box<dyn Engine>>;

    /// A copy of the sliding layers' caches, after all that was begun.
    fn copy_rings(&self) -> Result<RingCopy>;

    /// Puts a copy that was made by this engine or another of its model in place of the sliding layers' caches.
    fn put_rings(&mut self, copy: &RingCopy) -> Result<()>;

    /// Hands over the bytes of each cache by its name: the first `rows` rows of those that grow, and rings whole.
    fn read_caches(&mut self, rows: usize, sink: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>;

    /// Takes what [`read_caches`](Self::read_caches) gave, of each cache in the same order.
    fn write_caches(&mut self, rows: usize, source: &mut dyn FnMut(&str, &mut [u8]) -> Result<()>) -> Result<()>;

    /// What the next call would wait for; none where it would not, and on the reference.
    fn pending(&self) -> Option<Pending>;

    /// The GPU; none on the reference.
    fn context(&self) -> Option<&Arc<GpuContext>>;

    /// The model, from which an engine on another device can be made.
    fn model(&self) -> &Arc<Model>;

    /// Most tokens that the next run for `want` should have: what the device does in a bounded time and can bind.
    fn chunk(&self, want: Want) -> usize;

    /// Most tokens that a run without caches should have which gives the logits of all: what can be bound, and [`MOST_LOGITS`].
    fn rows_at_once(&self) -> usize;

    /// Most tokens that any run has.
    fn largest_chunk(&self) -> usize;

    /// The engine where it runs on a GPU, which takes a step of several sequences in one pass.
    fn on_device(&mut self) -> Option<&mut GpuEngine> {
        None
    }

    /// Sizes.
    fn stats(&self) -> ModelStats;

    /// What the plans for several tokens and those for single ones have done.
    fn plan_stats(&self) -> (CacheStats, CacheStats);

    /// The device's totals; none on the reference.
    fn counters(&self) -> Option<CounterSnapshot>;

    /// The compiled pipelines as bytes, where the driver hands them out.
    fn pipeline_cache_bytes(&self) -> Option<Vec<u8>>;

    /// What became of the bytes given at the start.
    fn pipeline_blob(&self) -> PipelineBlob;
}

/// Whether caches are resident, what is wanted, the type of keys and values, and whether a drafter goes on from it.
type GraphKey = (bool, Want, DType, bool);

/// The graphs of a model, built when they are first needed.
pub(crate) struct Model {
    pub(crate) config: GemmaConfig,
    pub(super) weights: WeightMap,
    flow: Option<FlowHook>,
    /// Whether the tables that each layer has of its own stay on the host.
    pub(crate) host_tables: bool,
    built: Mutex<BTreeMap<GraphKey, Arc<BuiltModel>>>,
}

impl Model {
    /// Takes all that is left in the loader. Whether the head is the embedding is as the weights say.
    pub(crate) fn new(mut config: GemmaConfig, loader: &mut dyn WeightLoader, flow: Option<FlowHook>) -> Result<Self> {
        config.validate()?;
        config.settle_head(loader)?;
        let weights = WeightMap::take_all(loader)?.kept();
        Ok(Self { config, weights, flow, host_tables: false, built: Mutex::default() })
    }

    /// The same model with the tables that each layer has of its own on the host.
    pub(crate) fn with_host_tables(self) -> Self {
        let host_tables = self.config.per_layer_input.is_some();
        Self { host_tables, built: Mutex::default(), ..self }
    }

    /// Warns of weights that the model does not use and that are not known to be of no use.
    ///
    /// # Errors
    /// As [`built`](Self::built).
    pub(super) fn tell_unused(&self) -> Result<()> {
        let built = self.built(true, Want::All, DType::F32)?;
        let used: BTreeSet<&str> = built.params.values().map(Tensor::name).collect();
        self.config.tell_unused(self.weights.remaining_keys().into_iter().filter(|key| !used.contains(key.as_str())));
        Ok(())
    }

    /// A weight by its position.
    pub(crate) fn weight(&self, position: WeightPosition) -> Result<Tensor> {
        let found = self.built(true, Want::All, DType::F32)?.params.get(&position.to_string()).cloned();
        found.ok_or_else(|| Error::MissingWeight { name: position.to_string(), nearest: None })
    }

    /// The graph for `want`, with caches of `kv` or without.
    pub(crate) fn built(&self, resident: bool, want: Want, kv: DType) -> Result<Arc<BuiltModel>> {
        self.built_for(resident, want, kv, false)
    }

    /// As [`built`](Self::built), and where `hidden` with what a drafter goes on from ([`FINAL_NORM`]) as a second output.
    pub(crate) fn built_for(&self, resident: bool, want: Want, kv: DType, hidden: bool) -> Result<Arc<BuiltModel>> {
        let want = if want == Want::Each { Want::All } else { want };
        let hidden = hidden && resident && want != Want::Nothing;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = built.get(&(resident, want, kv, hidden)) {
            return Ok(found.clone());
        }
        let flow = match resident {
            true => GemmaFlow::resident(&self.config),
            false => GemmaFlow::new(&self.config).dynamic_seq(),
        };
        let flow = match &self.flow {
            Some(change) => guarded(|| Ok(change(flow)))?,
            None => flow,
        };
        let flow = flow.host_tables(self.host_tables);
        if flow.has_profile() {
            let advice = "give it to the generator: GeneratorOptions::prefill_profile and decode_profile";
            return Err(Error::Builder(format!("a profile has no effect in with_flow; {advice}")));
        }
        let precision = Precision { kv, ..Precision::default() };
        let flow = flow.profile(CompileProfile { precision, ..CompileProfile::default() });
        let flow = match want {
            Want::Nothing => flow.hidden_only(),
            Want::Last => flow.last_token_logits(),
            Want::All | Want::Each => flow.lm_head(),
        };
        let made = guarded(|| flow.emit(&mut self.weights.clone()))?;
        let made = Arc::new(if hidden { made.with_extra_hir_outputs([FINAL_NORM])? } else { made });
        check_inputs(&made.graph)?;
        built.insert((resident, want, kv, hidden), made.clone());
        Ok(made)
    }

    /// Rows of a sliding layer's ring where runs have at most `chunk` tokens.
    pub(crate) fn ring(&self, chunk: usize) -> Result<usize> {
        Ok(self.window()?.unwrap_or(1) + chunk)
    }

    /// The largest window of any layer, in positions; `None` where every layer sees everything.
    pub(crate) fn window(&self) -> Result<Option<usize>> {
        let built = self.built(true, Want::All, DType::F32)?;
        let window = |node: &Node| match &node.op {
            Op::Input(Input { role: Role::Visible { mask: MaskKind::SlidingWindow(window), .. }, .. }) => Some(*window),
            _ => None,
        };
        Ok(built.graph.nodes().iter().filter_map(window).max())
    }
}

/// What a caller's hook or stage takes part in: its panic is an error.
fn guarded<T>(build: impl FnOnce() -> Result<T>) -> Result<T> {
    let built = catch_unwind(AssertUnwindSafe(build));
    built.unwrap_or_else(|panic| Err(Error::panicked("a hook or stage of the flow", panic.as_ref())))
}

/// Refuses inputs that a hook added: the generator has no values for them.
fn check_inputs(graph: &Graph) -> Result<()> {
    let own = |input: &&Input| !["input_ids", "last_token_idx"].contains(&input.name.as_str());
    let given = graph.inputs().map(|(_, input)| input).filter(|input| matches!(input.role, Role::Caller | Role::Optional));
    match given.filter(own).map(|input| &input.name).next() {
        Some(name) => {
            let advice = "use a stateless graph, or a weight of the stage's own (EmitContext::own_weight)";
            Err(Error::Builder(format!("the flow has the input '{name}', for which the generator has no value; {advice}")))
        }
        None => Ok(()),
    }
}

/// What `choose` gives after each of the first `drafted` tokens, none of them first: as far as it is the next of them, and one more.
pub(crate) fn agreed(drafted: &[u32], mut choose: impl FnMut(usize) -> Result<u32>) -> Result<Vec<u32>> {
    let mut chosen = Vec::new();
    for known in 0..=drafted.len() {
        let token = choose(known)?;
        chosen.push(token);
        if drafted.get(known) != Some(&token) {
            break;
        }
    }
    Ok(chosen)
}

/// The token that `opts` choose from a row of logits to follow `history` and `drafted`.
pub(crate) fn sample_after_draft(row: &[f32], opts: &SampleOpts, history: &[u32], drafted: &[u32]) -> Result<u32> {
    sample_token_after(row, opts, &[history, drafted].concat())
}

/// The rows of a table `[rows, width]` that tokens choose, the first for tokens that it does not have.
pub(crate) fn table_rows(params: &ModelParams, table: &str, tokens: &[u32]) -> Result<Vec<f32>> {
    let tensor = params.get(table).ok_or_else(|| Error::MissingWeight { name: table.into(), nearest: None })?;
    let [rows, width] = [0, 1].map(|axis| tensor.shape().get(axis).copied().unwrap_or(1));
    let mut values = vec![0.0; tokens.len() * width];
    for (token, row) in tokens.iter().zip(values.chunks_mut(width.max(1))) {
        let at = if (*token as usize) < rows { *token as usize } else { 0 };
        tensor.read_f32(at * width, row)?;
    }
    Ok(values)
}

/// The positions of `rows` tokens from `start` on.
pub(crate) fn positions(start: usize, rows: usize) -> Vec<i32> {
    (start..start + rows).map(|p| p as i32).collect()
}
