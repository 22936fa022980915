//! Finding out on the machine itself which kernels are right and which of several is fastest.
//!
//! A [`Trial`] runs one kernel of a plan apart from its model, with the model's own weights. The self-test compares it
//! with the reference and replaces what is wrong; timing tries [`Alternatives`](crate::ir::Alternatives) and keeps the
//! fastest.

mod self_test;
mod timing;
mod trial;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub(crate) use trial::TrialRun;

use super::{pipeline::PipelineCache, resident::ResidentWeight};
use crate::{
    Result,
    cancel::CancelToken,
    flow::ModelParams,
    ir::{KernelChoices, kernel::Target},
    lower::Part,
    plan::Plan,
    platform::Instant,
};

/// How much time may go into trying kernels when a model is loaded ([`GpuOptions::tuning`](super::GpuOptions::tuning)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tuning {
    /// None: every op takes the kernel that suits the device by what it says of itself.
    Off,
    /// At most a second for timing kernels, once an adapter and driver. Kernels are tested as well, so that a wrong one
    /// is replaced. Nothing of it happens on adapters that compute on the CPU.
    #[default]
    Quick,
    /// At most a minute for timing, on any adapter.
    Thorough,
    /// None: the choices of an earlier start, as [`GpuContext::kernel_choices`](super::GpuContext::kernel_choices) gave
    /// them.
    Given(KernelChoices),
}

/// The longest that testing and timing may take, each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) test: Duration,
    pub(crate) timing: Duration,
}

impl Tuning {
    /// The time that may be spent on a device; nothing is tried without a budget.
    pub(crate) fn budget(&self, software: bool) -> Option<Budget> {
        let seconds = |test, timing| Some(Budget { test: Duration::from_secs(test), timing: Duration::from_secs(timing) });
        match self {
            Tuning::Quick if !software => seconds(5, 1),
            Tuning::Thorough => seconds(120, 60),
            Tuning::Off | Tuning::Quick | Tuning::Given(_) => None,
        }
    }
}

/// A model's weights, on the device and as they are in the files.
pub(crate) struct Bench<'a> {
    pub(crate) pipelines: &'a PipelineCache,
    pub(crate) resident: &'a HashMap<String, ResidentWeight>,
    pub(crate) params: &'a ModelParams,
    pub(crate) runs: Vec<TrialRun<'a>>,
    /// Ends it between two kernels.
    pub(crate) cancel: CancelToken,
    /// Makes the plan of a part.
    pub(crate) lower: &'a dyn Fn(&Part, &TrialRun, &Target) -> Result<Plan>,
}

impl Bench<'_> {
    /// Tests the kernels of the runs, then times those that compete if `timed`, and tests what was chosen.
    ///
    /// # Errors
    /// [`DeviceError::WrongKernel`](crate::error::DeviceError::WrongKernel) where no kernel of an op is right;
    /// [`Error::Cancelled`](crate::Error::Cancelled), [`DeviceError::Lost`](crate::error::DeviceError::Lost).
    pub(crate) fn choose(&self, target: &Target, budget: Budget, timed: bool) -> Result<KernelChoices> {
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
