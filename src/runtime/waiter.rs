//! Waits as futures: one thread per context, started by the first of them, blocks in the driver and wakes the task.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    task::{Context, Poll, Waker},
};

use super::context::GpuContext;
use crate::{Error, Result};

/// The thread's inbox; the thread ends with the context.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    inbox: Mutex<Option<Sender<Job>>>,
}

#[derive(Debug)]
struct Job {
    context: Arc<GpuContext>,
    submission: wgpu::SubmissionIndex,
    what: &'static str,
    done: Arc<Mutex<Completion>>,
}

#[derive(Debug, Default)]
struct Completion {
    result: Option<Result<()>>,
    waker: Option<Waker>,
}

/// Resolves when the submission is done, as [`GpuContext::wait`] would return.
struct Waited(Arc<Mutex<Completion>>);

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

/// A submit that is not known to be done.
pub(crate) struct Pending {
    context: Arc<GpuContext>,
    submission: wgpu::SubmissionIndex,
}

impl Pending {
    pub(super) fn new(context: &Arc<GpuContext>, submission: &wgpu::SubmissionIndex) -> Self {
        Self { context: context.clone(), submission: submission.clone() }
    }

    /// Resolves when it is.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub(crate) async fn done(self) -> Result<()> {
        self.context.waited(self.submission, "a run of the model").await
    }
}

impl GpuContext {
    /// [`GpuContext::wait`] as a future of no particular executor.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub async fn waited(self: &Arc<Self>, submission: wgpu::SubmissionIndex, what: &'static str) -> Result<()> {
        let done = Arc::new(Mutex::new(Completion::default()));
        self.waiter.send(Job { context: self.clone(), submission, what, done: done.clone() })?;
        Waited(done).await
    }
}

impl Waiter {
    fn send(&self, job: Job) -> Result<()> {
        let failed = |message: String| Error::Driver { what: "starting the thread that waits for the GPU".into(), message };
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_none() {
            let (sender, jobs) = mpsc::channel::<Job>();
            let body = move || jobs.into_iter().for_each(Job::run);
            std::thread::Builder::new().name("gemmaflow-wait".into()).spawn(body).map_err(|e| failed(e.to_string()))?;
            *inbox = Some(sender);
        }
        match inbox.as_ref().map(|sender| sender.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => Err(failed("it has ended".into())),
        }
    }
}

impl Job {
    fn run(self) {
        let result = self.context.wait(&self.submission, self.what);
        // The context may be waiting to be freed by the task; it must not outlive the wake-up through this job.
        drop(self.context);
        let waker = {
            let mut completion = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            completion.result = Some(result);
            completion.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}
