//! The generator on the CPU reference.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    Engine, Model, ModelStats, PREFILL_CHUNK, PlanPolicy, Profiles, SampleOpts, Sampled, Want, engine::positions,
    sample_token_after,
};
use crate::{
    Error, Result,
    ir::{
        DType, Data, DimBinding, Op, PassReport, Value,
        derive::Inputs,
        ops::{DEAD_KEY, Role, rope_rows},
        passes::prepare_reference,
        sym,
    },
    reference,
    runtime::{CacheStats, Clock, CounterSnapshot, PipelineBlob, RunTimes},
};

#[derive(Clone)]
pub(crate) struct ReferenceEngine {
    model: Arc<Model>,
    caches: BTreeMap<String, Value>,
    rows: usize,
    policy: PlanPolicy,
    profiles: Profiles,
    chunk: usize,
    /// Rows of the rings.
    ring: usize,
    /// Logits of the run that was begun and not finished.
    begun: Vec<f32>,
}

impl ReferenceEngine {
    pub(crate) fn new(model: Model, profiles: Profiles, chunk: Option<usize>) -> Result<Self> {
        let (policy, chunk) = (PlanPolicy::default(), chunk.unwrap_or(PREFILL_CHUNK));
        let ring = model.ring(chunk)?;
        Ok(Self { model: Arc::new(model), caches: BTreeMap::new(), rows: 0, policy, profiles, chunk, ring, begun: Vec::new() })
    }

    fn execute(&mut self, tokens: &[u32], start: usize, resident: bool, want: Want) -> Result<Vec<f32>> {
        if resident {
            self.reserve(start + tokens.len())?;
        }
        let rows = tokens.len();
        let binding = DimBinding::new().with(sym::SEQ, rows).with(sym::CACHE, self.rows).with(sym::RING, self.ring);
        let built = self.model.built(resident, want, self.profiles.kv())?;
        let options = self.profiles.of(resident, rows).options("cpu");
        let graph = prepare_reference(&built.graph, &options, &mut PassReport::default())?;
        let mut values = Inputs::new();
        for node in graph.nodes() {
            let Op::Input(input) = &node.op else { continue };
            let shape = input.ty.shape.bind(&binding)?;
            let value = match &input.role {
                Role::Positions(_) => Value::i32(shape, positions(start, rows)),
                Role::RopeTable(table) => Value::f32(shape, rope_rows(&table.inv_freq, start, rows)),
                Role::Cache => resized(self.caches.remove(&input.name), shape, input.ty.dtype),
                Role::Caller if input.name == "last_token_idx" => Value::u32(shape, vec![rows as u32 - 1]),
                Role::Caller => Value::u32(shape, tokens.to_vec()),
                // Graphs of the generator have none of these.
                Role::Optional | Role::KeyPositions { .. } | Role::LastToken(_) => continue,
            };
            values.insert(input.name.clone(), Rc::new(value));
        }
        let mut outcome = match reference::run(&graph, &binding, &values, &built.params) {
            Ok(outcome) => outcome,
            Err(error) => {
                // Nothing is lost: the caches are as they were.
                let caches = values.into_iter().filter(|(name, _)| name.starts_with("cache."));
                self.caches.extend(caches.map(|(name, value)| (name, Value::clone(&value))));
                return Err(error);
            }
        };
        self.caches.extend(outcome.caches);
        match (want, outcome.outputs.drain(..).next().map(|(_, value)| value.data)) {
            (Want::Last | Want::All, Some(Data::F32(logits))) => Ok(logits),
            _ => Ok(Vec::new()),
        }
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

impl Engine for ReferenceEngine {
    fn run(&mut self, tokens: &[u32], start: usize, want: Want) -> Result<Vec<f32>> {
        self.execute(tokens, start, true, want)
    }

    fn begin(&mut self, history: &[u32], start: usize, _: &SampleOpts) -> Result<()> {
        self.begun = self.execute(&history[start..], start, true, Want::Last)?;
        Ok(())
    }

    fn begin_next(&mut self, _: usize, _: &SampleOpts) -> Result<bool> {
        Ok(false)
    }

    fn finish(&mut self, history: &[u32], opts: &SampleOpts) -> Result<Sampled> {
        let logits = std::mem::take(&mut self.begun);
        Ok(Sampled { token: sample_token_after(&logits, opts, history)?, bytes_read: 0, foreseen: false })
    }

    fn forget(&mut self) {
        self.begun = Vec::new();
    }

    fn time_run(&mut self, _: &[u32], _: usize, _: usize, _: Option<Clock>) -> Result<RunTimes> {
        Err(Error::Unsupported("timing dispatches on the CPU reference, which has none".into()))
    }

    fn recompute(&mut self, tokens: &[u32], want: Want) -> Result<Vec<f32>> {
        self.execute(tokens, 0, false, want)
    }

    fn reserve(&mut self, rows: usize) -> Result<()> {
        self.rows = self.rows.max(self.policy.reserved(rows));
        Ok(())
    }

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

    fn another(&self) -> Box<dyn Engine> {
        Box::new(Self { caches: BTreeMap::new(), rows: 0, ..self.clone() })
    }

    fn fork(&self) -> Result<Box<dyn Engine>> {
        Ok(Box::new(self.clone()))
    }

    fn chunk(&self, _: Want) -> usize {
        self.chunk
    }

    fn largest_chunk(&self) -> usize {
        self.chunk
    }

    fn stats(&self) -> ModelStats {
        let cache_bytes = self.caches.values().filter_map(|v| Some((v.len() * v.dtype().scalar_bytes()?) as u64)).sum();
        ModelStats { device: "CPU reference".into(), cache_bytes, ..ModelStats::default() }
    }

    fn plan_stats(&self) -> (CacheStats, CacheStats) {
        Default::default()
    }

    fn counters(&self) -> Option<CounterSnapshot> {
        None
    }

    fn pipeline_cache_bytes(&self) -> Option<Vec<u8>> {
        None
    }

    fn pipeline_blob(&self) -> PipelineBlob {
        PipelineBlob::None
    }
}
