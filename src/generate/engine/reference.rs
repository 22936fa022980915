//! The generator on the CPU reference.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    CacheRow, CacheStore, CancelToken, DraftModel, Engine, GraphKey, LogitsView, MOST_LOGITS, ModelGraphs, ModelStats, Outputs,
    PREFILL_CHUNK, PlanPolicy, Profiles, RingCopy, Run, SampleOpts, Sampled, Sequence, sample_after_draft, sample_token_after,
};
use crate::{
    Error, Result,
    error::GraphError,
    flow::BuiltModel,
    gemma::HIDDEN,
    ir::{
        DType, Data, DimBinding, PassReport, Value,
        derive::Inputs,
        ops::{DEAD_KEY, Role},
        passes::prepare_reference,
        sym,
    },
    reference,
    runtime::{CacheStats, Clock, GpuContext, Pending, RunTimes, RunTokens},
};

/// Its name among devices.
const REFERENCE: &str = "CPU reference";

#[derive(Clone)]
pub(crate) struct ReferenceEngine {
    model: Arc<ModelGraphs>,
    caches: BTreeMap<String, Value>,
    rows: usize,
    policy: PlanPolicy,
    profiles: Profiles,
    chunk: usize,
    /// Rows of the rings.
    ring: usize,
    /// Logits of the run that was begun and not finished.
    begun: Vec<f32>,
    drafter: Option<Arc<DraftModel>>,
    hidden: Hidden,
    /// Ends a run between two reads of a weight.
    cancel: CancelToken,
}

/// The hidden states that a drafter starts from.
#[derive(Clone, Default)]
struct Hidden {
    /// Tokens of the text that the first row chose the next token of.
    first: usize,
    /// `[rows, B]`.
    values: Vec<f32>,
}

impl ReferenceEngine {
    pub(crate) fn new(model: Arc<ModelGraphs>, profiles: Profiles, chunk: Option<usize>) -> Result<Self> {
        let policy = PlanPolicy::default();
        let chunk = chunk.unwrap_or(PREFILL_CHUNK);
        let ring = model.ring(chunk)?;
        let caches = BTreeMap::new();
        let begun = Vec::new();
        let weights = model.built(true, Outputs::All, DType::F32)?;
        // Weights stay in their file until a product needs them.
        let bytes = || weights.params.values().map(|tensor| tensor.byte_len() as u64).sum::<u64>();
        tracing::debug_span!("load", device = REFERENCE, tensors = weights.params.len(), bytes = bytes()).in_scope(|| ());
        let hidden = Hidden::default();
        let cancel = CancelToken::new();
        Ok(Self { model, caches, rows: 0, policy, profiles, chunk, ring, begun, drafter: None, hidden, cancel })
    }

    /// As [`Engine::read_cache`].
    pub(super) fn read_rows(&self, name: &str, row: CacheRow, rows: usize) -> Vec<u8> {
        let mut bytes = self.caches.get(name).map_or(Vec::new(), |value| value.bytes().to_vec());
        bytes.resize(if row.slides { self.ring } else { rows } * row.bytes, 0);
        bytes
    }

    /// Runs the tokens, over the caches if `resident`, and gives the logits that are wanted.
    pub(super) fn execute(&mut self, run: RunTokens, resident: bool, want: Outputs) -> Result<Vec<f32>> {
        if resident {
            self.reserve(run.end())?;
        }
        let key = GraphKey::new(resident, want, self.profiles.kv());
        let built = self.model.built_for(GraphKey { hidden: self.drafter.is_some(), soft: run.has_soft(), ..key })?;
        let mut outputs = self.outputs(&built, resident, run, &[])?.into_iter();
        if want == Outputs::Nothing {
            return Ok(Vec::new());
        }
        let logits = outputs.next().unwrap_or_default();
        if let Some(values) = outputs.next() {
            let first = if want == Outputs::Last { run.end() } else { run.start + 1 };
            self.hidden = Hidden { first, values };
        }
        Ok(logits)
    }

    /// Runs a graph over tokens; `hidden` is for a drafter's.
    fn outputs(&mut self, built: &BuiltModel, resident: bool, run: RunTokens, hidden: &[f32]) -> Result<Vec<Vec<f32>>> {
        let rows = run.tokens.len();
        let binding = DimBinding::new().with(sym::SEQ, rows).with(sym::CACHE, self.rows).with(sym::RING, self.ring);
        let options = self.profiles.of(resident, rows).options("cpu");
        let graph = prepare_reference(&built.graph, &options, &mut PassReport::default())?;
        let mut values = Inputs::new();
        for (_, input) in graph.inputs() {
            let shape = || input.ty.shape.bind(&binding);
            let value = match &input.role {
                Role::Cache => resized(self.caches.remove(&input.name), shape()?, input.ty.dtype),
                Role::Caller if input.name == HIDDEN => Value::f32(shape()?, hidden.to_vec()),
                _ => match run.input(input, self.model.pad(), &binding, &built.params)? {
                    Some(value) => value,
                    None => continue,
                },
            };
            values.insert(input.name.clone(), Arc::new(value));
        }
        let outputs = reference::run_unless(&graph, &binding, &mut values, &built.params, &self.cancel);
        let caches = values.into_iter().filter(|(name, _)| name.starts_with("cache."));
        self.caches.extend(caches.map(|(name, value)| (name, Arc::unwrap_or_clone(value))));
        let numbers = |(_, value): (String, Value)| if let Data::F32(numbers) = value.data { numbers } else { Vec::new() };
        Ok(outputs?.into_iter().map(numbers).collect())
    }
}

/// A cache with as many rows as `shape` says: the old rows, then dead ones.
fn resized(old: Option<Value>, shape: Vec<usize>, dtype: DType) -> Value {
    let len = shape.iter().product();
    match (dtype, old.map(|v| v.data)) {
        (DType::I32, Some(Data::I32(mut rows))) => {
            rows.resize(len, DEAD_KEY);
            Value::i32(shape, rows)
        }
        (DType::I32, _) => Value::i32(shape, vec![DEAD_KEY; len]),
        (_, Some(Data::F32(mut rows))) => {
            rows.resize(len, 0.0);
            Value::f32(shape, rows)
        }
        (DType::F16, Some(Data::F16(mut rows))) => {
            rows.resize(len, Value::narrow(0.0));
            Value { shape, data: Data::F16(rows) }
        }
        (DType::F16, _) => Value::f16(shape, &vec![0.0; len]),
        _ => Value::f32(shape, vec![0.0; len]),
    }
}

impl Run for ReferenceEngine {
    fn begin_rows(&mut self, run: RunTokens) -> Result<()> {
        self.execute(run, true, Outputs::Nothing).map(drop)
    }

    fn begin(&mut self, run: RunTokens, _: &SampleOpts) -> Result<()> {
        self.begun = self.execute(run, true, Outputs::Last)?;
        Ok(())
    }

    fn begin_next(&mut self, _: usize, _: &SampleOpts) -> Result<bool> {
        Ok(false)
    }

    fn finish(&mut self, history: &[u32], opts: &SampleOpts) -> Result<Sampled> {
        let logits = std::mem::take(&mut self.begun);
        Ok(Sampled { token: sample_token_after(&logits, opts, history)?, bytes_read: 0, predicted: false })
    }

    fn begin_view(&mut self, run: RunTokens, _: f32) -> Result<()> {
        self.begin(run, &SampleOpts::greedy())
    }

    fn view_logits(&mut self, _: &[u32]) -> Result<LogitsView> {
        Ok(LogitsView::Full(std::mem::take(&mut self.begun)))
    }

    fn full_logits(&mut self) -> Result<Vec<f32>> {
        Err(Error::Graph(GraphError::Malformed { graph: "gemma_resident".into(), problem: "its row was handed over".into() }))
    }

    fn forget(&mut self) {
        (self.begun, self.hidden) = (Vec::new(), Hidden::default());
    }

    fn time_run(&mut self, _: RunTokens, _: usize, _: Option<Clock>) -> Result<RunTimes> {
        Err(Error::Unsupported("timing dispatches on the CPU reference, which has none".into()))
    }

    fn cancel_token(&mut self) -> &mut CancelToken {
        &mut self.cancel
    }

    fn pending(&self) -> Option<Pending> {
        None
    }

    fn chunk(&self, _: Outputs) -> usize {
        self.chunk
    }

    fn rows_at_once(&self) -> usize {
        (MOST_LOGITS / (self.model.config.vocab_size as u64 * 4)).max(1) as usize
    }

    fn largest_chunk(&self) -> usize {
        self.chunk
    }
}

impl CacheStore for ReferenceEngine {
    fn reserve(&mut self, rows: usize) -> Result<()> {
        self.rows = self.rows.max(self.policy.reserved(rows));
        Ok(())
    }

    fn copy_rings(&self) -> Result<RingCopy> {
        let rows = self.model.caches(self.profiles.kv())?;
        let rings = self.caches.iter().filter(|(name, _)| rows.get(*name).is_some_and(|row| row.slides));
        Ok(RingCopy::Host(rings.map(|(name, value)| (name.clone(), value.clone())).collect()))
    }

    fn put_rings(&mut self, copy: &RingCopy) -> Result<()> {
        self.forget();
        match copy {
            RingCopy::Host(rings) => self.caches.extend(rings.clone()),
            RingCopy::Device(_) => return Err(Error::Unsupported("putting a device's caches on the reference".into())),
        }
        Ok(())
    }

    fn write_caches(&mut self, rows: usize, source: &mut dyn FnMut(&str, &mut [u8]) -> Result<()>) -> Result<()> {
        self.forget();
        self.reserve(rows)?;
        let built = self.model.built(true, Outputs::Nothing, self.profiles.kv())?;
        let binding = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, self.rows).with(sym::RING, self.ring);
        let mut caches = BTreeMap::new();
        for (name, row) in self.model.caches(self.profiles.kv())? {
            let Some((_, input)) = built.graph.inputs().find(|(_, input)| input.name == name) else { continue };
            let mut value = resized(None, input.ty.shape.bind(&binding)?, input.ty.dtype);
            let live = if row.slides { self.ring } else { rows } * row.bytes;
            source(&name, &mut value.data.bytes_mut()[..live])?;
            caches.insert(name, value);
        }
        self.caches = caches;
        Ok(())
    }
}

/// As [`Engine`] has them.
impl ReferenceEngine {
    pub(super) fn verify(&mut self, history: &[u32], drafted: &[u32], opts: &SampleOpts) -> Result<Vec<u32>> {
        self.forget();
        let start = history.len() - 1;
        let logits = self.execute(RunTokens::text(&[&history[start..], drafted].concat(), start), true, Outputs::Each)?;
        let rows: Vec<&[f32]> = logits.chunks(self.model.config.vocab_size).collect();
        let mut chosen = Vec::new();
        for (known, row) in rows.into_iter().enumerate() {
            let token = sample_after_draft(row, opts, history, &drafted[..known])?;
            chosen.push(token);
            if drafted.get(known) != Some(&token) {
                break;
            }
        }
        Ok(chosen)
    }

    pub(super) fn set_drafter(&mut self, drafter: &Arc<DraftModel>) -> Result<()> {
        drafter.built(&self.model, self.profiles.kv())?;
        (self.drafter, self.hidden) = (Some(drafter.clone()), Hidden::default());
        Ok(())
    }

    pub(super) fn draft(&mut self, history: &[u32], count: usize) -> Result<Vec<u32>> {
        let (Some(drafter), Some((last, before))) = (self.drafter.clone(), history.split_last()) else { return Ok(Vec::new()) };
        let width = drafter.config.backbone_hidden_size;
        // The row that chose the last token.
        let row = before.len().checked_sub(self.hidden.first).and_then(|row| self.hidden.values.chunks(width).nth(row));
        let (Some(mut hidden), Some(position)) = (row.map(<[f32]>::to_vec), before.len().checked_sub(1)) else {
            return Ok(Vec::new());
        };
        let built = drafter.built(&self.model, self.profiles.kv())?;
        let mut drafted = Vec::new();
        let mut token = *last;
        while drafted.len() < count {
            let mut outputs = self.outputs(&built, true, RunTokens::text(&[token], position), &hidden)?.into_iter();
            hidden = outputs.next().unwrap_or_default();
            let logits = outputs.next().unwrap_or_default();
            let chosen = drafter.order.as_ref().and_then(|order| order.likeliest(&logits, &outputs.next().unwrap_or_default()));
            token = match chosen {
                Some(token) => token,
                None => sample_token_after(&logits, &SampleOpts::greedy(), &[])?,
            };
            drafted.push(token);
        }
        Ok(drafted)
    }
}

impl Sequence for ReferenceEngine {
    fn policy(&self) -> PlanPolicy {
        self.policy
    }

    fn set_policy(&mut self, policy: PlanPolicy) {
        self.policy = policy;
    }

    fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    fn set_profiles(&mut self, profiles: Profiles) -> Result<()> {
        (self.caches, self.rows, self.profiles) = (BTreeMap::new(), 0, profiles);
        Ok(())
    }

    fn another(&self) -> Engine {
        Self { caches: BTreeMap::new(), rows: 0, cancel: CancelToken::new(), ..self.clone() }.into()
    }

    fn fork(&self) -> Result<Engine> {
        Ok(Self { cancel: CancelToken::new(), ..self.clone() }.into())
    }

    fn context(&self) -> Option<&Arc<GpuContext>> {
        None
    }

    fn model(&self) -> &Arc<ModelGraphs> {
        &self.model
    }

    fn stats(&self) -> ModelStats {
        let cache_bytes = self.caches.values().filter_map(|v| Some((v.len() * v.dtype().scalar_bytes()?) as u64)).sum();
        ModelStats { device: REFERENCE.into(), cache_bytes, ..ModelStats::default() }
    }

    fn plan_stats(&self) -> (CacheStats, CacheStats) {
        Default::default()
    }
}

#[cfg(test)]
mod tests;
