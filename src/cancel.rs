//! Asking for an end from elsewhere.

#[cfg(any(feature = "audio", feature = "vision"))]
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Waker,
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
    /// Tasks that wait for something else, and wake where the end is asked for.
    waiting: Mutex<Vec<Waker>>,
}

impl CancelToken {
    /// One that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Waits for nothing.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
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
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(crate) async fn unless<T>(&self, what: &'static str, future: impl Future<Output = T>) -> Result<T> {
        let mut future = pin!(future);
        poll_fn(|task| {
            if let Poll::Ready(found) = future.as_mut().poll(task) {
                self.forget(task.waker());
                return Poll::Ready(Ok(found));
            }
            // Whoever cancels after this wakes the task; who cancelled before it is seen below.
            self.forget(task.waker());
            self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(task.waker().clone());
            self.check(what).map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
        })
        .await
    }

    #[cfg(any(feature = "audio", feature = "vision"))]
    fn forget(&self, waker: &Waker) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|waiting| !waiting.will_wake(waker));
    }

    /// For what begins now nobody has asked yet.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn reset(&self) {
        self.0.is_cancelled.store(false, SeqCst);
    }
}
