//! One step of several sequences: weights are read once for all of them, caches are each sequence's own.

mod waits;

use std::{collections::HashMap, sync::Arc};

use waits::awaited;

use super::{
    GpuEngine, SampleMode, chosen,
    model::{GpuModel, LOGITS, options},
    output,
    run_plan::{Binding, RunPlan},
    short_list,
    submit_splitter::SubmitSplitter,
};
use crate::{
    Error, Result,
    error::DeviceError,
    flow::BuiltModel,
    generate::{Outputs, Profiles, Run, SHORT_LIST, SampleOpts, sample_token_after},
    ir::{DimBinding, LowerOptions, kernel::Target, sym},
    lower::{Residency, lower},
    plan::{Estimate, Live, Plan, estimate, sampling},
    runtime::{Bindings, Capabilities, Lru, PreparedPlan, ScratchPool, SequenceSlot, StagedRead, Step, Wait},
};

/// Plans that a model keeps for steps of several sequences: the buckets of their number, and two of rows.
const KEPT_PLANS: usize = 10;

/// What is waited for.
const STEP: &str = "a step of several sequences";

/// Plans that a sequence keeps its slot in.
const KEPT_SLOTS: usize = 4;

/// One sequence's part in a step.
pub(crate) struct GpuTurn<'a> {
    /// Its engine, whose caches hold the rows of all tokens but the last and have room for that of the last.
    pub(crate) engine: &'a mut GpuEngine,
    /// Its tokens.
    pub(crate) history: &'a [u32],
    /// How the next one is chosen.
    pub(crate) opts: &'a SampleOpts,
}

/// The slot of a sequence in the plan `batch`.
pub(super) struct HeldSlot {
    batch: u64,
    pub(super) row: usize,
    slot: SequenceSlot,
}

/// Rows of the plan for so many sequences: 2, 4, 8, 16, 32.
pub(super) fn rows_for(sequences: usize) -> usize {
    sequences.next_power_of_two().max(2)
}

/// The lowered plans of a step of several sequences.
pub(super) struct BatchPlans {
    pub(super) step: Plan,
    pub(super) argmax: Plan,
    pub(super) lists: Plan,
}

impl BatchPlans {
    /// For `rows` sequences; the caches that grow have at most `capacity` rows, rings `ring`.
    pub(super) fn lower(
        device: &Capabilities,
        target: &Target,
        built: &BuiltModel,
        profiles: &Profiles,
        residency: &dyn Residency,
        [rows, capacity, ring]: [usize; 3],
    ) -> Result<Self> {
        let binding = DimBinding::new().with(sym::SEQ, rows).with(sym::CACHE, capacity).with(sym::RING, ring);
        let options = LowerOptions { batched: true, ..options(profiles.decode(), device) };
        let step = lower(&built.graph, &binding, target, &options, residency)?;
        let vocab_size = step.output(LOGITS).map_or(1, |logits| logits.ty.last());
        let argmax = sampling::argmax(rows, vocab_size, false, target);
        let lists = sampling::top_k_batched(rows, vocab_size, SHORT_LIST.min(vocab_size), target);
        Ok(Self { step, argmax, lists })
    }
}

/// The plans of a model for steps of several sequences, which run one at a time.
pub(super) struct Batches {
    /// By sequences and rows of the caches that grow; `None` where the device or the model cannot.
    plans: Lru<[usize; 2], Option<Batch>>,
    /// The profiles that they were compiled with.
    profiles: Profiles,
    /// Of the steps, and of the two sorts of samplers, both of which may follow one step.
    scratch: [ScratchPool; 3],
    made: u64,
}

impl Batches {
    pub(super) fn new(profiles: &Profiles) -> Self {
        Self { plans: Lru::new(KEPT_PLANS), profiles: profiles.clone(), scratch: Default::default(), made: 0 }
    }

    /// The plan for so many sequences and rows, made if it is new.
    fn ready(
        &mut self,
        model: &GpuModel,
        profiles: &Profiles,
        [rows, capacity, ring]: [usize; 3],
        slices: &SubmitSplitter,
    ) -> Result<Option<&mut Batch>> {
        if self.profiles != *profiles {
            self.plans.clear();
            self.profiles = profiles.clone();
        }
        let Self { plans, profiles, scratch, made } = self;
        let batch = plans.get_or_try_insert(&[rows, capacity], || {
            *made += 1;
            match Batch::new(model, profiles, [rows, capacity, ring], slices.batched(), scratch, *made) {
                Ok(batch) => Ok(Some(batch)),
                Err(Error::Unsupported(why)) => {
                    tracing::debug!(why, "sequences run one after the other");
                    Ok(None)
                }
                Err(Error::Device(DeviceError::Limit { name, .. })) => {
                    tracing::debug!(name, "sequences run one after the other");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })?;
        Ok(batch.as_mut())
    }

    /// The plan, where there is one alone.
    #[cfg(test)]
    pub(super) fn only(&self) -> Option<&Batch> {
        let mut plans = self.plans.values().flatten();
        plans.next().filter(|_| plans.next().is_none())
    }
}

/// A prepared plan with its inputs and the samplers that choose tokens.
pub(super) struct Batch {
    pub(super) id: u64,
    lowered: Plan,
    pub(super) run: RunPlan,
    argmax: PreparedPlan,
    lists: PreparedPlan,
    slices: SubmitSplitter,
    /// Of its dispatches, with full caches.
    estimates: Arc<[Estimate]>,
    /// True if it has run.
    warm: bool,
}

/// The bytes that a step reads back.
#[derive(Default)]
struct Read {
    /// The likeliest token of each row.
    tokens: Vec<u8>,
    /// The short list of each row up to the last that draws.
    lists: Vec<u8>,
}

impl GpuEngine {
    /// Returns `true` if a step of both can be one pass.
    pub(crate) fn goes_with(&self, other: &GpuEngine) -> bool {
        let same_caches = self.caches.ring() == other.caches.ring();
        Arc::ptr_eq(&self.model, &other.model) && self.profiles == other.profiles && same_caches
    }

    /// The token that follows each history, in one pass for all, which are 32 at most and [go with each
    /// other](Self::goes_with). `None` where the device cannot, or has no memory for it: nothing has run.
    pub(crate) async fn decode_batch(turns: &mut [GpuTurn<'_>], wait: Wait) -> Result<Option<Vec<Result<u32>>>> {
        let Some(first) = turns.first() else { return Ok(Some(Vec::new())) };
        let model = first.engine.model.clone();
        let profiles = first.engine.profiles.clone();
        let ring = first.engine.caches.ring();
        let capacity = turns.iter().map(|turn| turn.engine.caches.rows()).max().unwrap_or(1);
        for turn in turns.iter_mut() {
            turn.engine.forget();
            turn.engine.settled(wait).await?;
        }
        // Held for the whole step: the plan's inputs and results are this step's.
        let mut batches = model.locked_batches(turns, wait).await?;
        for turn in turns.iter_mut() {
            // A slot keeps its plan's buffers.
            turn.engine.slots.retain(|held| batches.plans.values().flatten().any(|batch| batch.id == held.batch));
        }
        let sizes = [rows_for(turns.len()), capacity, ring];
        let held = match batches.ready(&model, &profiles, sizes, &turns[0].engine.slices) {
            Ok(None) => return Ok(None),
            Ok(Some(batch)) => batch.slot(&model, turns).map(|order| (batch, order)),
            Err(error) => Err(error),
        };
        let (batch, order) = match held {
            Err(Error::Device(DeviceError::OutOfMemory { .. })) => return Ok(None),
            held => held?,
        };
        let modes: Vec<SampleMode> = order.iter().map(|turn| SampleMode::for_choosing(turns[*turn].opts)).collect();
        batch.write(&model, turns, &order, &modes)?;
        let read = batch.run(&model, turns, &order, &modes, wait).await?;
        let mut chosen: Vec<(usize, Result<u32>)> = Vec::with_capacity(order.len());
        for (row, (turn, mode)) in order.iter().zip(&modes).enumerate() {
            chosen.push((*turn, batch.choose(&model, &turns[*turn], *mode, row, &read, wait).await));
        }
        chosen.sort_by_key(|(turn, _)| *turn);
        Ok(Some(chosen.into_iter().map(|(_, token)| token).collect()))
    }

    pub(super) fn slot_in(&self, batch: u64) -> Option<&HeldSlot> {
        self.slots.iter().find(|held| held.batch == batch)
    }
}

impl Batch {
    fn new(
        model: &GpuModel,
        profiles: &Profiles,
        sizes: [usize; 3],
        slices: SubmitSplitter,
        scratch: &mut [ScratchPool; 3],
        id: u64,
    ) -> Result<Self> {
        let rows = sizes[0];
        let built = model.model.built(true, Outputs::Each, profiles.kv())?;
        let lowered = model.lower_batch(&built, profiles, sizes)?;
        let [scratch, of_argmax, of_lists] = scratch;
        let to = Binding { weights: &model.weights, tokens: rows, sequences: rows, caches: None };
        let run = RunPlan::new(model, built, &lowered.step, &to, scratch)?;
        let argmax = run.sampler(model, &lowered.argmax, of_argmax)?;
        let lists = run.sampler(model, &lowered.lists, of_lists)?;
        tracing::debug!(?sizes, dispatches = run.plan.dispatch_count(), "plan for several sequences prepared");
        let live = Live { tokens: rows, start: sizes[1].saturating_sub(1) };
        let estimates = estimate(&lowered.step, live, &|name, shard| model.shard_bytes(name, shard));
        Ok(Self { id, lowered: lowered.step, run, argmax, lists, slices, estimates, warm: false })
    }

    /// Gives every sequence a row, its own of the last step where it can: the sequence of each row.
    fn slot(&self, model: &GpuModel, turns: &mut [GpuTurn<'_>]) -> Result<Vec<usize>> {
        let mut order = vec![None; turns.len()];
        let mut without = Vec::new();
        for (index, turn) in turns.iter().enumerate() {
            let known = turn.engine.slot_in(self.id).and_then(|held| order.get_mut(held.row));
            match known {
                Some(row) if row.is_none() => *row = Some(index),
                _ => without.push(index),
            }
        }
        let mut without = without.into_iter();
        let mut rows = Vec::with_capacity(turns.len());
        for (row, known) in order.into_iter().enumerate() {
            let index = match known {
                Some(index) => index,
                None => {
                    let Some(index) = without.next() else { break };
                    self.take_slot(model, turns[index].engine, row)?;
                    index
                }
            };
            rows.push(index);
        }
        Ok(rows)
    }

    fn take_slot(&self, model: &GpuModel, engine: &mut GpuEngine, row: usize) -> Result<()> {
        let inputs: HashMap<_, _> = engine.caches.bindings().collect();
        let bound = Bindings { weights: &model.weights, inputs: &inputs, step: self.run.block.buffer() };
        let slot = self.run.plan.slot(&model.context, &self.lowered, bound, row)?;
        engine.slots.retain(|held| held.batch != self.id);
        engine.slots.drain(..(engine.slots.len() + 1).saturating_sub(KEPT_SLOTS));
        engine.slots.push(HeldSlot { batch: self.id, row, slot });
        Ok(())
    }

    fn write(&mut self, model: &GpuModel, turns: &[GpuTurn<'_>], order: &[usize], modes: &[SampleMode]) -> Result<()> {
        let mut steps = Vec::new();
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        for (row, (turn, mode)) in order.iter().zip(modes).enumerate() {
            let GpuTurn { engine, history, .. } = &turns[*turn];
            let end = history.len() as u32;
            let capacity = engine.caches.rows() as u32;
            steps.push(mode.choosing(Step { end, capacity, sequence: row as u32, ..Step::all(1) }, history.len()));
            tokens.push(history.last().copied().unwrap_or(0));
            positions.push(history.len().saturating_sub(1));
        }
        self.run.block.write_batch(&model.context, &steps, &tokens, &positions, &self.run.built)
    }

    async fn run(
        &mut self,
        model: &GpuModel,
        turns: &[GpuTurn<'_>],
        order: &[usize],
        modes: &[SampleMode],
        wait: Wait,
    ) -> Result<Read> {
        let context = &model.context;
        let mut go_on = || waits::go_on(turns);
        let slot = |turn: &usize| turns[*turn].engine.slot_in(self.id).map(|held| &held.slot);
        let slots: Vec<Option<&SequenceSlot>> = order.iter().map(slot).collect();
        let (listed, draws) = (SequenceSlot::default(), |mode: &SampleMode| matches!(mode, SampleMode::Draw(_)));
        let drawn: Vec<Option<&SequenceSlot>> = modes.iter().map(|mode| draws(mode).then_some(&listed)).collect();
        let last_drawn = modes.iter().rposition(draws);
        let greedy = modes.contains(&SampleMode::Argmax);
        let mut staged: [Option<StagedRead>; 2] = [None, None];
        let warm = std::mem::replace(&mut self.warm, true);
        let mut run = self.slices.of_run(context, &self.estimates, slots.len(), warm);
        while !run.is_whole() {
            if let Some(earlier) = run.submission() {
                awaited(context, wait, earlier, turns).await?;
            }
            self.slices.submit_next(context, &mut go_on, &mut run, |encoder, slice| {
                if slice.first {
                    self.run.plan.reset(encoder);
                }
                let mut pass = slice.begin_pass(encoder);
                self.run.plan.record_slots(&mut pass, &slots, slice.dispatches.clone());
                if !slice.last {
                    return Ok(());
                }
                if greedy {
                    self.argmax.record(&mut pass);
                }
                if last_drawn.is_some() {
                    self.lists.record_slots(&mut pass, &drawn, 0..self.lists.dispatch_count());
                }
                drop(pass);
                if greedy {
                    let (buffer, offset, _) = output(&self.argmax, "token")?;
                    staged[0] = Some(context.stage_read(encoder, buffer, offset, order.len() as u64 * 4)?);
                }
                if let Some(last) = last_drawn {
                    let (buffer, offset, _) = output(&self.lists, "token")?;
                    staged[1] = Some(context.stage_read(encoder, buffer, offset, (last as u64 + 1) * self.list_bytes()?)?);
                }
                Ok(())
            })?;
        }
        let (submission, timed) = run.done()?;
        awaited(context, wait, &submission, turns).await?;
        let mut collect = |staged: Option<StagedRead>| -> Result<Vec<u8>> {
            let Some(staged) = staged else { return Ok(Vec::new()) };
            let mut bytes = vec![0; staged.len()];
            context.collect_while(staged, &submission, &mut bytes, &mut go_on)?;
            Ok(bytes)
        };
        let [tokens, lists] = staged;
        let read = Read { tokens: collect(tokens)?, lists: collect(lists)? };
        timed.map(|timed| self.slices.learn(context, &submission, timed)).transpose()?;
        Ok(read)
    }

    /// Bytes of the short list of a row.
    fn list_bytes(&self) -> Result<u64> {
        Ok(output(&self.lists, "token")?.2 / self.rows()?)
    }

    fn rows(&self) -> Result<u64> {
        Ok(output(&self.argmax, "token")?.2 / 4)
    }

    /// The token of `row`, of which the whole row of logits is read where it must be.
    async fn choose(
        &self,
        model: &GpuModel,
        turn: &GpuTurn<'_>,
        mode: SampleMode,
        row: usize,
        read: &Read,
        wait: Wait,
    ) -> Result<u32> {
        match mode {
            SampleMode::Argmax => return chosen(&read.tokens[row * 4..][..4], turn.history.len()),
            SampleMode::Draw(_) => {
                let bytes = self.list_bytes()? as usize;
                let (list, _) = short_list(&read.lists[row * bytes..][..bytes]);
                list.check(turn.history.len())?;
                if let Some(token) = list.choose(turn.opts, turn.history.len()) {
                    return Ok(token);
                }
            }
            SampleMode::Logits | SampleMode::Nothing => {}
        }
        let (buffer, offset, bytes) = output(&self.run.plan, LOGITS)?;
        let bytes = bytes / self.rows()?;
        let mut logits = vec![0; bytes as usize];
        model.context.read_back_by(wait, buffer, offset + row as u64 * bytes, &mut logits).await?;
        sample_token_after(&bytemuck::pod_collect_to_vec::<u8, f32>(&logits), turn.opts, turn.history)
    }
}
