//! Runs of a graph in several submits, so that none keeps the device for longer than an application wants.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    cancel::CancelToken,
    plan::{Estimate, HOST_CLOCK_MOST, SOFTWARE_RATE, slice_end, total},
};

/// How long a submit of a run may keep the device, and who may end the run.
#[derive(Debug, Clone, Default)]
pub(crate) struct SubmitBound {
    /// About the longest that a submit may take; `None` for a run in one submit.
    pub(crate) most: Option<Duration>,
    /// Ends the run between two submits.
    pub(crate) cancel: CancelToken,
}

/// The estimated time of a plan's dispatches, and how much slower the device was.
#[derive(Debug, Default)]
pub(super) struct Pace {
    estimates: Arc<[Estimate]>,
    /// Measured time over estimated time; until one was measured, that of the slowest device.
    rate: f64,
    is_measured: bool,
}

impl Pace {
    pub(super) fn new(estimates: Arc<[Estimate]>, software: bool) -> Self {
        let rate = if software { SOFTWARE_RATE } else { 1.0 };
        Self { estimates, rate, is_measured: false }
    }

    /// The slice that begins with the dispatch `start`; `None` where there is none.
    pub(super) fn slice(&self, start: usize, most: Option<Duration>) -> Option<Range<usize>> {
        let most = most.map_or(f64::INFINITY, |most| most.as_secs_f64() / self.rate);
        (start < self.estimates.len()).then(|| start..slice_end(&self.estimates, start, most))
    }

    /// Takes the time of a slice on the host's clock.
    pub(super) fn learn(&mut self, slice: Range<usize>, took: Duration) {
        let found = (took.as_secs_f64() / total(&self.estimates[slice])).min(HOST_CLOCK_MOST);
        // A clock that stands still says nothing.
        if !found.is_finite() || found <= 0.0 {
            return;
        }
        self.rate = if self.is_measured { (self.rate + found) / 2.0 } else { found };
        self.is_measured = true;
    }
}

#[cfg(test)]
mod tests;
