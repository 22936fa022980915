//! Kernels that compute the same, timed on a model's own shapes.

use std::collections::BTreeMap;

use super::{
    super::{
        prepared::PreparedPlan,
        resident::{ResidentWeight, ResidentWeights},
    },
    Bench, TrialRun,
    trial::Trial,
};
use crate::{
    Error, Result,
    error::DeviceError,
    ir::{Alternatives, KernelChoices, Op, kernel::Target},
    lower::{Part, parts},
    platform::Instant,
};

/// Parts with the same work that are run in turn, so that a large cache does not hold their weights.
const MOST_PARTS: usize = 8;

/// Bytes of weights from which that is worth making the inputs of more than one.
const LARGE: u64 = 1 << 20;

/// Times that each kernel is timed, the kernels in turn.
const ROUNDS: usize = 5;

/// Dispatches of a kernel in one timed submit, so that submitting is a small part of it.
const DISPATCHES: usize = 64;

/// How much faster than the first choice another must be, as a clock is never quite right.
const GAIN: f64 = 0.97;

/// Parts that work alike, of which the kernel is to be chosen.
struct Work<'a> {
    alternatives: Alternatives,
    run: &'a TrialRun<'a>,
    parts: Vec<Part>,
    /// Bytes of the weights of all such parts.
    bytes: u64,
}

impl Bench<'_> {
    /// Times the alternatives that `choices` do not know, those first that read most, until the time is up.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] and its like.
    pub(crate) fn take_fastest(&self, target: &Target, choices: &mut KernelChoices, deadline: Instant) -> Result<()> {
        for work in self.untimed(&Self::with(target, choices))? {
            self.go_on()?;
            if Instant::now() > deadline {
                tracing::debug!(work.alternatives.work, "no time is left to time this and what reads less");
                break;
            }
            match self.fastest(&work, target, choices, deadline) {
                Ok(Some(chosen)) => choices.take(&work.alternatives, chosen),
                Ok(None) => {}
                Err(
                    error @ (Error::Device(DeviceError::OutOfMemory { .. })
                    | Error::Device(DeviceError::Shader { .. })
                    | Error::Device(DeviceError::Driver { .. })),
                ) => {
                    tracing::debug!(work.alternatives.work, %error, "not timed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn untimed(&self, target: &Target) -> Result<Vec<Work<'_>>> {
        let mut found: BTreeMap<String, Work> = BTreeMap::new();
        for run in &self.runs {
            for part in parts(run.graph, &run.binding(), target, &run.options, &ResidentWeights(self.resident))? {
                let bytes = self.bytes(&part);
                for alternatives in (self.lower)(&part, run, target)?.alternatives {
                    if target.choices.is_timed(&alternatives) {
                        continue;
                    }
                    let empty = || Work { alternatives: alternatives.clone(), run, parts: Vec::new(), bytes: 0 };
                    let work = found.entry(alternatives.work.clone()).or_insert_with(empty);
                    work.bytes += bytes;
                    if work.parts.len() < if bytes < LARGE { 1 } else { MOST_PARTS } {
                        work.parts.push(part.clone());
                    }
                }
            }
        }
        let mut works: Vec<Work> = found.into_values().collect();
        works.sort_by_key(|work| std::cmp::Reverse(work.bytes));
        Ok(works)
    }

    fn bytes(&self, part: &Part) -> u64 {
        let weights = part.graph.nodes().iter().filter_map(|node| match &node.op {
            Op::Weight(weight) => self.resident.get(&weight.name),
            _ => None,
        });
        weights.map(ResidentWeight::byte_len).sum()
    }

    /// The fastest alternative; none where the time was up before each had run.
    fn fastest(&self, work: &Work, target: &Target, choices: &KernelChoices, deadline: Instant) -> Result<Option<usize>> {
        let context = self.pipelines.context();
        let trials = work.parts.iter().map(|part| Trial::new(self, part, work.run)).collect::<Result<Vec<_>>>()?;
        let mut candidates: Vec<Vec<PreparedPlan>> = Vec::new();
        for chosen in 0..work.alternatives.count {
            let mut choices = choices.clone();
            choices.take(&work.alternatives, chosen);
            let target = Self::with(target, &choices);
            let prepare = |(trial, part): (&Trial, &Part)| Ok(trial.prepare(&(self.lower)(part, work.run, &target)?)?.0);
            candidates.push(trials.iter().zip(&work.parts).map(prepare).collect::<Result<_>>()?);
            // Drivers may compile at the first run.
            context.time_whole(&candidates[chosen].iter().collect::<Vec<_>>())?;
            self.go_on()?;
            if Instant::now() > deadline {
                return Ok(None);
            }
        }
        let repeated = |plans: &[PreparedPlan]| -> Result<f64> {
            let all: Vec<&PreparedPlan> = plans.iter().cycle().take(DISPATCHES.next_multiple_of(plans.len())).collect();
            context.time_whole(&all)
        };
        let mut seconds = vec![Vec::new(); candidates.len()];
        for _ in 0..ROUNDS {
            for (plans, seconds) in candidates.iter().zip(&mut seconds) {
                seconds.push(repeated(plans)?);
            }
            if Instant::now() > deadline {
                break;
            }
        }
        let medians: Vec<f64> = seconds.into_iter().map(median).collect();
        let best = (0..medians.len()).min_by(|a, b| medians[*a].total_cmp(&medians[*b])).unwrap_or(0);
        let chosen = if medians[best] < GAIN * medians[0] { best } else { 0 };
        tracing::debug!(work.alternatives.work, chosen, ?medians, "kernels timed");
        Ok(Some(chosen))
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
