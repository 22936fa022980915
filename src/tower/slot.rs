//! A tower that is loaded when it is first asked for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Result;

/// A place for an encoder, which belongs to one device.
pub(crate) struct Slot<E> {
    /// With a number that tells devices apart: that of a device that was opened later is larger.
    held: Mutex<Option<(E, u64)>>,
    /// Held by whoever loads one.
    loading: async_lock::Mutex<()>,
}

impl<E> Default for Slot<E> {
    fn default() -> Self {
        Self { held: Mutex::new(None), loading: async_lock::Mutex::new(()) }
    }
}

impl<E: Clone> Slot<E> {
    /// The encoder of the device that `now` tells, or the one that `load` loads there. One caller loads, those that
    /// come meanwhile wait for it.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) async fn get_or_load<D, F>(&self, now: impl FnOnce() -> (D, u64), load: impl FnOnce(D) -> F) -> Result<E>
    where
        F: Future<Output = Result<E>>,
    {
        let _turn = self.loading.lock().await;
        let (device, number) = now();
        if let Some((encoder, _)) = self.held().as_ref().filter(|(_, of)| *of == number) {
            return Ok(encoder.clone());
        }
        // First, so that there is room for the new one.
        self.clear();
        let loaded = load(device).await?;
        // One that was given meanwhile stays, to this device or to one that was opened since.
        let given = self.held().as_ref().filter(|(_, of)| *of >= number).cloned();
        match given {
            Some((encoder, of)) if of == number => Ok(encoder),
            Some(_) => Ok(loaded),
            None => {
                self.put(loaded.clone(), number);
                Ok(loaded)
            }
        }
    }

    /// Holds `encoder` from now on.
    pub(crate) fn put(&self, encoder: E, number: u64) {
        let before = self.held().replace((encoder, number));
        drop(before);
    }

    /// Lets the encoder go.
    pub(crate) fn clear(&self) {
        // Freeing a device's memory may take time, so it is done while nobody waits.
        let before = self.held().take();
        drop(before);
    }

    fn held(&self) -> MutexGuard<'_, Option<(E, u64)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
