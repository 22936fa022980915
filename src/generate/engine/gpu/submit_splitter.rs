//! Runs in several submits, so that none keeps the device for longer than an application wants.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Begun, GpuEngine, chunk_sizer::SOFTWARE_BUDGET};
use crate::{
    Error, Result,
    error::GraphError,
    plan::{Estimate, HOST_CLOCK_MOST, SOFTWARE_MOST, SOFTWARE_RATE, cut, total},
    platform::Instant,
    runtime::{Buffer, GpuContext, StagedRead, Wait, wgpu},
};

/// SubmitSplitter of one run that are timed, the first ones.
const TIMED: usize = 64;

/// How runs are cut, and what earlier ones took.
pub(super) struct SubmitSplitter {
    most: Option<Duration>,
    /// The rate of runs that were never measured.
    unmeasured: f64,
    /// True if `most` was asked for: other work has its turn between two submits, and no dispatch may take longer
    /// either.
    is_asked: bool,
    /// Measured time over estimated time of all engines of a model, by the plan's tokens and by `batched`.
    rates: Arc<Mutex<HashMap<(usize, bool), f64>>>,
    batched: bool,
    timer: Option<Timer>,
}

/// A part of a run that is one submit.
pub(super) struct Slice<'a> {
    /// The dispatches of the plan.
    pub(super) dispatches: Range<usize>,
    /// True if the run begins with it.
    pub(super) first: bool,
    /// True if the run ends with it.
    pub(super) last: bool,
    /// Where its times go: the set and the first of two queries.
    times: Option<(&'a wgpu::QuerySet, u32)>,
}

impl Slice<'_> {
    /// The pass of its dispatches.
    pub(super) fn begin_pass<'e>(&self, encoder: &'e mut wgpu::CommandEncoder) -> wgpu::ComputePass<'e> {
        let timestamp_writes = self.times.map(|(query_set, at)| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes })
    }
}

/// A run that is submitted slice by slice.
pub(super) struct Sliced {
    parts: Vec<Range<usize>>,
    next: usize,
    /// The slice that was submitted last, and when.
    under_way: Option<(wgpu::SubmissionIndex, Instant)>,
    /// Seconds that slices took on the host's clock.
    waited: f64,
    /// Those on the device's, once the last slice is recorded.
    ticks: Option<StagedRead>,
    is_timed: bool,
    /// True if the host waited for each slice, so that its clock tells how long they took.
    is_watched: bool,
    tokens: usize,
    estimates: Arc<[Estimate]>,
}

impl Sliced {
    /// Returns `true` if one submit is all.
    pub(super) fn is_one(&self) -> bool {
        self.parts.len() == 1
    }

    /// Returns `true` if no slice is left to submit.
    pub(super) fn is_whole(&self) -> bool {
        self.next == self.parts.len()
    }

    /// The slice under way.
    pub(super) fn submission(&self) -> Option<&wgpu::SubmissionIndex> {
        self.under_way.as_ref().map(|(submission, _)| submission)
    }

    /// The last slice of a run that is whole, and its time, to be read when it is done.
    pub(super) fn done(self) -> Result<(wgpu::SubmissionIndex, Option<Timed>)> {
        let Self { parts, under_way, waited, ticks, is_timed, is_watched, tokens, estimates, .. } = self;
        let sum = |parts: &[Range<usize>]| parts.iter().map(|part| total(&estimates[part.clone()])).sum::<f64>();
        let timed = match ticks {
            Some(ticks) => Some((Time::Device(ticks), sum(&parts[..parts.len().min(TIMED)]))),
            // The last slice is still under way.
            None => (is_timed && is_watched && waited > 0.0).then(|| (Time::Host(waited), sum(&parts[..parts.len() - 1]))),
        };
        let timed = timed.map(|(time, estimated)| Timed { time, tokens, estimated, estimates: estimates.clone() });
        under_way.map(|(submission, _)| (submission, timed)).ok_or_else(nothing_begun)
    }
}

/// A run whose time will be known when it is done.
pub(super) struct Timed {
    time: Time,
    tokens: usize,
    /// Estimated seconds of the timed slices.
    estimated: f64,
    /// Those of all dispatches.
    estimates: Arc<[Estimate]>,
}

enum Time {
    /// Ticks before and after each slice.
    Device(StagedRead),
    /// Seconds on the host.
    Host(f64),
}

impl Begun {
    /// Gives up a run that nobody will read; it may still be under way.
    pub(super) fn discard(self, context: &GpuContext) {
        self.staged.into_iter().for_each(|staged| context.discard(staged));
        if let Some(Timed { time: Time::Device(staged), .. }) = self.timed {
            context.discard(staged);
        }
    }
}

/// A generator finishes only what it began.
pub(super) fn nothing_begun() -> Error {
    Error::Graph(GraphError::Malformed { graph: "gemma_resident".into(), problem: "no run was begun".into() })
}

/// Returns `true` if the work that failed may still be under way.
fn is_cancelled(error: &Error) -> bool {
    matches!(error, Error::Cancelled(_))
}

/// The device's own clock at the edges of slices.
struct Timer {
    queries: wgpu::QuerySet,
    ticks: Buffer,
}

impl Timer {
    fn new(context: &GpuContext) -> Result<Self> {
        let count = 2 * TIMED as u32;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("slices"), ty: wgpu::QueryType::Timestamp, count };
        let queries = context.scoped("timestamps", || context.device().create_query_set(&descriptor))?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self { queries, ticks: context.create_buffer("timestamps", u64::from(count) * 8, usage)? })
    }

    fn stage(&self, context: &GpuContext, encoder: &mut wgpu::CommandEncoder, slices: usize) -> Result<StagedRead> {
        let count = 2 * slices as u32;
        encoder.resolve_query_set(&self.queries, 0..count, self.ticks.raw(), 0);
        context.stage_read(encoder, &self.ticks, 0, u64::from(count) * 8)
    }
}

impl SubmitSplitter {
    /// No submit shall keep the device for longer than about `most`; on a driver on the CPU, for longer than
    /// [`SOFTWARE_MOST`] where nothing is asked for.
    pub(super) fn new(most: Option<Duration>, software: bool) -> Self {
        let unmeasured = if software { SOFTWARE_RATE } else { 1.0 };
        let is_asked = most.is_some();
        let most = most.or(software.then_some(SOFTWARE_MOST));
        Self { most, unmeasured, is_asked, rates: Arc::default(), batched: false, timer: None }
    }

    /// Those of another engine of the model.
    pub(super) fn another(&self) -> Self {
        Self { rates: self.rates.clone(), timer: None, ..*self }
    }

    /// Those of a plan for several sequences.
    pub(super) fn batched(&self) -> Self {
        Self { batched: true, ..self.another() }
    }

    /// How much slower than the slowest device it runs plans for so many tokens; until one was measured, as slow.
    fn rate(&self, tokens: usize) -> f64 {
        self.rates().get(&(tokens, self.batched)).copied().unwrap_or(self.unmeasured)
    }

    fn rates(&self) -> MutexGuard<'_, HashMap<(usize, bool), f64>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if a run may be submitted while another of the same kind is under way.
    pub(super) fn allow_two(&self, estimates: &[Estimate], tokens: usize) -> bool {
        let one = self.rate(tokens) * total(estimates);
        let both = if self.is_asked { 2.0 * one } else { one };
        self.most.is_none_or(|most| both <= most.as_secs_f64())
    }

    /// The slices of a run of a plan for `tokens` tokens. It is timed where its plan is `warm`: drivers may compile at
    /// the first.
    pub(super) fn of_run(&mut self, context: &GpuContext, estimates: &Arc<[Estimate]>, tokens: usize, warm: bool) -> Sliced {
        let most = self.most.map_or(f64::INFINITY, |most| most.as_secs_f64() / self.rate(tokens));
        // Of what is far shorter in any case nobody asks how long it takes.
        let matters = self.is_asked || self.unmeasured * total(estimates) > SOFTWARE_MOST.as_secs_f64() / 8.0;
        let is_timed = warm && self.most.is_some() && matters;
        // The host's clock serves too, and of a driver on the CPU it is the same.
        if is_timed && self.is_asked && self.timer.is_none() && context.capabilities().timestamps {
            let timer = Timer::new(context);
            self.timer = timer.inspect_err(|error| tracing::debug!(%error, "no clock of the device")).ok();
        }
        let parts = cut(estimates, most);
        let estimates = estimates.clone();
        Sliced { parts, next: 0, under_way: None, waited: 0.0, ticks: None, is_timed, is_watched: true, tokens, estimates }
    }

    /// Submits the next slice of a run when the one before is done, which is waited for as long as `go_on` has no
    /// error; there is one.
    pub(super) fn submit_next(
        &self,
        context: &GpuContext,
        go_on: &mut dyn FnMut() -> Result<()>,
        run: &mut Sliced,
        record: impl FnOnce(&mut wgpu::CommandEncoder, &Slice) -> Result<()>,
    ) -> Result<()> {
        let index = run.next;
        let count = run.parts.len();
        let timer = self.timer.as_ref().filter(|_| run.is_timed);
        let times = timer.filter(|_| index < TIMED).map(|timer| (&timer.queries, 2 * index as u32));
        let dispatches = run.parts.get(index).cloned().ok_or_else(nothing_begun)?;
        let slice = Slice { dispatches, first: index == 0, last: index + 1 == count, times };
        let commands = context.record("a run of the model", |encoder| {
            record(encoder, &slice)?;
            if let Some(timer) = timer.filter(|_| slice.last) {
                run.ticks = Some(timer.stage(context, encoder, count.min(TIMED))?);
            }
            Ok(())
        })?;
        if let Some((earlier, since)) = &run.under_way {
            let asked = Instant::now();
            context.keep_pace(earlier, "a part of a run", Some(go_on))?;
            run.waited += since.elapsed().as_secs_f64();
            // For a slice that was done before anybody asked, the clock tells how long the host was away. Where nothing
            // blocks, whoever drives the run has just awaited the slice.
            run.is_watched &= !context.blocks() || 2 * asked.elapsed() > since.elapsed();
        }
        run.under_way = Some((context.submit("a run of the model", [commands])?, Instant::now()));
        run.next += 1;
        Ok(())
    }

    /// Takes the time of a run that is done, and gives the tokens with which none of its dispatches takes too long, as
    /// far as fewer tokens help.
    pub(super) fn learn(&self, context: &GpuContext, submission: &wgpu::SubmissionIndex, timed: Timed) -> Result<Option<f64>> {
        let Timed { time, tokens, estimated, estimates } = timed;
        let found = match time {
            Time::Host(seconds) => (seconds / estimated).min(HOST_CLOCK_MOST),
            Time::Device(staged) => {
                let mut bytes = vec![0; staged.len()];
                context.collect(staged, submission, &mut bytes)?;
                let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
                let ticks: u64 = ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0])).sum();
                ticks as f64 * f64::from(context.capabilities().timestamp_period) * 1e-9 / estimated
            }
        };
        // A clock that stands still says nothing.
        if !found.is_finite() || found <= 0.0 {
            return Ok(None);
        }
        let known = self.rates().get(&(tokens, self.batched)).copied();
        let rate = known.map_or(found, |known| (known + found) / 2.0);
        self.rates().insert((tokens, self.batched), rate);
        // A dispatch that is longer than a submit should be only delays the next run.
        let most = if self.is_asked { self.most } else { Some(SOFTWARE_BUDGET) };
        let most = most.map_or(f64::INFINITY, |most| most.as_secs_f64() / rate);
        let within = |estimate: &Estimate| estimate.tokens_within(most, tokens);
        Ok(Some(estimates.iter().map(within).fold(f64::INFINITY, f64::min)))
    }
}

impl GpuEngine {
    /// As [`settle`](Self::settle), by whom `wait` says.
    pub(super) async fn settled(&mut self, wait: Wait) -> Result<()> {
        self.give_up_slices();
        if let Some((submission, _)) = &self.in_flight {
            self.model.context.awaited(wait, submission, "the previous prefill chunk", &self.cancel).await?;
        }
        self.settle()
    }

    /// Leaves out what is left of a run that nobody goes on with; the next run waits for its last slice.
    pub(super) fn give_up_slices(&mut self) {
        if let Some(submission) = self.sliced.take().and_then(|run| run.slices.submission().cloned()) {
            self.in_flight = Some((submission, None));
        }
    }

    /// Waits for the prefill chunk that is under way, or for what was submitted of a run that was given up.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.give_up_slices();
        let Some((submission, timed)) = self.in_flight.take() else { return Ok(()) };
        let go_on = &mut || self.cancel.check("a run of the model");
        if let Err(error) = self.model.context.keep_pace(&submission, "the previous prefill chunk", Some(go_on)) {
            self.in_flight = is_cancelled(&error).then_some((submission, timed));
            return Err(error);
        }
        if let Some(timed) = timed
            && let Some(tokens) = self.slices.learn(&self.model.context, &submission, timed)?
        {
            self.pace.bound(tokens);
        }
        self.pace.finished();
        Ok(())
    }

    /// Waits for a run and takes the staged bytes.
    pub(super) fn collect(&mut self, begun: Begun) -> Result<Vec<u8>> {
        let Begun { staged, submission, timed, .. } = begun;
        let mut bytes = vec![0; staged.iter().map(StagedRead::len).sum()];
        let mut rest = &mut bytes[..];
        let mut collected = Ok(());
        for staged in staged {
            let (piece, later) = rest.split_at_mut(staged.len());
            rest = later;
            collected = collected.and_then(|()| self.model.context.collect_unless(staged, &submission, piece, &self.cancel));
        }
        self.collected(submission, timed, collected)?;
        Ok(bytes)
    }

    /// As [`collect`](Self::collect), by whom `wait` says.
    pub(super) async fn collected_by(&mut self, begun: Begun, wait: Wait) -> Result<Vec<u8>> {
        // Whoever drops this leaves the run under way.
        self.in_flight = Some((begun.submission.clone(), None));
        self.model.context.awaited(wait, &begun.submission, "a run of the model", &self.cancel).await?;
        self.in_flight = None;
        self.collect(begun)
    }

    /// Takes the time of a run that was waited for; the next one waits for it where this wait was cancelled.
    fn collected(&mut self, submission: wgpu::SubmissionIndex, timed: Option<Timed>, collected: Result<()>) -> Result<()> {
        if let Err(error) = collected {
            self.in_flight = is_cancelled(&error).then_some((submission, timed));
            return Err(error);
        }
        if let Some(timed) = timed {
            self.slices.learn(&self.model.context, &submission, timed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
