//! Waiting for submitted work, in slices: a lost device is noticed, and so is a caller who wants to end the wait.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::context::GpuContext;
use crate::{
    Error, Result,
    error::DeviceError,
    platform::{Instant, would_block},
};

/// A wait is cut into slices of this length, so that a device lost meanwhile is noticed and a missed wake-up is
/// retried.
const WAIT_SLICE: Duration = Duration::from_secs(1);

/// As [`WAIT_SLICE`], of a wait that may be cancelled.
const ATTENTIVE: Duration = Duration::from_millis(50);

impl GpuContext {
    /// When a wait that begins now has taken too long; a century stands for no limit.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline_after(Instant::now())
    }

    /// As [`deadline`](Self::deadline), of a wait that began at `start`.
    pub(crate) fn deadline_after(&self, start: Instant) -> Instant {
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        start + self.timeout().min(century)
    }

    /// Blocks until `submission` is done. `what` is for the error's text.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`] after the context's time limit, [`DeviceError::Lost`]; [`DeviceError::WouldBlock`] in a
    /// browser.
    pub fn wait(&self, submission: &wgpu::SubmissionIndex, what: &str) -> Result<()> {
        self.wait_for(Some(submission), what, None)
    }

    /// As [`GpuContext::wait`] for `submission`, or for all that was submitted so far, as long as `go_on` has no error.
    ///
    /// # Errors
    /// As [`GpuContext::wait`], and those of `go_on`.
    pub(crate) fn wait_while(
        &self,
        submission: Option<&wgpu::SubmissionIndex>,
        what: &str,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.wait_for(submission, what, Some(go_on))
    }

    /// Waits for `submission` so that no more is under way than that. Where nothing may block, whoever drives the work
    /// awaits it, and the queue keeps the order in any case: nothing is waited for.
    ///
    /// # Errors
    /// As [`GpuContext::wait`], and those of `go_on`.
    pub(crate) fn keep_pace(
        &self,
        submission: &wgpu::SubmissionIndex,
        what: &str,
        go_on: Option<&mut dyn FnMut() -> Result<()>>,
    ) -> Result<()> {
        if self.blocks() {
            return self.wait_for(Some(submission), what, go_on);
        }
        self.check()?;
        go_on.map_or(Ok(()), |go_on| go_on())
    }

    /// Blocks until `submission` is done, but for a moment at most. Returns `true` if it is done. The whole wait ends
    /// at `deadline`.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub(crate) fn wait_a_moment(&self, submission: &wgpu::SubmissionIndex, what: &str, deadline: Instant) -> Result<bool> {
        self.check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        match self.wait_slice(Some(submission), left.min(ATTENTIVE))? {
            false if left <= ATTENTIVE => Err(self.timed_out(what)),
            done => Ok(done),
        }
    }

    /// Blocks until all that was submitted so far is done.
    ///
    /// # Errors
    /// As [`GpuContext::wait`].
    pub fn wait_idle(&self, what: &str) -> Result<()> {
        self.wait_for(None, what, None)
    }

    fn wait_for(
        &self,
        submission: Option<&wgpu::SubmissionIndex>,
        what: &str,
        go_on: Option<&mut dyn FnMut() -> Result<()>>,
    ) -> Result<()> {
        if !self.blocks() {
            return Err(would_block(what));
        }
        let start = Instant::now();
        let outcome = self.wait_in_slices(submission, what, go_on);
        self.counters().waited(start.elapsed());
        outcome
    }

    fn wait_in_slices(
        &self,
        submission: Option<&wgpu::SubmissionIndex>,
        what: &str,
        go_on: Option<&mut dyn FnMut() -> Result<()>>,
    ) -> Result<()> {
        let deadline = self.deadline();
        let most = if go_on.is_some() { ATTENTIVE } else { WAIT_SLICE };
        let mut go_on = go_on;
        loop {
            self.check()?;
            go_on.as_mut().map_or(Ok(()), |go_on| go_on())?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait_slice(submission, left.min(most))? {
                return Ok(());
            }
            if left <= most {
                return Err(self.timed_out(what));
            }
        }
    }

    /// Waits at most `most`. Returns `true` if `submission`, or all that was submitted, is done.
    fn wait_slice(&self, submission: Option<&wgpu::SubmissionIndex>, most: Duration) -> Result<bool> {
        let poll = wgpu::PollType::Wait { submission_index: submission.cloned(), timeout: Some(most) };
        match self.poll(poll)? {
            Ok(_) => self.check().map(|()| true),
            Err(wgpu::PollError::Timeout) => Ok(false),
            // The submit was refused without an error in its scope: only a lost device does that.
            Err(wgpu::PollError::WrongSubmissionIndex(..)) => Err(self.lose("a submit was refused")),
        }
    }

    pub(crate) fn timed_out(&self, what: &str) -> Error {
        Error::Device(DeviceError::Timeout { what: what.to_owned(), seconds: self.timeout().as_secs_f64().ceil() as u64 })
    }

    /// `Device::poll` panics, with no lock held, in two cases. The driver reports the loss of the device from inside a
    /// wait: that was recorded before. Or a wait runs out just when another thread's poll finds the same work done,
    /// which wgpu 30 takes for a fault (<https://github.com/gfx-rs/wgpu/pull/9958>): it is a wait that ran out.
    fn poll(&self, poll: wgpu::PollType) -> Result<Result<wgpu::PollStatus, wgpu::PollError>> {
        match catch_unwind(AssertUnwindSafe(|| self.device().poll(poll))) {
            Ok(polled) => Ok(polled),
            Err(panic) if ran_out_beside_another(&*panic) => Ok(Err(wgpu::PollError::Timeout)),
            Err(_) => Err(self.lose("the driver failed during a wait")),
        }
    }
}

fn ran_out_beside_another(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|message| message.starts_with("If the queue is empty, the current submission"))
}
