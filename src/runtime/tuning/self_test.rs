//! Kernels that are wrong on a device, found and replaced.

use super::{super::resident::ResidentWeights, Bench, TrialRun, trial::Trial};
use crate::{
    Error, Result,
    checksum::Fnv,
    error::DeviceError,
    ir::{
        Fallback, KernelChoices,
        kernel::{Kernel, Target, Tier},
    },
    lower::{Part, parts},
    plan::Plan,
    platform::Instant,
};

/// A kernel that is wrong, with the part of the model that it was found in.
struct Wrong {
    part: Part,
    plan: Plan,
    problem: String,
}

impl Bench<'_> {
    /// Tests every kernel that `choices` do not know to be right, and replaces wrong ones until all are right or the
    /// time is up.
    ///
    /// # Errors
    /// [`DeviceError::WrongKernel`] where an op has no safer kernel; [`DeviceError::Lost`] and its like.
    pub(crate) fn replace_wrong(&self, target: &Target, choices: &mut KernelChoices, deadline: Instant) -> Result<()> {
        while let Some(wrong) = self.first_wrong(target, choices, deadline)? {
            self.replace(target, choices, &wrong)?;
        }
        Ok(())
    }

    fn first_wrong(&self, target: &Target, choices: &mut KernelChoices, deadline: Instant) -> Result<Option<Wrong>> {
        let target = Self::with(target, choices);
        for run in &self.runs {
            for part in parts(run.graph, &run.binding(), &target, &run.options, &ResidentWeights(self.resident))? {
                let plan = (self.lower)(&part, run, &target)?;
                let kernels: Vec<u64> = plan.dispatches.iter().map(|dispatch| fingerprint(&dispatch.kernel)).collect();
                if kernels.iter().all(|kernel| choices.is_right(*kernel)) {
                    continue;
                }
                self.go_on()?;
                if Instant::now() > deadline {
                    tracing::debug!(tested = choices.tested(), "no time is left to test the other kernels");
                    return Ok(None);
                }
                match self.problem(&part, run, &plan) {
                    Ok(None) => kernels.into_iter().for_each(|kernel| choices.found_right(kernel)),
                    Ok(Some(problem)) => return Ok(Some(Wrong { part, plan, problem })),
                    // It says nothing of the kernel.
                    Err(Error::Device(DeviceError::OutOfMemory { what, .. })) => {
                        tracing::debug!(part.label, what, "no memory to test a kernel")
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    fn problem(&self, part: &Part, run: &TrialRun, plan: &Plan) -> Result<Option<String>> {
        Ok(Trial::new(self, part, run)?.check(plan)?.err())
    }

    /// Takes another kernel than the wrong one: the first choice, then safer ones.
    fn replace(&self, target: &Target, choices: &mut KernelChoices, wrong: &Wrong) -> Result<()> {
        let Wrong { part, plan, problem } = wrong;
        let capabilities = self.pipelines.context().capabilities();
        let adapter = &capabilities.adapter;
        let driver = &capabilities.driver;
        let kernel: Vec<&str> = plan.dispatches.iter().map(|dispatch| dispatch.kernel.shader).collect();
        let kernel = kernel.join(", ");
        let chosen: Vec<_> = plan.alternatives.iter().filter(|alternatives| choices.of(alternatives) > 0).collect();
        if !chosen.is_empty() {
            tracing::warn!(kernel, part.label, adapter, driver, problem, "wrong kernel: taking the first choice instead");
            chosen.into_iter().for_each(|alternatives| choices.take(alternatives, 0));
            return Ok(());
        }
        let matrices = target.cooperative.is_some() && plan.dispatches.iter().any(|d| d.kernel.uses_matrices());
        let safer = match choices.fallback(part.op) {
            None if matrices => Some(Fallback::NoMatrices),
            Some(Fallback::Portable) => None,
            _ if target.tier != Tier::Portable && part.op != "region" => Some(Fallback::Portable),
            _ => None,
        };
        let Some(safer) = safer else {
            let kernel = format!("{kernel} ({})", part.label);
            let device = format!("'{adapter}', driver {driver}");
            return Err(Error::Device(DeviceError::WrongKernel { kernel, device, problem: problem.clone() }));
        };
        tracing::warn!(kernel, part.label, adapter, driver, problem, "wrong kernel: taking those that are {}", safer.name());
        choices.fall_back(part.op, safer);
        Ok(())
    }
}

/// A number for a kernel whatever the sizes that it works on.
fn fingerprint(kernel: &Kernel) -> u64 {
    Fnv::of(Kernel { overrides: Vec::new(), ..kernel.clone() }.key().as_bytes())
}
