//! A drafter on a GPU, over the caches of the model that it drafts for.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    super::{
        Buffer, GpuContext, ResidentWeight,
        prepared::{Bound, PreparedPlan, ScratchPool, Step},
        resident::Placed,
        wgpu,
    },
    GpuEngine, GpuModel,
    caches::Caches,
    inputs::InputBlock,
    model::{LOGITS, options, upload},
    output,
    plans::{Plans, logits_of},
};
use crate::{
    Result,
    flow::BuiltModel,
    gemma::{CHOSEN, HIDDEN, TARGET_EMBED, WeightPosition},
    generate::{DraftModel, MOST_DRAFTED, Profiles, TokenOrder, Want},
    ir::{DType, DimBinding, sym},
    lower::lower,
};

/// The weights of a drafter, and what it goes on from.
pub(super) struct GpuDrafter {
    shared: Arc<Shared>,
    buffers: Option<Buffers>,
    /// Tokens of the text that each row of hidden states chose the next token of.
    lengths: Range<usize>,
    ready: Option<Ready>,
}

struct Buffers {
    /// The target's hidden states after its final norm `[rows, B]` of the last run that had any.
    hidden: Buffer,
    /// Tokens as they are drafted.
    drafted: Buffer,
}

/// What engines of one model share.
struct Shared {
    model: Arc<DraftModel>,
    /// Its own weights, and the target's embedding.
    weights: HashMap<String, ResidentWeight>,
    /// Bytes of a row of hidden states.
    row: u64,
}

/// A step of the drafter for one size of the caches.
struct Ready {
    rows: usize,
    kv: DType,
    block: InputBlock,
    built: Arc<BuiltModel>,
    plan: PreparedPlan,
    /// None where the host chooses, as only it knows the order of the tokens.
    argmax: Option<PreparedPlan>,
}

impl GpuDrafter {
    /// The same drafter for another sequence.
    pub(super) fn another(&self) -> Self {
        Self { shared: self.shared.clone(), buffers: None, lengths: 0..0, ready: None }
    }

    /// Makes what runs of the target leave their hidden states in, if it is not there.
    pub(super) fn make_room(&mut self, context: &GpuContext) -> Result<()> {
        if self.buffers.is_none() {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let rows = MOST_DRAFTED as u64 + 1;
            let hidden = context.create_buffer("hidden states", rows * self.shared.row, usage)?;
            self.buffers = Some(Buffers { hidden, drafted: context.create_buffer("drafted tokens", rows * 4, usage)? });
        }
        Ok(())
    }

    /// Drops what is bound to the caches, and what belongs to a text.
    pub(super) fn forget_caches(&mut self) {
        (self.lengths, self.ready) = (0..0, None);
    }

    /// Makes a step over caches of `rows` rows, unless the last one was for those.
    fn prepare(&mut self, rows: usize, model: &GpuModel, profiles: &Profiles, caches: &Caches) -> Result<()> {
        let kv = profiles.kv();
        if self.ready.as_ref().is_some_and(|ready| (ready.rows, ready.kv) == (rows, kv)) {
            return Ok(());
        }
        self.ready = None;
        let built = self.shared.model.built(&model.model, kv)?;
        let binding = DimBinding::new().with(sym::SEQ, 1).with(sym::CACHE, rows).with(sym::RING, caches.ring());
        let mut options = options(profiles.decode(), model.context.capabilities());
        let on_host = self.shared.model.order.is_some();
        options.chosen_from = options.chosen_from.filter(|_| !on_host);
        let lowered = lower(&built.graph, &binding, &model.target, &options, &Placed(&self.shared.weights))?;
        let block = InputBlock::new(&model.context, &built.graph, 1)?;
        let inputs = block.bindings().chain(caches.bindings()).collect();
        let bound = Bound { weights: &self.shared.weights, inputs: &inputs, step: block.buffer() };
        let mut scratch = ScratchPool::default();
        let plan = PreparedPlan::new(&model.pipelines, &lowered, bound, &mut scratch)?;
        let inputs = logits_of(&plan)?;
        let bound = Bound { inputs: &inputs, ..bound };
        let argmax = match on_host {
            true => None,
            false => Some(PreparedPlan::new(&model.pipelines, &model.argmax(1, &lowered), bound, &mut ScratchPool::default())?),
        };
        self.ready = Some(Ready { rows, kv, block, built, plan, argmax });
        Ok(())
    }

    /// Copies the hidden states of a run of the positions `run`, which lie at `from`, after it.
    pub(super) fn keep_hidden(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        (from, offset, _): (&Arc<Buffer>, u64, u64),
        want: Want,
        run: Range<usize>,
    ) {
        let lengths = if want == Want::Each { run.start + 1..run.end + 1 } else { run.end..run.end + 1 };
        let bytes = lengths.len() as u64 * self.shared.row;
        if let Some(Buffers { hidden, .. }) = self.buffers.as_ref().filter(|buffers| bytes <= buffers.hidden.size()) {
            encoder.copy_buffer_to_buffer(from.raw(), offset, hidden.raw(), 0, bytes);
            self.lengths = lengths;
        }
    }
}

impl Ready {
    /// As [`GpuEngine::draft_after`], the host choosing each token from what it reads of the step.
    fn draft_by_order(
        &mut self,
        context: &GpuContext,
        order: Option<&TokenOrder>,
        (hidden, from, row): (&Buffer, u64, u64),
        step: &Step,
        history: &[u32],
        count: usize,
    ) -> Result<Vec<u32>> {
        let (mut drafted, last) = (Vec::new(), history.last().copied().unwrap_or(0));
        let [(logits, logits_at, logits_bytes), (chosen, chosen_at, chosen_bytes)] =
            [output(&self.plan, LOGITS)?, output(&self.plan, CHOSEN)?];
        let (next, next_at, _) = output(&self.plan, HIDDEN)?;
        while drafted.len() < count {
            let token = drafted.last().copied().unwrap_or(last);
            self.block.write(context, *step, &[token], history.len() - 2, &self.built, true)?;
            let source = if drafted.is_empty() { (hidden, from, row) } else { (&**next, next_at, row) };
            let mut staged = None;
            let submission = context.run("drafting", |encoder| {
                self.block.copy(encoder, HIDDEN, source);
                self.plan.reset(encoder);
                self.plan.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
                let logits = context.stage_read(encoder, logits, logits_at, logits_bytes)?;
                staged = Some((logits, context.stage_read(encoder, chosen, chosen_at, chosen_bytes)?));
                Ok(())
            })?;
            let Some((logits, chosen)) = staged else { break };
            let (mut of_tokens, mut of_centroids) = (vec![0; logits.len()], vec![0; chosen.len()]);
            context.collect(logits, &submission, &mut of_tokens)?;
            context.collect(chosen, &submission, &mut of_centroids)?;
            let [of_tokens, of_centroids] =
                [of_tokens, of_centroids].map(|bytes| bytemuck::pod_collect_to_vec::<u8, f32>(&bytes));
            let Some(token) = order.and_then(|order| order.likeliest(&of_tokens, &of_centroids)) else { break };
            drafted.push(token);
        }
        Ok(drafted)
    }
}

impl GpuEngine {
    /// Uploads a drafter. Plans made before leave nothing for it to go on from, and are dropped.
    pub(super) fn attach(&mut self, drafter: &Arc<DraftModel>) -> Result<()> {
        let model = &self.model;
        let built = drafter.built(&model.model, self.profiles.kv())?;
        let mut own = BuiltModel::clone(&built);
        own.params.remove(TARGET_EMBED);
        let mut weights = upload(&model.context, &own, None)?;
        let embed = model.weights.get(&WeightPosition::Embed.to_string());
        weights.extend(embed.map(|embed| (TARGET_EMBED.to_string(), embed.clone())));
        let row = drafter.config.backbone_hidden_size as u64 * 4;
        let shared = Arc::new(Shared { model: drafter.clone(), weights, row });
        self.drafter = Some(GpuDrafter { shared, buffers: None, lengths: 0..0, ready: None });
        self.plans = Plans::new(&self.policy);
        Ok(())
    }

    /// As [`Engine::draft`](crate::generate::Engine::draft): all steps in one submit, each going on from the last on the device.
    pub(super) fn draft_after(&mut self, history: &[u32], count: usize) -> Result<Vec<u32>> {
        let Some((last, before)) = history.split_last() else { return Ok(Vec::new()) };
        let rows = self.policy.rows(1, history.len(), self.caches.rows());
        let Some(drafter) = self.drafter.as_mut().filter(|drafter| drafter.lengths.contains(&before.len())) else {
            return Ok(Vec::new());
        };
        drafter.prepare(rows, &self.model, &self.profiles, &self.caches)?;
        let (Some(ready), Some(buffers)) = (&mut drafter.ready, &drafter.buffers) else { return Ok(Vec::new()) };
        let (context, row, count) = (&self.model.context, drafter.shared.row, count.min(MOST_DRAFTED));
        let step = Step { end: before.len() as u32, capacity: rows as u32, ..Step::all(1) };
        // Only what is cached is seen: a row at the next position is of a token that was drafted and wrong.
        ready.block.write(context, step, &[*last], before.len() - 1, &ready.built, true)?;
        let from = (before.len() - drafter.lengths.start) as u64 * row;
        let (Some(argmax), None) = (&ready.argmax, &drafter.shared.model.order) else {
            let order = drafter.shared.model.order.clone();
            return ready.draft_by_order(context, order.as_ref(), (&buffers.hidden, from, row), &step, history, count);
        };
        let (token, token_at, _) = output(argmax, "token")?;
        let (next, next_at, _) = output(&ready.plan, HIDDEN)?;
        let mut staged = None;
        let submission = context.run("drafting", |encoder| {
            ready.block.copy(encoder, HIDDEN, (&buffers.hidden, from, row));
            for i in 0..count {
                if i > 0 {
                    ready.block.copy(encoder, "input_ids", (token, token_at, 4));
                    ready.block.copy(encoder, HIDDEN, (next, next_at, row));
                }
                ready.plan.reset(encoder);
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                ready.plan.record(&mut pass);
                argmax.record(&mut pass);
                drop(pass);
                encoder.copy_buffer_to_buffer(token.raw(), token_at, buffers.drafted.raw(), i as u64 * 4, 4);
            }
            staged = Some(context.stage_read(encoder, &buffers.drafted, 0, count as u64 * 4)?);
            Ok(())
        })?;
        let mut tokens = vec![0u32; count];
        if let Some(staged) = staged {
            context.collect(staged, &submission, bytemuck::cast_slice_mut(&mut tokens))?;
        }
        Ok(tokens)
    }
}
