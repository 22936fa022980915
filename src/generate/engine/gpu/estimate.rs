//! How long the dispatches of a run may take, and where to cut it.

use std::{ops::Range, sync::Arc};

use super::chunk_sizer::SLOWEST;
use crate::plan::{Live, Plan, cost};

/// Bytes a second of the slowest GPU, by which runs are cut that were never measured.
const SLOWEST_MEMORY: f64 = 10e9;

/// Seconds that a dispatch takes which moves and computes nothing.
const LEAST: f64 = 20e-6;

/// Seconds of a dispatch on the slowest device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    /// To move its operands and results, which hardly grows with the tokens of a run.
    moving: f64,
    /// To compute, which grows with them.
    computing: f64,
}

impl Estimate {
    fn seconds(&self) -> f64 {
        self.moving + self.computing
    }

    /// Tokens with which a dispatch that has this estimate at `tokens` takes `most` seconds.
    pub(super) fn tokens_within(&self, most: f64, tokens: usize) -> f64 {
        (most - self.moving) / self.computing.max(1e-12) * tokens as f64
    }
}

/// The estimated time of each dispatch of a run.
pub(super) fn estimate(plan: &Plan, live: Live, shard_bytes: &dyn Fn(&str, usize) -> u64) -> Arc<[Estimate]> {
    let of = |dispatch| {
        let cost = cost(plan, dispatch, live, shard_bytes);
        let moving = LEAST + cost.bytes as f64 / SLOWEST_MEMORY;
        Estimate { moving, computing: cost.flops as f64 / SLOWEST as f64 }
    };
    plan.dispatches.iter().map(of).collect()
}

pub(super) fn total(estimates: &[Estimate]) -> f64 {
    estimates.iter().map(Estimate::seconds).sum()
}

/// Consecutive dispatches that take at most `most` together, or one that takes longer alone. One slice at least.
pub(super) fn cut(estimates: &[Estimate], most: f64) -> Vec<Range<usize>> {
    let mut slices = Vec::new();
    let mut start = 0;
    let mut time = 0.0;
    for (index, estimate) in estimates.iter().enumerate() {
        if index > start && time + estimate.seconds() > most {
            slices.push(start..index);
            start = index;
            time = 0.0;
        }
        time += estimate.seconds();
    }
    slices.push(start..estimates.len());
    slices
}

#[cfg(test)]
pub(super) fn moving(seconds: &[f64]) -> Vec<Estimate> {
    seconds.iter().map(|moving| Estimate { moving: *moving, computing: 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_consecutive_and_within_the_time_where_a_dispatch_is() {
        let ends = |seconds: &[f64], most| {
            let slices = cut(&moving(seconds), most);
            slices.iter().map(|slice| (slice.start, slice.end)).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[1.0, 1.0, 1.0, 5.0, 1.0, 1.0], 2.0), [(0, 2), (2, 3), (3, 4), (4, 6)]);
        assert_eq!(ends(&[1.0; 3], f64::INFINITY), [(0, 3)]);
        assert_eq!(ends(&[1.0; 3], 0.0), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(ends(&[], 1.0), [(0, 0)]);
    }
}
