//! The device memory of a generator, without allocating any.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    batch::{BatchPlans, rows_for},
    caches,
    inputs::InputBlock,
    model::{argmax, check_bindings, options, upload_order},
};
use crate::{
    Error, Result,
    error::DeviceError,
    flow::BuiltModel,
    generate::{CacheMemory, GraphKey, MemoryPlan, ModelGraphs, Outputs, PlanPolicy, Profiles, SHORT_LIST, parts_of},
    ir::{DType, DimBinding, kernel::Target, ops::Input, sym},
    lower::lower,
    plan::{Plan, sampling},
    runtime::{Capabilities, PlannedRuns, PlannedWeights, StagingRing},
};

/// The sizes that a memory plan is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryAsked {
    /// Tokens that the caches shall hold, of each conversation.
    pub(crate) context: usize,
    /// Conversations that run at once.
    pub(crate) conversations: usize,
    /// Most tokens of a run.
    pub(crate) chunk: usize,
    /// Most bytes.
    pub(crate) budget: Option<u64>,
}

/// The memory of a generator for `model` on a device like `device`.
///
/// # Errors
/// [`DeviceError::Limit`] for a weight that no kernel could bind; as [`lower`].
pub(crate) fn plan_memory(
    device: &Capabilities,
    model: &ModelGraphs,
    profiles: &Profiles,
    asked: MemoryAsked,
) -> Result<MemoryPlan> {
    let built = model.built(true, Outputs::All, DType::F32)?;
    check_bindings(device, &built)?;
    let weights = PlannedWeights::of(device, upload_order(&built))?;
    let MemoryAsked { conversations, chunk, .. } = asked;
    let planner = Planner { device, target: device.target(), model, profiles, weights: &weights, conversations, chunk };
    let longest = model.config.max_position_embeddings;
    let bindable = largest(longest, planner.target.max_binding, |context| planner.largest_cache(context))?;
    let at = |context: usize| -> Result<MemoryPlan> {
        // Rows that cannot be bound are counted, but no run can be lowered with them.
        let runs = planner.runs(context.min(bindable).max(1))?;
        let [full_cache, sliding_cache] = planner.caches(context)?;
        Ok(MemoryPlan {
            device: device.adapter.clone(),
            context,
            conversations,
            tensors: upload_order(&built).len(),
            weights: weights.bytes,
            full_cache,
            sliding_cache,
            scratch: runs.bytes,
            towers: 0,
            loading: StagingRing::bytes(device),
            largest_binding: runs.largest_binding.max(weights.largest_binding()),
            max_binding: planner.target.max_binding,
            budget: asked.budget,
            longest_context: bindable,
        })
    };
    let plan = at(asked.context)?;
    let Some(budget) = asked.budget else { return Ok(plan) };
    let longest_context = largest(bindable, budget, |context| at(context).map(|plan| plan.peak()))?;
    Ok(MemoryPlan { longest_context, ..plan })
}

/// The largest number from 1 to `most` whose `cost`, which never falls, is `limit` at most; 0 where none is.
pub(crate) fn largest(most: usize, limit: u64, cost: impl Fn(usize) -> Result<u64>) -> Result<usize> {
    if most == 0 {
        return Ok(0);
    }
    let mut good = 1;
    let mut bad = most;
    let mut low = cost(good)?;
    let mut high = cost(bad)?;
    if high <= limit || low > limit {
        return Ok(if high <= limit { most } else { 0 });
    }
    let mut straight = true;
    while bad - good > 1 {
        // Memory grows almost evenly, so that every other guess is on the straight line between the two.
        let share = if straight { (limit - low) as f64 / (high - low) as f64 } else { 0.5 };
        let guess = (good + ((bad - good) as f64 * share) as usize).clamp(good + 1, bad - 1);
        straight = !straight;
        match cost(guess)? {
            bytes if bytes <= limit => (good, low) = (guess, bytes),
            bytes => (bad, high) = (guess, bytes),
        }
    }
    Ok(good)
}

/// One run of a plan: what it is for, its tokens, the rows of the caches that grow, and if soft tokens are among its own.
#[derive(Debug, Clone, Copy)]
struct PlannedRun {
    want: Outputs,
    tokens: usize,
    rows: usize,
    soft: bool,
}

struct Planner<'a> {
    device: &'a Capabilities,
    target: Target,
    model: &'a ModelGraphs,
    profiles: &'a Profiles,
    weights: &'a PlannedWeights,
    conversations: usize,
    chunk: usize,
}

impl Planner<'_> {
    fn policy(&self, context: usize) -> PlanPolicy {
        PlanPolicy { most: context, ..PlanPolicy::default() }
    }

    fn cache_sizes<T>(&self, context: usize, of: impl Fn(&[(&Input, u64)], [usize; 2]) -> T) -> Result<T> {
        let rows = self.policy(context).reserved(context);
        let ring = self.model.ring(self.chunk)?;
        let built = self.model.built(true, Outputs::Nothing, self.profiles.kv())?;
        Ok(of(&caches::sizes(&built.graph, rows, ring)?, [rows, ring]))
    }

    fn largest_cache(&self, context: usize) -> Result<u64> {
        self.cache_sizes(context, |sizes, _| sizes.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0))
    }

    /// The caches of full and of sliding layers.
    fn caches(&self, context: usize) -> Result<[CacheMemory; 2]> {
        self.cache_sizes(context, |sizes, [rows, ring]| {
            let mut memory = [rows, ring].map(|rows| CacheMemory { bytes: 0, rows, buffers: 0 });
            for (input, bytes) in sizes {
                let slides = input.ty.shape.0.iter().any(|dim| dim.symbols().any(|symbol| symbol == sym::RING));
                let memory = &mut memory[usize::from(slides)];
                memory.bytes += bytes * self.conversations as u64;
                memory.buffers += self.conversations;
            }
            memory
        })
    }

    /// The memory of a prompt that fills the context, with a picture in it where there may be some, and of greedy steps
    /// after it, run after run.
    fn runs(&self, context: usize) -> Result<PlannedRuns> {
        let policy = self.policy(context);
        // Runs before the last chunk end at multiples of it, each with the plan of its bucket of rows.
        let ends = (1..context.div_ceil(self.chunk)).map(|run| policy.reserved(run * self.chunk));
        let rows = policy.reserved(context);
        let ends = ends.collect::<BTreeSet<usize>>().into_iter();
        let text = |want, tokens, rows| PlannedRun { want, tokens, rows, soft: false };
        let mut prompt: Vec<_> = ends.map(|end| text(Outputs::Nothing, self.chunk, end)).collect();
        if let Some(picture) = self.model.longest_picture().filter(|tokens| *tokens > 0) {
            let tokens = policy.tokens(picture, self.chunk);
            prompt.push(PlannedRun { want: Outputs::Nothing, tokens, rows, soft: true });
        }
        prompt.push(text(Outputs::Last, policy.tokens(context.min(self.chunk), self.chunk), rows));
        let mut runs = PlannedRuns::default();
        for sort in [&prompt[..], &[text(Outputs::Last, 1, rows)]] {
            self.add(&mut runs, sort)?;
        }
        runs.bytes *= self.conversations as u64;
        self.add_steps_together(&mut runs, context)?;
        Ok(runs)
    }

    /// Adds steps of all conversations together.
    fn add_steps_together(&self, runs: &mut PlannedRuns, context: usize) -> Result<()> {
        if self.conversations == 1 {
            return Ok(());
        }
        let rows = self.policy(context).reserved(context);
        let ring = self.model.ring(self.chunk)?;
        let built = self.model.built(true, Outputs::Each, self.profiles.kv())?;
        let mut plans: [Vec<Plan>; 3] = Default::default();
        for sequences in parts_of(self.conversations).map(rows_for).collect::<BTreeSet<usize>>().into_iter().rev() {
            let lowered =
                BatchPlans::lower(self.device, &self.target, &built, self.profiles, self.weights, [sequences, rows, ring]);
            let BatchPlans { step, argmax, lists } = match lowered {
                // One after the other they take nothing more.
                Err(Error::Unsupported(_) | Error::Device(DeviceError::Limit { .. })) => continue,
                lowered => lowered?,
            };
            runs.bytes += InputBlock::bytes(&built.graph, sequences, sequences);
            runs.compare_slots(&step);
            runs.compare_concatenated(&step, self.weights);
            [step, argmax, lists].into_iter().zip(&mut plans).for_each(|(plan, all)| all.push(plan));
        }
        plans.iter().try_for_each(|pool| runs.add_pool(pool, &self.target))
    }

    /// Adds runs whose plans share scratch buffers.
    fn add(&self, runs: &mut PlannedRuns, sort: &[PlannedRun]) -> Result<()> {
        let vocab_size = self.model.config.vocab_size;
        let mut plans = Vec::new();
        let mut samplers = Vec::new();
        for run in sort {
            let (plan, built) = self.lowered(*run)?;
            runs.bytes += InputBlock::bytes(&built.graph, run.tokens, 0);
            if run.want == Outputs::Last {
                samplers.push(argmax(1, vocab_size, &plan, &self.target));
                samplers.push(sampling::top_k(1, vocab_size, SHORT_LIST.min(vocab_size), &self.target));
            }
            plans.push(plan);
        }
        for plan in &plans {
            runs.compare_slots(plan);
            runs.compare_concatenated(plan, self.weights);
        }
        [&plans, &samplers].into_iter().try_for_each(|pool| runs.add_pool(pool, &self.target))
    }

    fn lowered(&self, run: PlannedRun) -> Result<(Plan, Arc<BuiltModel>)> {
        let PlannedRun { want, tokens, rows, soft } = run;
        let built = self.model.built_for(GraphKey { soft, ..GraphKey::new(true, want, self.profiles.kv()) })?;
        let ring = self.model.ring(self.chunk)?;
        let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, rows).with(sym::RING, ring);
        let options = options(self.profiles.of(true, tokens), self.device);
        Ok((lower(&built.graph, &binding, &self.target, &options, self.weights)?, built))
    }
}

#[cfg(test)]
mod tests;
