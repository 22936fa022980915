//! Waits as futures: one thread per context, started by the first of them, blocks in the driver and wakes the task.
//! In a browser the device calls back.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    task::{Context, Poll, Waker},
};

use super::context::GpuContext;
use crate::{
    Error, Result,
    cancel::CancelToken,
    error::DeviceError,
    platform::{self, Instant},
};

/// The thread's inbox; the thread ends with the context.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    inbox: Mutex<Option<Sender<Job>>>,
}

#[derive(Debug)]
struct Job {
    context: Arc<GpuContext>,
    submission: wgpu::SubmissionIndex,
    what: &'static str,
    cancel: CancelToken,
    /// When it was first waited for.
    since: Option<Instant>,
    done: Arc<Mutex<Completion>>,
}

#[derive(Debug, Default)]
struct Completion {
    result: Option<Result<()>>,
    waker: Option<Waker>,
}

/// Resolves when the submission is done, as [`GpuContext::wait`] would return.
#[derive(Debug)]
pub(crate) struct Waited(Arc<Mutex<Completion>>);

impl Future for Waited {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let mut completion = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match completion.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                completion.waker = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Who waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The thread, which blocks: a future of this kind is ready when it is first polled.
    Thread,
    /// The task, whose thread goes on with others.
    Task,
}

/// A submit that is not known to be done.
pub(crate) struct Pending {
    context: Arc<GpuContext>,
    submission: wgpu::SubmissionIndex,
}

impl Pending {
    pub(crate) fn new(context: &Arc<GpuContext>, submission: &wgpu::SubmissionIndex) -> Self {
        Self { context: context.clone(), submission: submission.clone() }
    }

    /// Resolves when it is, or `cancel` is cancelled.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub(crate) async fn done(self, cancel: &CancelToken) -> Result<()> {
        self.context.waited_unless(self.submission, "a run of the model", cancel).await
    }
}

impl GpuContext {
    /// [`GpuContext::wait`] as a future of no particular executor.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub async fn waited(self: &Arc<Self>, submission: wgpu::SubmissionIndex, what: &'static str) -> Result<()> {
        self.waited_unless(submission, what, &CancelToken::new()).await
    }

    /// As [`GpuContext::waited`]; resolves sooner where `cancel` is cancelled.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub(crate) async fn waited_unless(
        self: &Arc<Self>,
        submission: wgpu::SubmissionIndex,
        what: &'static str,
        cancel: &CancelToken,
    ) -> Result<()> {
        if !self.blocks() {
            cancel.unless(what, self.told()?).await.unwrap_or(Ok(()))?;
            return self.check();
        }
        let done = Arc::new(Mutex::new(Completion::default()));
        let cancel = cancel.clone();
        self.waiter.send(Job { context: self.clone(), submission, what, cancel, since: None, done: done.clone() })?;
        Waited(done).await
    }

    /// Resolves at once where the thread waits; else when `submission` is done, so that what waits for it next finds it
    /// done, or when `cancel` is cancelled.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub(crate) async fn awaited(
        self: &Arc<Self>,
        wait: Wait,
        submission: &wgpu::SubmissionIndex,
        what: &'static str,
        cancel: &CancelToken,
    ) -> Result<()> {
        match wait {
            Wait::Thread => Ok(()),
            Wait::Task => self.waited_unless(submission.clone(), what, cancel).await,
        }
    }

    /// Resolves when the device has done all that it was given before this call, writes to buffers among it, or is lost.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub(crate) fn drained(&self) -> Result<Waited> {
        // What is written to buffers travels with a submit.
        self.queue().submit([]);
        self.told()
    }

    /// Resolves when all that was submitted before this call is done, of which the device tells by a callback. There is no
    /// time limit: a browser ends what hangs and tells of the loss.
    fn told(&self) -> Result<Waited> {
        self.check()?;
        let done = Arc::<Mutex<Completion>>::default();
        let told = done.clone();
        self.queue().on_submitted_work_done(move || end(&told, Ok(())));
        Ok(Waited(done))
    }
}

/// Resolves the future that waits for `done`.
fn end(done: &Mutex<Completion>, result: Result<()>) {
    let waker = {
        let mut completion = done.lock().unwrap_or_else(PoisonError::into_inner);
        completion.result = Some(result);
        completion.waker.take()
    };
    waker.into_iter().for_each(Waker::wake);
}

impl Waiter {
    fn send(&self, job: Job) -> Result<()> {
        let failed = |message: String| {
            Error::Device(DeviceError::Driver { what: "starting the thread that waits for the GPU".into(), message })
        };
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_none() {
            let (sender, jobs) = mpsc::channel::<Job>();
            let body = move || serve(&jobs);
            platform::spawn("gemmaflow-wait", body).map_err(|e| failed(e.to_string()))?;
            *inbox = Some(sender);
        }
        match inbox.as_ref().map(|sender| sender.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => Err(failed("it has ended".into())),
        }
    }
}

/// Ends jobs as the device does, which is in the order of their submits, until nobody can send any more.
fn serve(inbox: &Receiver<Job>) {
    let mut jobs = VecDeque::new();
    loop {
        if jobs.is_empty() {
            let Ok(job) = inbox.recv() else { return };
            jobs.push_back(job);
        }
        jobs.extend(inbox.try_iter());
        let (cancelled, left): (VecDeque<Job>, VecDeque<Job>) = jobs.into_iter().partition(|job| job.cancel.is_cancelled());
        cancelled.into_iter().for_each(|job| job.end(Ok(())));
        jobs = left;
        let Some(mut first) = jobs.pop_front() else { continue };
        match first.wait_a_moment() {
            Ok(false) => jobs.push_front(first),
            Ok(true) => first.end(Ok(())),
            Err(error) => first.end(Err(error)),
        }
    }
}

impl Job {
    /// Waits for a moment. Returns `true` if the submission is done.
    fn wait_a_moment(&mut self) -> Result<bool> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.context.wait_a_moment(&self.submission, self.what, self.context.deadline_after(since))
    }

    fn end(self, result: Result<()>) {
        self.context.counters().waited(self.since.map_or_else(Default::default, |since| since.elapsed()));
        // The context may be waiting to be freed by the task; it must not outlive the wake-up through this job.
        drop(self.context);
        end(&self.done, result);
    }
}
