//! Errors that arrive outside of any call: device loss and uncaptured errors.

use std::sync::{Mutex, OnceLock};

use crate::{Error, Result, error::DeviceError};

/// Errors that no call reported. Shared with the callbacks that wgpu holds.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    lost: OnceLock<String>,
    uncaptured: Mutex<Option<String>>,
}

impl Faults {
    /// The device is gone for good; the first reason is kept.
    pub fn lose(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "GPU device lost");
        self.lost.get_or_init(|| reason);
    }

    /// An error that no scope caught; the next call reports it, once.
    pub fn uncaptured(&self, message: String) {
        tracing::error!(%message, "GPU error outside of any call");
        if let Ok(mut slot) = self.uncaptured.lock() {
            slot.get_or_insert(message);
        }
    }

    pub fn lost(&self) -> Option<Error> {
        self.lost.get().map(|reason| Error::Device(DeviceError::Lost(reason.clone())))
    }

    /// The fault to report now, if any.
    pub fn check(&self) -> Result<()> {
        if let Some(error) = self.lost() {
            return Err(error);
        }
        match self.uncaptured.lock().ok().and_then(|mut slot| slot.take()) {
            Some(message) => Err(Error::Device(DeviceError::Driver { what: "an earlier call".into(), message })),
            None => Ok(()),
        }
    }
}
