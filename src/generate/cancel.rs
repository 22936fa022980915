//! Asking for an end from elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Asks for the end of what is under way: loading, reading a prompt, an answer. Clones are the same token; any thread may cancel, and
/// the work ends after the submit that the device is at.
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

    /// Whether the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// For what begins now nobody has asked yet.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn reset(&self) {
        self.0.store(false, Relaxed);
    }
}
