//! How long the dispatches of a run may take, and where to cut it.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{Live, Plan, cost};

/// Multiplications and additions a second of the slowest GPU, by which runs are cut that were never measured.
pub(crate) const SLOWEST: u64 = 100_000_000_000;

/// Bytes a second of the slowest GPU.
const SLOWEST_MEMORY: f64 = 10e9;

/// The host's clock also counts what an application has submitted in between: by it no device is taken for slower than
/// this many times the slowest.
pub(crate) const HOST_CLOCK_MOST: f64 = 4.0;

/// How long a submit may keep a driver on the CPU where nothing else was asked for: a run that is given up ends soon,
/// and so does its process. Each submit costs such a driver some 0.1 ms.
pub(crate) const SOFTWARE_MOST: Duration = Duration::from_millis(500);

/// How much slower than the slowest GPU such a driver is taken for until it was measured.
pub(crate) const SOFTWARE_RATE: f64 = 8.0;

/// Seconds that a dispatch takes which moves and computes nothing.
const LEAST: f64 = 20e-6;

/// Seconds of a dispatch on the slowest device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// To move its operands and results, which hardly grows with the tokens of a run.
    moving: f64,
    /// To compute, which grows with them.
    computing: f64,
}

impl Estimate {
    pub(crate) fn seconds(&self) -> f64 {
        self.moving + self.computing
    }

    /// Tokens with which a dispatch that has this estimate at `tokens` takes `most` seconds.
    pub(crate) fn tokens_within(&self, most: f64, tokens: usize) -> f64 {
        (most - self.moving) / self.computing.max(1e-12) * tokens as f64
    }
}

/// The estimated time of each dispatch of a run.
pub(crate) fn estimate(plan: &Plan, live: Live, shard_bytes: &dyn Fn(&str, usize) -> u64) -> Arc<[Estimate]> {
    let of = |dispatch| {
        let cost = cost(plan, dispatch, live, shard_bytes);
        let moving = LEAST + cost.bytes as f64 / SLOWEST_MEMORY;
        Estimate { moving, computing: cost.flops as f64 / SLOWEST as f64 }
    };
    plan.dispatches.iter().map(of).collect()
}

pub(crate) fn total(estimates: &[Estimate]) -> f64 {
    estimates.iter().map(Estimate::seconds).sum()
}

/// The end of the slice that begins with the dispatch `start`: consecutive dispatches that take at most `most` seconds
/// together, or one that takes longer alone.
pub(crate) fn slice_end(estimates: &[Estimate], start: usize, most: f64) -> usize {
    let mut time = 0.0;
    let too_long = |(index, estimate): &(usize, &Estimate)| {
        time += estimate.seconds();
        *index > start && time > most
    };
    estimates.iter().enumerate().skip(start).find(too_long).map_or(estimates.len(), |(index, _)| index)
}

/// The slices of at most `most` seconds. One at least.
pub(crate) fn cut(estimates: &[Estimate], most: f64) -> Vec<Range<usize>> {
    let mut slices = Vec::new();
    let mut start = 0;
    loop {
        let end = slice_end(estimates, start, most);
        slices.push(start..end);
        start = end;
        if start == estimates.len() {
            return slices;
        }
    }
}

#[cfg(test)]
pub(crate) fn moving(seconds: &[f64]) -> Vec<Estimate> {
    seconds.iter().map(|moving| Estimate { moving: *moving, computing: 0.0 }).collect()
}

#[cfg(test)]
mod tests;
