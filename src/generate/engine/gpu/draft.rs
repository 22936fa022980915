//! A drafter on a GPU, over the caches of the model that it drafts for.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    GpuEngine, GpuModel,
    caches::Caches,
    model::{LOGITS, options, upload},
    output,
    plans::Plans,
    run_plan::{Binding, RunPlan},
};
use crate::{
    Result,
    cancel::CancelToken,
    flow::BuiltModel,
    gemma::{CHOSEN, HIDDEN, TARGET_EMBED, WeightPosition},
    generate::{DraftModel, MOST_DRAFTED, Outputs, Profiles, TokenOrder},
    ir::{DType, DimBinding, sym},
    lower::lower,
    runtime::{Buffer, GpuContext, PreparedPlan, ResidentWeight, ResidentWeights, RunTokens, ScratchPool, Step, Wait, wgpu},
};

/// What is waited for.
const DRAFTING: &str = "drafting";

/// The weights of a drafter, and the hidden states that it goes on from.
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

/// The part that engines of one model share.
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
    run: RunPlan,
    choice: Choice,
}

/// Who chooses a drafted token.
enum Choice {
    /// The device, which goes on with it.
    Device(Box<PreparedPlan>),
    /// The host, which knows the order of the tokens.
    Host(TokenOrder),
}

impl GpuDrafter {
    /// The same drafter for another sequence.
    pub(super) fn another(&self) -> Self {
        Self { shared: self.shared.clone(), buffers: None, lengths: 0..0, ready: None }
    }

    /// Makes the buffers that runs of the target leave their hidden states in, if they are not there.
    pub(super) fn make_room(&mut self, context: &GpuContext) -> Result<()> {
        if self.buffers.is_none() {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let rows = MOST_DRAFTED as u64 + 1;
            let hidden = context.create_buffer("hidden states", rows * self.shared.row, usage)?;
            self.buffers = Some(Buffers { hidden, drafted: context.create_buffer("drafted tokens", rows * 4, usage)? });
        }
        Ok(())
    }

    /// Drops the step that is bound to the caches.
    pub(super) fn forget_caches(&mut self) {
        self.ready = None;
    }

    /// Drops the state of a text.
    pub(super) fn forget_text(&mut self) {
        self.lengths = 0..0;
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
        let order = &self.shared.model.order;
        options.chosen_from = options.chosen_from.filter(|_| order.is_none());
        let lowered = lower(&built.graph, &binding, &model.target, &options, &ResidentWeights(&self.shared.weights))?;
        let to = Binding { weights: &self.shared.weights, tokens: 1, sequences: 0, caches: Some(caches) };
        let run = RunPlan::new(model, built, &lowered, &to, &mut ScratchPool::default())?;
        let choice = match order {
            Some(order) => Choice::Host(order.clone()),
            None => {
                let argmax = run.sampler(model, &model.argmax(1, &lowered), &mut ScratchPool::default())?;
                Choice::Device(argmax.into())
            }
        };
        self.ready = Some(Ready { rows, kv, run, choice });
        Ok(())
    }

    /// Copies the hidden states of a run of the positions `run`, which lie at `from`, after it.
    pub(super) fn keep_hidden(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        (from, offset, _): (&Arc<Buffer>, u64, u64),
        want: Outputs,
        run: Range<usize>,
    ) {
        let lengths = if want == Outputs::Each { run.start + 1..run.end + 1 } else { run.end..run.end + 1 };
        let bytes = lengths.len() as u64 * self.shared.row;
        if let Some(Buffers { hidden, .. }) = self.buffers.as_ref().filter(|buffers| bytes <= buffers.hidden.size()) {
            encoder.copy_buffer_to_buffer(from.raw(), offset, hidden.raw(), 0, bytes);
            self.lengths = lengths;
        }
    }
}

/// The device that makes a draft.
struct By<'a> {
    context: &'a Arc<GpuContext>,
    wait: Wait,
    /// Ends its waits.
    cancel: &'a CancelToken,
}

/// Where a draft begins.
struct Start<'a> {
    /// The last token of the text.
    token: u32,
    /// The position before it, the last that the caches hold.
    position: usize,
    /// The hidden state that chose it: buffer, offset, bytes.
    hidden: (&'a Buffer, u64, u64),
}

impl Ready {
    /// Writes the inputs of a step after `token`, but for the hidden state.
    fn write(&mut self, context: &GpuContext, token: u32, position: usize) -> Result<()> {
        // Only what is cached is seen: a row at the next position is of a token that was drafted and wrong.
        let step = Step { end: position as u32 + 1, capacity: self.rows as u32, ..Step::all(1) };
        self.run.block.write(context, step, RunTokens::text(&[token], position), token, &self.run.built, true)
    }

    /// All steps in one submit, each going on from the last on the device; the tokens go through `drafted`.
    async fn draft_on_device(&mut self, by: &By<'_>, start: &Start<'_>, drafted: &Buffer, count: usize) -> Result<Vec<u32>> {
        let By { context, wait, cancel } = by;
        self.write(context, start.token, start.position)?;
        let Choice::Device(argmax) = &self.choice else { return Ok(Vec::new()) };
        let (token, token_at, _) = output(argmax, "token")?;
        let (next, next_at, bytes) = output(&self.run.plan, HIDDEN)?;
        let mut staged = None;
        let submission = context.run(DRAFTING, |encoder| {
            self.run.block.copy(encoder, HIDDEN, start.hidden);
            for i in 0..count {
                if i > 0 {
                    self.run.block.copy(encoder, "input_ids", (token, token_at, 4));
                    self.run.block.copy(encoder, HIDDEN, (next, next_at, bytes));
                }
                self.run.plan.reset(encoder);
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                self.run.plan.record(&mut pass);
                argmax.record(&mut pass);
                drop(pass);
                encoder.copy_buffer_to_buffer(token.raw(), token_at, drafted.raw(), i as u64 * 4, 4);
            }
            staged = Some(context.stage_read(encoder, drafted, 0, count as u64 * 4)?);
            Ok(())
        })?;
        let mut tokens = vec![0u32; count];
        context.awaited(*wait, &submission, DRAFTING, cancel).await?;
        if let Some(staged) = staged {
            context.collect_unless(staged, &submission, bytemuck::cast_slice_mut(&mut tokens), cancel)?;
        }
        Ok(tokens)
    }

    /// A submit a step, the host choosing each token by `order` from what it reads of the step.
    async fn draft_by_order(&mut self, by: &By<'_>, start: &Start<'_>, order: &TokenOrder, count: usize) -> Result<Vec<u32>> {
        let By { context, wait, cancel } = by;
        let mut drafted: Vec<u32> = Vec::new();
        while drafted.len() < count {
            self.write(context, drafted.last().copied().unwrap_or(start.token), start.position)?;
            let (next, next_at, bytes) = output(&self.run.plan, HIDDEN)?;
            let hidden = if drafted.is_empty() { start.hidden } else { (&**next, next_at, bytes) };
            let mut staged = Vec::new();
            let submission = context.run(DRAFTING, |encoder| {
                self.run.block.copy(encoder, HIDDEN, hidden);
                self.run.plan.reset(encoder);
                self.run.plan.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
                for name in [LOGITS, CHOSEN] {
                    let (buffer, offset, bytes) = output(&self.run.plan, name)?;
                    staged.push(context.stage_read(encoder, buffer, offset, bytes)?);
                }
                Ok(())
            })?;
            context.awaited(*wait, &submission, DRAFTING, cancel).await?;
            let mut read = Vec::new();
            for part in staged {
                let mut bytes = vec![0; part.len()];
                context.collect_unless(part, &submission, &mut bytes, cancel)?;
                read.push(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes));
            }
            let Some(token) = order.likeliest(&read[0], &read[1]) else { break };
            drafted.push(token);
        }
        Ok(drafted)
    }
}

impl GpuEngine {
    /// As [`Engine::set_drafter`](crate::generate::Engine::set_drafter). Plans made before leave nothing for it to go on
    /// from, and are dropped.
    pub(in crate::generate::engine) async fn set_drafter(&mut self, drafter: &Arc<DraftModel>) -> Result<()> {
        let model = &self.model;
        let built = drafter.built(&model.model, self.profiles.kv())?;
        let mut own = BuiltModel::clone(&built);
        own.params.remove(TARGET_EMBED);
        let mut weights = upload(&model.context, &own, None).await?;
        let embed = model.weights.get(&WeightPosition::Embed.to_string());
        weights.extend(embed.map(|embed| (TARGET_EMBED.to_string(), embed.clone())));
        let row = drafter.config.backbone_hidden_size as u64 * 4;
        let shared = Arc::new(Shared { model: drafter.clone(), weights, row });
        self.drafter = Some(GpuDrafter { shared, buffers: None, lengths: 0..0, ready: None });
        self.plans = Plans::new(&self.policy);
        Ok(())
    }

    /// As [`Engine::draft`](crate::generate::Engine::draft).
    pub(in crate::generate::engine) async fn draft(&mut self, history: &[u32], count: usize, wait: Wait) -> Result<Vec<u32>> {
        self.settled(wait).await?;
        let Some((last, before)) = history.split_last() else { return Ok(Vec::new()) };
        // The last token has no row yet, and the caches may have none for it.
        let rows = self.policy.rows(1, before.len(), self.caches.rows());
        let Some(drafter) = self.drafter.as_mut().filter(|drafter| drafter.lengths.contains(&before.len())) else {
            return Ok(Vec::new());
        };
        drafter.prepare(rows, &self.model, &self.profiles, &self.caches)?;
        let (Some(ready), Some(buffers)) = (&mut drafter.ready, &drafter.buffers) else { return Ok(Vec::new()) };
        let row = drafter.shared.row;
        let count = count.min(MOST_DRAFTED);
        let by = By { context: &self.model.context, wait, cancel: &self.cancel };
        let from = (before.len() - drafter.lengths.start) as u64 * row;
        let start = Start { token: *last, position: before.len() - 1, hidden: (&buffers.hidden, from, row) };
        match &ready.choice {
            Choice::Device(_) => ready.draft_on_device(&by, &start, &buffers.drafted, count).await,
            Choice::Host(order) => {
                let order = order.clone();
                ready.draft_by_order(&by, &start, &order, count).await
            }
        }
    }
}
