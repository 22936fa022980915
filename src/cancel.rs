//! Asking for an end from elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{Error, Result};

/// Asks for the end of what is under way: loading, reading a prompt, an answer, embedding texts. Clones are the same
/// token; any thread may cancel.
///
/// Work that is cancelled does not wait for the device: a submit that was handed over runs to its end while the caller
/// goes on, and what is asked for next waits for it.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// One that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Never blocks.
    pub fn cancel(&self) {
        self.0.store(true, Relaxed);
    }

    /// Returns `true` if the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Fails where the end of `what` was asked for.
    pub(crate) fn check(&self, what: &'static str) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled(what)) } else { Ok(()) }
    }

    /// For what begins now nobody has asked yet.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn reset(&self) {
        self.0.store(false, Relaxed);
    }
}
