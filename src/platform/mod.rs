//! What a browser does otherwise than other systems: clocks, threads, waits and files.
//!
//! A browser's thread may not block, there is one of it, and there are no files. All else of this crate is the same
//! everywhere.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(test)]
mod tests;
#[cfg(any(test, target_arch = "wasm32"))]
mod web;

use std::future::Future;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
#[cfg(target_arch = "wasm32")]
pub(crate) use web::*;

use crate::{Error, Result, error::DeviceError};

/// What `future` resolves to.
///
/// # Errors
/// Those of `future`; [`DeviceError::WouldBlock`] where it is not ready and this thread may not block for `what`.
pub(crate) fn wait<T>(what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    at_once(future).unwrap_or_else(|| Err(would_block(what)))
}

/// As [`wait`], of results of which there are `count`: each has the error where this thread may not block.
pub(crate) fn wait_each<T>(what: &str, count: usize, future: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
    at_once(future).unwrap_or_else(|| (0..count).map(|_| Err(would_block(what))).collect())
}

/// The error of a wait for `what` on a thread that may not block.
pub(crate) fn would_block(what: &str) -> Error {
    Error::Device(DeviceError::WouldBlock { what: what.to_owned() })
}
