//! The generator on a GPU: resident weights and caches, plans prepared once a bucket, one submit a run.

mod caches;
mod inputs;
mod pace;

use std::{collections::HashMap, sync::Arc};

use caches::Caches;
use inputs::InputBlock;
use pace::Pace;

use super::{
    AdapterKind, Buffer, CounterSnapshot, GpuContext, ResidentWeight, UploadProgress, WeightUploader,
    pipeline::PipelineCache,
    prepared::{Bound, PreparedPlan, ScratchPool, Step},
    requirements::limit,
};
use crate::{
    Error, Result,
    flow::BuiltModel,
    generate::{
        Engine, Model, ModelStats, PREFILL_CHUNK, SHORT_LIST, SMALLEST_BUCKET, SampleOpts, Sampled, ShortList, Want, sample_token,
    },
    ir::{
        DimBinding, LowerOptions,
        kernel::{Target, row_shards},
        sym,
    },
    lower::lower,
    plan::{Plan, sampling},
};

/// The limit that kernels meet first, as wgpu names it.
const BINDING_LIMIT: &str = "max_storage_buffer_binding_size";

/// Which plan a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    resident: bool,
    want: Want,
    /// Capacity in new tokens.
    tokens: usize,
    /// Capacity of the linear caches in rows.
    rows: usize,
}

/// A prepared plan with the samplers that read its logits.
struct Ready {
    plan: PreparedPlan,
    /// Whether it has run: drivers may compile at the first run, whose time says nothing.
    warm: bool,
    samplers: Option<Samplers>,
}

struct Samplers {
    argmax: PreparedPlan,
    top_k: PreparedPlan,
}

/// One model on one GPU.
pub(crate) struct GpuEngine {
    context: Arc<GpuContext>,
    target: Target,
    pipelines: Arc<PipelineCache>,
    weights: Arc<HashMap<String, ResidentWeight>>,
    model: Model,
    caches: Caches,
    blocks: HashMap<usize, InputBlock>,
    plans: HashMap<PlanKey, Ready>,
    scratch: ScratchPool,
    sampler_scratch: ScratchPool,
    smallest: usize,
    pace: Pace,
    in_flight: Option<super::wgpu::SubmissionIndex>,
    dispatches_per_token: usize,
}

impl GpuEngine {
    /// Uploads the weights.
    pub(crate) fn new(
        context: Arc<GpuContext>,
        mut model: Model,
        chunk: Option<usize>,
        on_progress: Option<Box<dyn FnMut(UploadProgress) -> bool + Send>>,
    ) -> Result<Self> {
        let chunk = chunk.unwrap_or(PREFILL_CHUNK);
        let built = model.built(true, Want::All)?;
        let weights = Arc::new(upload(&context, built, on_progress)?);
        let ring = model.config.sliding_window.unwrap_or(1) + chunk;
        let elements: u64 = weights.values().map(|w| w.byte_len() / w.dtype.size() as u64).sum();
        let pace = Pace::new(chunk, elements, context.capabilities().kind == AdapterKind::Software);
        Ok(Self {
            target: context.capabilities().target(),
            pipelines: Arc::new(PipelineCache::new(&context, false)),
            caches: Caches::new(ring),
            context,
            weights,
            model,
            blocks: HashMap::new(),
            plans: HashMap::new(),
            scratch: ScratchPool::default(),
            sampler_scratch: ScratchPool::default(),
            smallest: SMALLEST_BUCKET,
            pace,
            in_flight: None,
            dispatches_per_token: 0,
        })
    }

    /// The bucket of a number of new tokens: 1, 4, 16, … up to the chunk.
    fn token_bucket(&self, tokens: usize, resident: bool) -> usize {
        let exponent = tokens.next_power_of_two().trailing_zeros().next_multiple_of(2);
        let bucket = 1usize << exponent;
        if resident { bucket.min(self.pace.largest()) } else { bucket }
    }

    /// Prepares the plan of a run, if it is new.
    fn prepare(&mut self, tokens: usize, end: usize, resident: bool, want: Want) -> Result<PlanKey> {
        let rows = if resident { end.next_power_of_two().max(self.smallest) } else { 0 };
        let key = PlanKey { resident, want, tokens: self.token_bucket(tokens, resident), rows };
        if resident && self.caches.rows() < rows {
            self.reserve(rows)?;
        }
        if self.plans.contains_key(&key) {
            return Ok(key);
        }
        let binding = DimBinding::new().with(sym::SEQ, key.tokens).with(sym::CACHE, rows).with(sym::RING, self.caches.ring());
        let built = self.model.built(resident, want)?;
        if resident {
            self.caches.allocate(&self.context, &built.graph, rows)?;
        }
        let weights = self.weights.clone();
        let shards = |name: &str| weights.get(name).map(|w| w.shards.iter().map(|s| s.rows.clone()).collect());
        let plan = lower(&built.graph, &binding, &self.target, &LowerOptions::default(), &shards)?;
        let block = match self.blocks.entry(key.tokens) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(InputBlock::new(&self.context, &self.model.config, key.tokens)?)
            }
        };
        let inputs = block.bindings().chain(self.caches.bindings()).collect();
        let bound = Bound { weights: &self.weights, inputs: &inputs, step: block.buffer() };
        let prepared = PreparedPlan::new(&self.pipelines, &plan, bound, &mut self.scratch)?;
        let samplers = match want {
            Want::Last => Some(self.samplers(&prepared, key.tokens)?),
            _ => None,
        };
        tracing::debug!(?key, dispatches = prepared.dispatch_count(), "plan prepared");
        if key.tokens == 1 && want == Want::Last {
            self.dispatches_per_token = prepared.dispatch_count() + samplers.as_ref().map_or(0, |s| s.argmax.dispatch_count());
        }
        self.plans.insert(key, Ready { plan: prepared, warm: false, samplers });
        Ok(key)
    }

    fn samplers(&mut self, prepared: &PreparedPlan, tokens: usize) -> Result<Samplers> {
        let (logits, offset, _) = output(prepared, "logits")?;
        let inputs = HashMap::from([("logits".to_string(), (logits.clone(), offset))]);
        let block = self.blocks.get(&tokens).ok_or_else(|| lost_plan("input block"))?;
        let bound = Bound { weights: &self.weights, inputs: &inputs, step: block.buffer() };
        let vocab_size = self.model.config.vocab_size;
        let mut make = |plan: Plan| PreparedPlan::new(&self.pipelines, &plan, bound, &mut self.sampler_scratch);
        let top = SHORT_LIST.min(vocab_size);
        Ok(Samplers {
            argmax: make(sampling::argmax(vocab_size, &self.target))?,
            top_k: make(sampling::top_k(vocab_size, top, &self.target))?,
        })
    }

    /// Writes the inputs, submits the plan and what follows it, and reads back `read` into `out`.
    fn submit(&mut self, key: PlanKey, tokens: &[u32], start: usize, follow: Follow, out: &mut Vec<u8>) -> Result<()> {
        if let Some(earlier) = self.in_flight.take() {
            self.context.wait(&earlier, "the previous prefill chunk")?;
            self.pace.finished();
        }
        let Ready { plan, warm, samplers } = self.plans.get_mut(&key).ok_or_else(|| lost_plan("plan"))?;
        let block = self.blocks.get_mut(&key.tokens).ok_or_else(|| lost_plan("input block"))?;
        let temperature = if let Follow::TopK(t) = follow { t } else { 1.0 };
        let end = if key.resident { (start + tokens.len()) as u32 } else { u32::MAX };
        let step = Step { rows: tokens.len() as u32, end, temperature, capacity: key.rows as u32, ..Step::all(0) };
        let graph = &self.model.built(key.resident, key.want)?.graph;
        block.write(&self.context, step, tokens, start, graph, key.resident)?;
        let sampler = samplers.as_ref().and_then(|s| match follow {
            Follow::Argmax => Some(&s.argmax),
            Follow::TopK(_) => Some(&s.top_k),
            Follow::Nothing | Follow::Logits => None,
        });
        let source = match (follow, sampler) {
            (Follow::Nothing, _) => None,
            (_, Some(sampler)) => Some(output(sampler, "token")?),
            (_, None) => Some(output(plan, "logits")?),
        };
        let mut staged = None;
        let submission = self.context.run("a run of the model", |encoder| {
            let mut pass = encoder.begin_compute_pass(&super::wgpu::ComputePassDescriptor::default());
            plan.record(&mut pass);
            if let Some(sampler) = sampler {
                sampler.record(&mut pass);
            }
            drop(pass);
            if let Some((buffer, offset, bytes)) = source {
                let live = if key.want == Want::All { bytes / key.tokens as u64 * tokens.len() as u64 } else { bytes };
                out.resize(live as usize, 0);
                staged = Some(self.context.stage_read(encoder, buffer, offset, live)?);
            }
            Ok(())
        })?;
        match staged {
            Some(staged) => self.context.collect(staged, &submission, out),
            None => {
                if std::mem::replace(warm, true) {
                    self.pace.started(tokens.len());
                }
                self.in_flight = Some(submission);
                Ok(())
            }
        }
    }

    fn logits(&mut self, tokens: &[u32], start: usize, resident: bool, want: Want) -> Result<Vec<f32>> {
        let key = self.prepare(tokens.len(), start + tokens.len(), resident, want)?;
        let follow = if want == Want::Nothing { Follow::Nothing } else { Follow::Logits };
        let mut bytes = Vec::new();
        self.submit(key, tokens, start, follow, &mut bytes)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

/// What runs after the plan, and what is read back.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Follow {
    Nothing,
    Logits,
    Argmax,
    TopK(f32),
}

impl Engine for GpuEngine {
    fn run(&mut self, tokens: &[u32], start: usize, want: Want) -> Result<Vec<f32>> {
        self.logits(tokens, start, true, want)
    }

    fn run_and_sample(&mut self, tokens: &[u32], start: usize, opts: &SampleOpts) -> Result<Sampled> {
        let key = self.prepare(tokens.len(), start + tokens.len(), true, Want::Last)?;
        let mut bytes = Vec::new();
        if opts.is_greedy() {
            self.submit(key, tokens, start, Follow::Argmax, &mut bytes)?;
            let token = bytemuck::pod_read_unaligned(&bytes);
            return Ok(Sampled { token, bytes_read: 4 });
        }
        self.submit(key, tokens, start, Follow::TopK(opts.divisor()), &mut bytes)?;
        let position = start + tokens.len();
        if let Some(token) = short_list(&bytes).choose(opts, position) {
            return Ok(Sampled { token, bytes_read: bytes.len() as u64 });
        }
        // The list's mass falls short of what the options ask for: the whole row decides.
        let ready = self.plans.get(&key).ok_or_else(|| lost_plan("plan"))?;
        let (buffer, offset, len) = output(&ready.plan, "logits")?;
        let mut row = vec![0u8; len as usize];
        self.context.read_back(buffer, offset, &mut row)?;
        let token = sample_token(&bytemuck::pod_collect_to_vec::<u8, f32>(&row), opts, position)?;
        Ok(Sampled { token, bytes_read: bytes.len() as u64 + len })
    }

    fn recompute(&mut self, tokens: &[u32], want: Want) -> Result<Vec<f32>> {
        self.logits(tokens, 0, false, want)
    }

    fn reserve(&mut self, rows: usize) -> Result<()> {
        let rows = rows.next_power_of_two().max(self.smallest);
        if rows > self.caches.rows() {
            let built = self.model.built(true, Want::Nothing)?;
            self.caches.allocate(&self.context, &built.graph, rows)?;
            // Their bind groups hold the smaller caches.
            self.plans.retain(|key, _| !key.resident);
        }
        Ok(())
    }

    fn set_smallest_bucket(&mut self, smallest: usize) {
        self.smallest = smallest;
    }

    fn chunk(&self, want: Want) -> usize {
        let row = self.model.config.vocab_size as u64 * 4;
        // A slot has 16 bytes more than its rows.
        let bindable = (self.target.max_binding.saturating_sub(16) / row).max(1) as usize;
        match want {
            Want::All => self.pace.chunk().min(pace::bucket_below(bindable)),
            Want::Nothing | Want::Last => self.pace.chunk(),
        }
    }

    fn largest_chunk(&self) -> usize {
        self.pace.largest()
    }

    fn stats(&self) -> ModelStats {
        let bytes = |name: &str| self.weights.get(name).map_or(0, ResidentWeight::byte_len);
        let weight_bytes: u64 = self.weights.values().map(ResidentWeight::byte_len).sum();
        let config = &self.model.config;
        let row = bytes("embed") / config.vocab_size as u64;
        let unread = if config.tie_word_embeddings { 0 } else { bytes("embed") - row };
        ModelStats {
            device: self.context.capabilities().adapter.clone(),
            weight_bytes,
            split_weights: self.weights.values().filter(|w| w.shards.len() > 1).count(),
            bytes_per_token: weight_bytes - unread,
            cache_bytes: self.caches.bytes(),
            dispatches_per_token: self.dispatches_per_token,
        }
    }

    fn counters(&self) -> Option<CounterSnapshot> {
        Some(self.context.counters().snapshot())
    }
}

fn upload(
    context: &Arc<GpuContext>,
    built: &BuiltModel,
    on_progress: Option<Box<dyn FnMut(UploadProgress) -> bool + Send>>,
) -> Result<HashMap<String, ResidentWeight>> {
    check_bindings(context, built)?;
    let mut uploader = WeightUploader::new(context)?;
    if let Some(on_progress) = on_progress {
        uploader = uploader.on_progress(on_progress);
    }
    uploader.reserve(built.params.values().map(|t| (t.dtype(), t.shape())))?;
    let upload = |(name, tensor): (&String, &crate::weights::Tensor)| Ok((name.clone(), uploader.upload(tensor)?));
    let weights = built.params.iter().map(upload).collect::<Result<_>>()?;
    uploader.finish()?;
    Ok(weights)
}

/// Refuses weights that no kernel could bind, before any of them travels: matrices are cut at multiples of 64 rows, the rest is
/// bound whole.
fn check_bindings(context: &GpuContext, built: &BuiltModel) -> Result<()> {
    let target = context.capabilities().target();
    for (name, tensor) in &built.params {
        let (whole, shape) = (tensor.byte_len() as u64, tensor.shape());
        let matrix = shape.len() == 2;
        let fits = match matrix {
            true => row_shards(tensor.dtype(), shape, target.max_binding).is_ok(),
            false => whole <= target.max_binding,
        };
        if !fits {
            let needed = if matrix { whole / shape[0] as u64 * shape[0].min(64) as u64 } else { whole };
            let part = if matrix { "64 rows of" } else { "all of" };
            let advice = format!("{part} the weight '{name}' must fit a binding: raise the limit or choose another adapter");
            return Err(limit(&context.capabilities().adapter, BINDING_LIMIT, target.max_binding, needed, &advice));
        }
    }
    Ok(())
}

/// Ids, logits, maximum and sum, as `shaders/top_k.wgsl` lays them out.
fn short_list(bytes: &[u8]) -> ShortList {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
    let top = (words.len() - 2) / 2;
    let entries = (0..top).map(|i| (words[i], f32::from_bits(words[top + i])));
    let total = f64::from(f32::from_bits(words[2 * top + 1]));
    ShortList { entries: entries.filter(|(id, _)| *id != u32::MAX).collect(), total, complete: false }
}

fn output<'a>(plan: &'a PreparedPlan, name: &str) -> Result<(&'a Arc<Buffer>, u64, u64)> {
    plan.output(name).ok_or_else(|| lost_plan(name))
}

/// What was prepared is there until it is dropped with its engine; this is for the type's sake.
fn lost_plan(what: &str) -> Error {
    Error::Graph { graph: "gemma_resident".into(), problem: format!("its {what} was not prepared") }
}
