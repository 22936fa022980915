//! Every case of every op in every tier, against the reference.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use gemmaflow::{
    Error,
    error::DeviceError,
    internals::{
        ir::{Case, LowerOptions, kernel::Target},
        plan::Plan,
        reference::{Deviation, deviation, expected},
        runtime::PipelineCache,
    },
    ir::{Compute, Op, Value},
    runtime::GpuContext,
};

use crate::{
    cases::{cases, plan_with, products, run},
    parts::Scope,
    report::{Tier, Wrong, without_folders},
};

/// A device that is lost again and again is left alone.
const MOST_LOSSES: usize = 3;

/// A case with the numbers of its products.
#[derive(Clone)]
pub struct Trial {
    pub case: Case,
    pub compute: Compute,
}

impl Trial {
    fn options(&self) -> LowerOptions {
        LowerOptions { compute: self.compute, mixed: false, ..LowerOptions::default() }
    }
}

/// What is tried on a device: all cases in f32, products in f16 too where the device has it. First one of each op, then
/// the second of each, so that one that ends early has seen all ops.
pub fn trials(target: &Target) -> Vec<Trial> {
    let mut by_op: BTreeMap<&str, Vec<Trial>> = BTreeMap::new();
    for case in cases() {
        if target.f16 && matches!(case.op, Op::Linear(_)) {
            by_op.entry("linear in f16").or_default().push(Trial { case: case.clone(), compute: Compute::F16 });
        }
        by_op.entry(case.op.name()).or_default().push(Trial { case, compute: Compute::F32 });
    }
    if target.cooperative.is_some() {
        by_op.insert("matrices", products().into_iter().map(|case| Trial { case, compute: Compute::F16 }).collect());
    }
    let most = by_op.values().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|index| by_op.values().filter_map(move |trials| trials.get(index)).cloned().collect::<Vec<_>>()).collect()
}

/// Why a case is wrong.
pub enum Fault {
    DoesNotCompile(Error),
    DoesNotRun(Error),
    /// Of another type or shape, or the reference could not say.
    Unlike(String),
    Off(Deviation),
}

/// Compiles and runs the plan of a case and compares what comes out with what should.
///
/// # Errors
/// What is wrong with it.
pub fn examine(pipelines: &PipelineCache, plan: &Plan, trial: &Trial, right: &Value) -> Result<Deviation, Fault> {
    pipelines.prepare(plan.dispatches.iter().map(|dispatch| &dispatch.kernel)).map_err(Fault::DoesNotCompile)?;
    let found = run(pipelines, plan, &trial.case).map_err(Fault::DoesNotRun)?;
    let deviation = deviation(&trial.case, trial.compute, right, &found).map_err(Fault::Unlike)?;
    if deviation.fits() { Ok(deviation) } else { Err(Fault::Off(deviation)) }
}

/// The line of a report for a fault.
pub fn wrong(tier: &'static str, plan: Option<&Plan>, trial: &Trial, fault: &Fault) -> Wrong {
    let kernels = plan.into_iter().flat_map(|plan| plan.dispatches.iter().map(|dispatch| dispatch.kernel.to_string()));
    let mut wrong = Wrong {
        op: trial.case.op.name().into(),
        case: trial.case.name.clone(),
        tier,
        numbers: trial.compute.name(),
        kernels: kernels.collect(),
        ..Wrong::default()
    };
    wrong.problem = match fault {
        Fault::DoesNotCompile(error) => format!("does not compile: {}", without_folders(&error.to_string())),
        Fault::DoesNotRun(error) => format!("does not run: {}", without_folders(&error.to_string())),
        Fault::Unlike(problem) => problem.clone(),
        Fault::Off(deviation) => deviation.to_string(),
    };
    if let Fault::Off(deviation) = fault {
        wrong.error = Some((deviation.found - deviation.expected).abs());
        wrong.allowed = Some(deviation.allowed);
        wrong.share = Some(deviation.share);
    }
    wrong
}

/// What all tiers share: results of the reference, and the plans that ran.
#[derive(Default)]
pub struct Known {
    expected: HashMap<String, Arc<Value>>,
    ran: BTreeSet<String>,
}

/// Tries everything in one tier, as far as there is time, and puts what is found into the report as it goes. `open`
/// opens the device, again where it was lost.
///
/// # Errors
/// Those of `open`.
pub fn examine_tier(
    name: &'static str,
    scope: &Scope,
    known: &mut Known,
    open: &dyn Fn() -> anyhow::Result<Arc<GpuContext>>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    scope.at(&format!("opening the device for the tier {name}"));
    let mut pipelines = PipelineCache::new(&open()?);
    let target = pipelines.context().capabilities().target();
    let trials = trials(&target);
    let mut tier = Tier { name, cases: trials.len(), ..Tier::default() };
    let (mut losses, mut made) = (0, 0);
    for (index, trial) in trials.iter().enumerate() {
        tier.not_reached = trials.len() - index;
        publish(scope, &tier);
        if scope.over() || losses == MOST_LOSSES {
            break;
        }
        scope.at(&format!("tier {name}, {} '{}' in {}", trial.case.op.name(), trial.case.name, trial.compute.name()));
        let lost = try_one(&pipelines, &target, trial, known, &mut tier);
        tier.not_reached -= 1;
        if lost {
            losses += 1;
            made += pipelines.context().counters().snapshot().pipelines_created;
            pipelines = PipelineCache::new(&open()?);
        }
    }
    tier.pipelines = made + pipelines.context().counters().snapshot().pipelines_created;
    tier.seconds = start.elapsed().as_secs_f64();
    publish(scope, &tier);
    Ok(())
}

/// Puts a tier into the report, in place of what was known of it before.
fn publish(scope: &Scope, tier: &Tier) {
    scope.change(|report| match report.kernels.iter_mut().find(|known| known.name == tier.name) {
        Some(known) => *known = tier.clone(),
        None => report.kernels.push(tier.clone()),
    });
}

/// Tries one case; whether the device was lost.
fn try_one(pipelines: &PipelineCache, target: &Target, trial: &Trial, known: &mut Known, tier: &mut Tier) -> bool {
    let plan = match plan_with(&trial.case, target, &trial.options()) {
        Ok(plan) => plan,
        Err(error) => {
            tier.wrong.push(wrong(tier.name, None, trial, &Fault::DoesNotCompile(error)));
            return false;
        }
    };
    let key = format!("{} '{}'", trial.case.op.name(), trial.case.name);
    if !known.ran.insert(format!("{key} {plan:?}")) {
        tier.same += 1;
        return false;
    }
    let right = match known.expected.get(&key).cloned().map_or_else(|| expected(&trial.case).map(Arc::new), Ok) {
        Ok(right) => right,
        Err(error) => {
            tier.wrong.push(wrong(tier.name, Some(&plan), trial, &Fault::Unlike(error.to_string())));
            return false;
        }
    };
    known.expected.insert(key.clone(), right.clone());
    match examine(pipelines, &plan, trial, &right) {
        Ok(deviation) => {
            tier.right += 1;
            if deviation.share > tier.worst {
                (tier.worst, tier.worst_case) = (deviation.share, key);
            }
            false
        }
        Err(fault) => {
            tier.wrong.push(wrong(tier.name, Some(&plan), trial, &fault));
            matches!(
                fault,
                Fault::DoesNotRun(Error::Device(DeviceError::Lost(_)))
                    | Fault::DoesNotCompile(Error::Device(DeviceError::Lost(_)))
            )
        }
    }
}
