//! Prepared plans, kept as long as the policy says.

use std::{collections::HashMap, sync::Arc};

use super::{
    caches::Caches,
    model::{GpuModel, LOGITS},
    run_plan::{Binding, RunPlan},
};
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::GraphError,
    generate::{GraphKey, Outputs, PlanPolicy, Profiles, SHORT_LIST},
    ir::{DimBinding, sym},
    plan::{Estimate, Live, estimate, sampling},
    runtime::{Buffer, CacheStats, Lru, PreparedPlan, ScratchPool},
};

/// Plans without caches that are kept: one for each kind of result.
const WHOLE_PLANS: usize = 3;

/// Which plan a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PlanKey {
    pub(super) resident: bool,
    pub(super) want: Outputs,
    /// With soft tokens among the tokens.
    pub(super) soft: bool,
    /// Capacity in new tokens.
    pub(super) tokens: usize,
    /// Capacity of the linear caches in rows.
    pub(super) rows: usize,
}

impl PlanKey {
    /// Rows of logits that a token can be chosen from.
    fn chosen(&self) -> usize {
        match self.want {
            Outputs::Last => 1,
            Outputs::Each => self.tokens,
            Outputs::Nothing | Outputs::All => 0,
        }
    }
}

/// A prepared plan with its inputs and the samplers that read its logits.
pub(super) struct Ready {
    pub(super) run: RunPlan,
    /// True if it has run: drivers may compile at the first run, whose time says nothing.
    pub(super) warm: bool,
    pub(super) samplers: Option<Samplers>,
    /// Of its dispatches, with full caches.
    pub(super) estimates: Arc<[Estimate]>,
}

pub(super) struct Samplers {
    pub(super) argmax: PreparedPlan,
    /// Made for the first draw: a greedy answer compiles nothing for it.
    pub(super) top_k: Option<PreparedPlan>,
}

/// Plans of one sort, which share their scratch buffers.
///
/// A buffer lives as long as a plan uses it. Where a plan outgrows one, the next has at least twice the size, so that
/// the sizes of one rank form a geometric row: all scratch together is at most four times that of the largest plan that
/// was made.
pub(super) struct PlanCache {
    plans: Lru<PlanKey, Ready>,
    scratch: ScratchPool,
    sampler_scratch: ScratchPool,
    compiles: u64,
}

impl PlanCache {
    fn new(capacity: usize) -> Self {
        let scratch = ScratchPool::default();
        let sampler_scratch = ScratchPool::default();
        Self { plans: Lru::new(capacity), scratch, sampler_scratch, compiles: 0 }
    }

    /// Prepares the plan, unless it is there. Plans that must go for it go first. With `hidden` the state that a
    /// drafter goes on from is an output too.
    pub(super) fn prepare(
        &mut self,
        key: PlanKey,
        model: &GpuModel,
        profiles: &Profiles,
        caches: &Caches,
        hidden: bool,
        cancel: &CancelToken,
    ) -> Result<()> {
        let Self { plans, scratch, sampler_scratch, compiles } = self;
        plans.get_or_try_insert(&key, || {
            *compiles += 1;
            make(key, model, profiles, caches, hidden, cancel, [scratch, sampler_scratch])
        })?;
        Ok(())
    }

    /// Prepares the sampler of draws from what the plan, which was prepared, gives; unless it is there.
    pub(super) fn prepare_draw(&mut self, key: &PlanKey, model: &GpuModel) -> Result<()> {
        let Self { plans, sampler_scratch, .. } = self;
        let Ready { run, samplers, .. } = plans.peek_mut(key).ok_or_else(|| lost_plan("plan"))?;
        if let Some(Samplers { top_k: top_k @ None, .. }) = samplers {
            let vocab_size = model.model.config.vocab_size;
            let plan = sampling::top_k(key.chosen(), vocab_size, SHORT_LIST.min(vocab_size), &model.target);
            *top_k = Some(run.sampler(model, &plan, sampler_scratch)?);
        }
        Ok(())
    }

    /// The plan that was prepared.
    pub(super) fn ready(&mut self, key: &PlanKey) -> Result<&mut Ready> {
        self.plans.peek_mut(key).ok_or_else(|| lost_plan("plan"))
    }

    pub(super) fn stats(&self) -> CacheStats {
        let both = |s: &Samplers| s.argmax.own_bytes() + s.top_k.as_ref().map_or(0, PreparedPlan::own_bytes);
        let samplers = |ready: &Ready| ready.samplers.as_ref().map_or(0, both);
        let own = |ready: &Ready| ready.run.block.buffer().size() + ready.run.plan.own_bytes() + samplers(ready);
        let bytes = self.plans.values().map(own).sum::<u64>() + self.scratch.bytes() + self.sampler_scratch.bytes();
        CacheStats { compiles: self.compiles, bytes, ..self.plans.stats() }
    }
}

fn make(
    key: PlanKey,
    model: &GpuModel,
    profiles: &Profiles,
    caches: &Caches,
    hidden: bool,
    cancel: &CancelToken,
    [scratch, sampler_scratch]: [&mut ScratchPool; 2],
) -> Result<Ready> {
    let graph = GraphKey { hidden, soft: key.soft, ..GraphKey::new(key.resident, key.want, profiles.kv()) };
    let built = model.model.built_for(graph)?;
    let binding = DimBinding::new().with(sym::SEQ, key.tokens).with(sym::CACHE, key.rows).with(sym::RING, caches.ring());
    let lowered = model.lower(&built, &binding, profiles.of(key.resident, key.tokens))?;
    model.pipelines.prepare_unless(lowered.dispatches.iter().map(|dispatch| &dispatch.kernel), cancel)?;
    let to = Binding { weights: &model.weights, tokens: key.tokens, sequences: 0, caches: Some(caches) };
    let run = RunPlan::new(model, built, &lowered, &to, scratch)?;
    let mut samplers = None;
    if key.chosen() > 0 {
        let argmax = run.sampler(model, &model.argmax(key.chosen(), &lowered), sampler_scratch)?;
        samplers = Some(Samplers { argmax, top_k: None });
    }
    let live = Live { tokens: key.tokens, start: key.rows.saturating_sub(key.tokens) };
    let estimates = estimate(&lowered, live, &|name, shard| model.shard_bytes(name, shard));
    tracing::debug!(?key, dispatches = run.plan.dispatch_count(), "plan prepared");
    Ok(Ready { run, warm: false, samplers, estimates })
}

/// All plans of an engine.
pub(super) struct Plans {
    /// Runs of several tokens.
    pub(super) prefill: PlanCache,
    /// Runs of one token.
    pub(super) decode: PlanCache,
    /// Whole sequences without caches.
    whole: PlanCache,
}

impl Plans {
    pub(super) fn new(policy: &PlanPolicy) -> Self {
        let new = PlanCache::new;
        Self { prefill: new(policy.prefill_capacity()), decode: new(policy.decode_capacity()), whole: new(WHOLE_PLANS) }
    }

    /// Where the plan of `key` belongs.
    pub(super) fn of(&mut self, key: &PlanKey) -> &mut PlanCache {
        match key {
            PlanKey { resident: false, .. } => &mut self.whole,
            PlanKey { tokens: 1, .. } => &mut self.decode,
            _ => &mut self.prefill,
        }
    }

    /// Drops the plans that hold the key-value caches.
    pub(super) fn forget_caches(&mut self) {
        self.prefill.plans.clear();
        self.decode.plans.clear();
    }

    /// Dispatches of one greedy decode step; 0 before the first.
    pub(super) fn dispatches_per_token(&self) -> usize {
        let greedy = |ready: &Ready| Some(ready.run.plan.dispatch_count() + ready.samplers.as_ref()?.argmax.dispatch_count());
        self.decode.plans.values().find_map(greedy).unwrap_or(0)
    }
}

/// The outputs of a plan that a sampler binds.
pub(super) fn logits_of(plan: &PreparedPlan) -> Result<HashMap<String, (Arc<Buffer>, u64)>> {
    let (logits, offset, _) = output(plan, LOGITS)?;
    let mut inputs = HashMap::from([("logits".to_string(), (logits.clone(), offset))]);
    let maxima = plan.output(&sampling::maxima_of(LOGITS));
    inputs.extend(maxima.map(|(maxima, offset, _)| ("maxima".to_string(), (maxima.clone(), offset))));
    Ok(inputs)
}

/// Buffer, offset and bytes of an output.
pub(super) fn output<'a>(plan: &'a PreparedPlan, name: &str) -> Result<(&'a Arc<Buffer>, u64, u64)> {
    plan.output(name).ok_or_else(|| lost_plan(name))
}

/// The error of a missing plan. It is for the type's sake: a prepared plan stays until it is dropped with its engine.
fn lost_plan(what: &str) -> Error {
    Error::Graph(GraphError::Malformed { graph: "gemma_resident".into(), problem: format!("its {what} was not prepared") })
}
