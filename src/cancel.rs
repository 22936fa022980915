//! Asking for an end from elsewhere.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Poll, Waker},
};

use crate::{Error, Result};

/// Asks for the end of what is under way: loading, reading a prompt, an answer, embedding texts. Clones are the same
/// token; any thread may cancel.
///
/// Work that is cancelled does not wait for the device: a submit that was handed over runs to its end while the caller
/// goes on, and what is asked for next waits for it.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_cancelled: AtomicBool,
    /// Waits so far, of which each has its number: one task may have several.
    waits: std::sync::atomic::AtomicU64,
    /// Tasks that wait for something else, and wake where the end is asked for.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl State {
    fn wait(&self) -> Wait<'_> {
        Wait { state: self, number: self.waits.fetch_add(1, SeqCst) }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait, which is over when this is dropped.
struct Wait<'t> {
    state: &'t State,
    number: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.state.waiting().remove(&self.number);
    }
}

impl CancelToken {
    /// One that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Waits for nothing.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting());
        waiting.into_values().for_each(Waker::wake);
    }

    /// Returns `true` if the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(SeqCst)
    }

    /// Fails where the end of `what` was asked for.
    pub(crate) fn check(&self, what: &'static str) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled(what)) } else { Ok(()) }
    }

    /// What `future` resolves to, unless the end of `what` is asked for while it waits.
    pub(crate) async fn unless<T>(&self, what: &'static str, future: impl Future<Output = T>) -> Result<T> {
        Self::unless_any(std::slice::from_ref(self), what, future).await
    }

    /// As [`unless`](Self::unless), by any of the tokens.
    pub(crate) async fn unless_any<T>(tokens: &[Self], what: &'static str, future: impl Future<Output = T>) -> Result<T> {
        let mut future = pin!(future);
        let waits: Vec<Wait<'_>> = tokens.iter().map(|token| token.0.wait()).collect();
        poll_fn(|task| {
            if let Poll::Ready(found) = future.as_mut().poll(task) {
                return Poll::Ready(Ok(found));
            }
            // Whoever cancels after this wakes the task; who cancelled before it is seen below.
            for wait in &waits {
                wait.state.waiting().insert(wait.number, task.waker().clone());
            }
            let asked = tokens.iter().try_for_each(|token| token.check(what));
            asked.map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
        })
        .await
    }

    /// For what begins now nobody has asked yet.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn reset(&self) {
        self.0.is_cancelled.store(false, SeqCst);
    }
}
