//! One step of several sequences: weights are read once for all of them, caches are each sequence's own.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use super::{
    super::{
        lru::Lru,
        prepared::{Bound, PreparedPlan, Seat, Step},
        read_back::StagedRead,
        scratch::ScratchPool,
    },
    Follow, GpuEngine, chosen,
    estimate::{Estimate, estimate},
    inputs::InputBlock,
    model::{GpuModel, LOGITS, options},
    output,
    plans::logits_of,
    short_list,
    slices::Slices,
};
use crate::{
    Error, Result,
    flow::BuiltModel,
    generate::{Engine, Profiles, SHORT_LIST, SampleOpts, Want, sample_token_after},
    ir::{DimBinding, LowerOptions, kernel::Target, sym},
    lower::{Residency, lower},
    plan::{Live, Plan, sampling},
    runtime::Capabilities,
};

/// Plans that a model keeps for steps of several sequences: the buckets of their number, and two of rows.
const KEPT_PLANS: usize = 10;

/// Plans that a sequence keeps its seat in.
const KEPT_SEATS: usize = 4;

/// One sequence's part in a step.
pub(crate) struct DeviceTurn<'a> {
    /// Its engine, whose caches hold the rows of all tokens but the last and have room for that of the last.
    pub(crate) engine: &'a mut GpuEngine,
    /// Its tokens.
    pub(crate) history: &'a [u32],
    /// How the next one is chosen.
    pub(crate) opts: &'a SampleOpts,
}

/// The seat of a sequence in the plan `batch`.
pub(super) struct Seated {
    batch: u64,
    pub(super) row: usize,
    seat: Seat,
}

/// Rows of the plan for so many sequences: 2, 4, 8, 16, 32.
pub(super) fn rows_for(sequences: usize) -> usize {
    sequences.next_power_of_two().max(2)
}

/// What is lowered for a step of several sequences.
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
        let options = LowerOptions { apart: true, ..options(profiles.decode(), device) };
        let step = lower(&built.graph, &binding, target, &options, residency)?;
        let vocab_size = step.output(LOGITS).map_or(1, |logits| logits.ty.last());
        let argmax = sampling::argmax(rows, vocab_size, false, target);
        let lists = sampling::top_k_apart(rows, vocab_size, SHORT_LIST.min(vocab_size), target);
        Ok(Self { step, argmax, lists })
    }
}

/// The plans of a model for steps of several sequences, which run one at a time.
pub(super) struct Batches {
    /// By sequences and rows of the caches that grow; `None` where the device or the model cannot.
    plans: Lru<[usize; 2], Option<Batch>>,
    /// What they were compiled by.
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
        slices: &Slices,
    ) -> Result<Option<&mut Batch>> {
        if self.profiles != *profiles {
            self.plans.clear();
            self.profiles = profiles.clone();
        }
        let key = [rows, capacity];
        if self.plans.get(&key).is_none() {
            self.plans.make_room();
            let made = match self.make(model, [rows, capacity, ring], slices.apart()) {
                Ok(batch) => Some(batch),
                Err(Error::Unsupported(why)) => {
                    tracing::debug!(why, "sequences run one after the other");
                    None
                }
                Err(Error::Limit { name, .. }) => {
                    tracing::debug!(name, "sequences run one after the other");
                    None
                }
                Err(error) => return Err(error),
            };
            self.plans.insert(key, made);
        }
        Ok(self.plans.peek_mut(&key).and_then(Option::as_mut))
    }

    /// The plan, where there is one alone.
    #[cfg(test)]
    pub(super) fn only(&self) -> Option<&Batch> {
        let mut plans = self.plans.values().flatten();
        plans.next().filter(|_| plans.next().is_none())
    }

    fn make(&mut self, model: &GpuModel, sizes: [usize; 3], slices: Slices) -> Result<Batch> {
        let context = &model.context;
        let pipelines = &model.pipelines;
        let rows = sizes[0];
        let built = model.model.built(true, Want::Each, self.profiles.kv())?;
        let lowered = model.lower_batch(&built, &self.profiles, sizes)?;
        let block = InputBlock::new(context, &built.graph, rows, rows)?;
        let inputs = block.bindings().collect();
        let bound = Bound { weights: &model.weights, inputs: &inputs, step: block.buffer() };
        let [scratch, of_argmax, of_lists] = &mut self.scratch;
        let plan = PreparedPlan::new(pipelines, &lowered.step, bound, scratch)?;
        let inputs = logits_of(&plan)?;
        let bound = Bound { inputs: &inputs, ..bound };
        let argmax = PreparedPlan::new(pipelines, &lowered.argmax, bound, of_argmax)?;
        let lists = PreparedPlan::new(pipelines, &lowered.lists, bound, of_lists)?;
        tracing::debug!(?sizes, dispatches = plan.dispatch_count(), "plan for several sequences prepared");
        self.made += 1;
        let live = Live { tokens: rows, start: sizes[1].saturating_sub(1) };
        let estimates = estimate(&lowered.step, live, &|name, shard| model.shard_bytes(name, shard));
        let id = self.made;
        let lowered = lowered.step;
        let warm = false;
        Ok(Batch { id, lowered, plan, block, built, argmax, lists, slices, estimates, warm })
    }
}

/// A prepared plan with its inputs and what chooses tokens.
pub(super) struct Batch {
    pub(super) id: u64,
    lowered: Plan,
    pub(super) plan: PreparedPlan,
    block: InputBlock,
    built: Arc<BuiltModel>,
    argmax: PreparedPlan,
    lists: PreparedPlan,
    slices: Slices,
    /// Of its dispatches, with full caches.
    estimates: Arc<[Estimate]>,
    /// Whether it has run.
    warm: bool,
}

/// What a step brings back.
#[derive(Default)]
struct Read {
    /// The likeliest token of each row.
    tokens: Vec<u8>,
    /// The short list of each row up to the last that draws.
    lists: Vec<u8>,
}

impl GpuEngine {
    /// Whether a step of both can be one pass.
    pub(crate) fn goes_with(&self, other: &GpuEngine) -> bool {
        let same_caches = self.caches.ring() == other.caches.ring();
        Arc::ptr_eq(&self.model, &other.model) && self.profiles == other.profiles && same_caches
    }

    /// The token that follows each history, in one pass for all, which are 32 at most and [go with each other](Self::goes_with).
    /// `None` where the device cannot, or has no memory for it: nothing has run.
    pub(crate) fn step_together(turns: &mut [DeviceTurn<'_>]) -> Result<Option<Vec<Result<u32>>>> {
        let Some(first) = turns.first() else { return Ok(Some(Vec::new())) };
        let model = first.engine.model.clone();
        let profiles = first.engine.profiles.clone();
        let ring = first.engine.caches.ring();
        let capacity = turns.iter().map(|turn| turn.engine.caches.rows()).max().unwrap_or(1);
        for turn in turns.iter_mut() {
            turn.engine.forget();
            turn.engine.settle()?;
        }
        // Held for the whole step: the plan's inputs and results are this step's.
        let mut batches = model.batches.lock().unwrap_or_else(PoisonError::into_inner);
        for turn in turns.iter_mut() {
            // A seat keeps its plan's buffers.
            turn.engine.seats.retain(|seated| batches.plans.values().flatten().any(|batch| batch.id == seated.batch));
        }
        let sizes = [rows_for(turns.len()), capacity, ring];
        let seated = match batches.ready(&model, &profiles, sizes, &turns[0].engine.slices) {
            Ok(None) => return Ok(None),
            Ok(Some(batch)) => batch.seat(&model, turns).map(|order| (batch, order)),
            Err(error) => Err(error),
        };
        let (batch, order) = match seated {
            Err(Error::OutOfMemory { .. }) => return Ok(None),
            seated => seated?,
        };
        let follows: Vec<Follow> = order.iter().map(|turn| Follow::for_choosing(turns[*turn].opts)).collect();
        batch.write(&model, turns, &order, &follows)?;
        let read = batch.run(&model, turns, &order, &follows)?;
        let chosen = order.iter().zip(&follows).enumerate();
        let mut chosen: Vec<(usize, Result<u32>)> =
            chosen.map(|(row, (turn, follow))| (*turn, batch.choose(&model, &turns[*turn], *follow, row, &read))).collect();
        chosen.sort_by_key(|(turn, _)| *turn);
        Ok(Some(chosen.into_iter().map(|(_, token)| token).collect()))
    }

    pub(super) fn seat_in(&self, batch: u64) -> Option<&Seated> {
        self.seats.iter().find(|seated| seated.batch == batch)
    }
}

impl Batch {
    /// Gives every sequence a row, its own of the last step where it can: the sequence of each row.
    fn seat(&self, model: &GpuModel, turns: &mut [DeviceTurn<'_>]) -> Result<Vec<usize>> {
        let mut order = vec![None; turns.len()];
        let mut without = Vec::new();
        for (index, turn) in turns.iter().enumerate() {
            let known = turn.engine.seat_in(self.id).and_then(|seated| order.get_mut(seated.row));
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
                    self.take_seat(model, turns[index].engine, row)?;
                    index
                }
            };
            rows.push(index);
        }
        Ok(rows)
    }

    fn take_seat(&self, model: &GpuModel, engine: &mut GpuEngine, row: usize) -> Result<()> {
        let inputs: HashMap<_, _> = engine.caches.bindings().collect();
        let bound = Bound { weights: &model.weights, inputs: &inputs, step: self.block.buffer() };
        let seat = self.plan.seat(&model.context, &self.lowered, bound, row)?;
        engine.seats.retain(|seated| seated.batch != self.id);
        engine.seats.drain(..(engine.seats.len() + 1).saturating_sub(KEPT_SEATS));
        engine.seats.push(Seated { batch: self.id, row, seat });
        Ok(())
    }

    fn write(&mut self, model: &GpuModel, turns: &[DeviceTurn<'_>], order: &[usize], follows: &[Follow]) -> Result<()> {
        let mut steps = Vec::new();
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        for (row, (turn, follow)) in order.iter().zip(follows).enumerate() {
            let DeviceTurn { engine, history, .. } = &turns[*turn];
            let (end, capacity) = (history.len() as u32, engine.caches.rows() as u32);
            steps.push(follow.choosing(Step { end, capacity, sequence: row as u32, ..Step::all(1) }, history.len()));
            tokens.push(history.last().copied().unwrap_or(0));
            positions.push(history.len().saturating_sub(1));
        }
        self.block.write_apart(&model.context, &steps, &tokens, &positions, &self.built)
    }

    fn run(&mut self, model: &GpuModel, turns: &[DeviceTurn<'_>], order: &[usize], follows: &[Follow]) -> Result<Read> {
        let context = &model.context;
        let mut go_on = || turns.iter().try_for_each(|turn| turn.engine.cancel.check("a step of several sequences"));
        let seat = |turn: &usize| turns[*turn].engine.seat_in(self.id).map(|seated| &seated.seat);
        let seats: Vec<Option<&Seat>> = order.iter().map(seat).collect();
        let (listed, draws) = (Seat::default(), |follow: &Follow| matches!(follow, Follow::Draw(_)));
        let drawn: Vec<Option<&Seat>> = follows.iter().map(|follow| draws(follow).then_some(&listed)).collect();
        let last_drawn = follows.iter().rposition(draws);
        let greedy = follows.contains(&Follow::Argmax);
        let mut staged: [Option<StagedRead>; 2] = [None, None];
        let warm = std::mem::replace(&mut self.warm, true);
        let mut run = self.slices.of_run(context, &self.estimates, seats.len(), warm);
        while !run.is_whole() {
            self.slices.submit_next(context, &mut go_on, &mut run, |encoder, slice| {
                if slice.first {
                    self.plan.reset(encoder);
                }
                let mut pass = slice.begin_pass(encoder);
                self.plan.record_seated(&mut pass, &seats, slice.dispatches.clone());
                if !slice.last {
                    return Ok(());
                }
                if greedy {
                    self.argmax.record(&mut pass);
                }
                if last_drawn.is_some() {
                    self.lists.record_seated(&mut pass, &drawn, 0..self.lists.dispatch_count());
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
    fn choose(&self, model: &GpuModel, turn: &DeviceTurn<'_>, follow: Follow, row: usize, read: &Read) -> Result<u32> {
        match follow {
            Follow::Argmax => return chosen(&read.tokens[row * 4..][..4], turn.history.len()),
            Follow::Draw(_) => {
                let bytes = self.list_bytes()? as usize;
                let (list, _) = short_list(&read.lists[row * bytes..][..bytes]);
                list.check(turn.history.len())?;
                if let Some(token) = list.choose(turn.opts, turn.history.len()) {
                    return Ok(token);
                }
            }
            Follow::Logits | Follow::Nothing => {}
        }
        let (buffer, offset, bytes) = output(&self.plan, LOGITS)?;
        let bytes = bytes / self.rows()?;
        let mut logits = vec![0; bytes as usize];
        model.context.read_back(buffer, offset + row as u64 * bytes, &mut logits)?;
        sample_token_after(&bytemuck::pod_collect_to_vec::<u8, f32>(&logits), turn.opts, turn.history)
    }
}
