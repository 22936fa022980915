//! Finding out on the machine itself which kernels are right and which of several is fastest.
//!
//! A [`Trial`] runs one kernel of a plan apart from its model, with the model's own weights. The self-test compares it with the
//! reference and replaces what is wrong; timing tries [`Alternatives`](crate::ir::Alternatives) and keeps the fastest.

mod self_test;
mod timing;
mod trial;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use trial::Run;

use super::{pipeline::PipelineCache, resident::ResidentWeight};
use crate::{
    Result,
    cancel::CancelToken,
    flow::ModelParams,
    ir::{KernelChoices, kernel::Target},
    lower::Part,
    plan::Plan,
};

/// How much time may go into trying kernels when a model is loaded ([`GpuOptions::tuning`](super::GpuOptions::tuning)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tuning {
    /// None: every op takes the kernel that suits the device by what it says of itself.
    Off,
    /// At most a second for timing kernels, once an adapter and driver. Kernels are tested as well, so that a wrong one is replaced.
    /// Nothing of it happens on adapters that compute on the CPU.
    #[default]
    Quick,
    /// At most a minute for timing, on any adapter.
    Thorough,
    /// None: the choices of an earlier start, as [`GpuContext::kernel_choices`](super::GpuContext::kernel_choices) gave them.
    Given(KernelChoices),
}

/// The longest that testing and timing may take, each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) test: Duration,
    pub(super) timing: Duration,
}

impl Tuning {
    /// What may be spent on a device; nothing is tried without a budget.
    pub(super) fn budget(&self, software: bool) -> Option<Budget> {
        let seconds = |test, timing| Some(Budget { test: Duration::from_secs(test), timing: Duration::from_secs(timing) });
        match self {
            Tuning::Quick if !software => seconds(5, 1),
            Tuning::Thorough => seconds(120, 60),
            Tuning::Off | Tuning::Quick | Tuning::Given(_) => None,
        }
    }
}

/// A model's weights, on the device and as they are in the files.
pub(super) struct Bench<'a> {
    pub(super) pipelines: &'a PipelineCache,
    pub(super) resident: &'a HashMap<String, ResidentWeight>,
    pub(super) params: &'a ModelParams,
    pub(super) runs: Vec<Run<'a>>,
    /// Ends it between two kernels.
    pub(super) cancel: CancelToken,
    /// Makes the plan of a part.
    pub(super) lower: &'a dyn Fn(&Part, &Run, &Target) -> Result<Plan>,
}

impl Bench<'_> {
    /// Tests the kernels of the runs, then times those that compete if `timed`, and tests what was chosen.
    ///
    /// # Errors
    /// [`Error::WrongKernel`](crate::Error::WrongKernel) where no kernel of an op is right; [`Error::Cancelled`](crate::Error::Cancelled),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub(super) fn choose(&self, target: &Target, budget: Budget, timed: bool) -> Result<KernelChoices> {
        let start = Instant::now();
        let mut choices = (*target.choices).clone();
        self.replace_wrong(target, &mut choices, start + budget.test)?;
        let tested = Instant::now();
        if timed {
            self.take_fastest(target, &mut choices, tested + budget.timing)?;
            self.replace_wrong(target, &mut choices, Instant::now() + budget.test)?;
        }
        tracing::debug!(kernels = choices.tested(), test = ?(tested - start), timing = ?tested.elapsed(), "kernels tried");
        Ok(choices)
    }

    fn go_on(&self) -> Result<()> {
        self.cancel.check("trying a model's kernels")
    }

    fn with(target: &Target, choices: &KernelChoices) -> Target {
        Target { choices: Arc::new(choices.clone()), ..target.clone() }
    }
}
