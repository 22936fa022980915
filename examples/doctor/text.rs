//! The report for people.

use std::fmt::Write;

use indicatif::HumanBytes;

use crate::{
    first_token::FIRST,
    report::{Adapter, FirstStart, Rate, Rates, Report, Speed, Step, Tier, Tuned},
};

/// Wrong cases of a tier that are written out; the file has all.
const SHOWN: usize = 20;

/// Adds a line; writing to a text cannot fail.
macro_rules! line {
    ($out:expr, $($part:tt)*) => { let _ = writeln!($out, $($part)*); };
}

pub fn adapter(adapter: &Adapter) -> String {
    let mut out = String::from("\nADAPTER\n");
    let features: Vec<String> = adapter.features.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let limit = |(name, value): (&&str, &u64)| match name.strip_suffix("_bytes") {
        Some(name) => format!("{name} {}", HumanBytes(*value)),
        None => format!("{name} {value}"),
    };
    let limits: Vec<String> = adapter.limits.iter().map(limit).collect();
    line!(out, "  name        {} ({}, {})", adapter.name, adapter.kind, adapter.backend);
    line!(out, "  driver      {}", adapter.driver);
    line!(out, "  kernels     {}: {}", adapter.tier, adapter.tier_why);
    line!(out, "  matrices    {}", adapter.matrices_why);
    line!(out, "  features    {}", features.join(", "));
    line!(out, "  limits      {}", limits.join(", "));
    for other in &adapter.adapters {
        line!(out, "  adapter     {other}");
    }
    if adapter.software {
        line!(out, "  A software driver computes on the CPU: what follows says little about any GPU.");
    }
    out
}

pub fn first_start(start: &FirstStart) -> String {
    let kept = format!("pipelines kept: {}, {}", HumanBytes(start.kept_bytes as u64), start.kept);
    let mut out = format!("\nFIRST TOKEN of {} ({kept})\n  {:42} {:>10} {:>10}\n", start.model, "", "cold", "warm");
    for (index, cold) in start.cold.iter().enumerate() {
        let warm = start.warm.get(index).map_or("-".into(), |step| format!("{:.1} ms", step.ms));
        line!(out, "  {:42} {:>10} {warm:>10}", cold.what, format!("{:.1} ms", cold.ms));
    }
    let [cold, warm] = [&start.cold, &start.warm].map(|steps| together(steps));
    line!(out, "  {:42} {cold:>10} {warm:>10}", "from nothing to the first token");
    out
}

/// The time that leads to the first token.
fn together(steps: &[Step]) -> String {
    let steps = steps.get(..FIRST).map(|steps| steps.iter().map(|step| step.ms).sum::<f64>());
    steps.map_or("-".into(), |ms| format!("{ms:.1} ms"))
}

/// The same in a line.
pub fn first_token(start: &FirstStart) -> String {
    let [cold, warm] = [&start.cold, &start.warm].map(|steps| together(steps));
    format!("First token of {}, from nothing: {cold}; with kept pipelines {warm}", start.model)
}

pub fn kernels(tiers: &[Tier]) -> String {
    let heads = ["cases", "right", "same", "wrong", "not reached", "worst", "seconds"];
    let mut out = format!("\nKERNELS AGAINST THE REFERENCE\n  {:10}", "tier");
    heads.iter().for_each(|head| {
        let _ = write!(out, " {head:>11}");
    });
    out.push('\n');
    for tier in tiers {
        let worst = format!("{:.2}", tier.worst);
        let counts = [tier.cases, tier.right, tier.same, tier.wrong.len(), tier.not_reached].map(|count| count.to_string());
        let _ = write!(out, "  {:10}", tier.name);
        for cell in counts.iter().chain([&worst, &format!("{:.1}", tier.seconds)]) {
            let _ = write!(out, " {cell:>11}");
        }
        out.push('\n');
    }
    line!(
        out,
        "  same: the kernels ran before, mostly in another tier; worst: the largest error of a right case, of what is allowed"
    );
    for tier in tiers {
        for wrong in tier.wrong.iter().take(SHOWN) {
            line!(out, "  WRONG {} '{}' in {}, tier {}: {}", wrong.op, wrong.case, wrong.numbers, wrong.tier, wrong.problem);
            if let (Some(error), Some(allowed)) = (wrong.error, wrong.allowed) {
                line!(out, "        the largest error is {error:.2e}, allowed are {allowed:.2e}");
            }
            for kernel in &wrong.kernels {
                line!(out, "        {kernel}");
            }
        }
        if tier.wrong.len() > SHOWN {
            line!(out, "  … and {} more in report.json", tier.wrong.len() - SHOWN);
        }
    }
    out
}

pub fn models(report: &Report) -> String {
    let mut out = String::from("\nSMALL MODELS AGAINST THE REFERENCE (differences over the root mean square of the logits)\n");
    for model in &report.models {
        let verdict = if model.right { "right" } else { "WRONG" };
        let found = match &model.problem {
            Some(problem) => problem.clone(),
            None => format!("largest {:.1e}, root mean square {:.1e}, allowed {:.0e}", model.largest, model.rms, model.allowed),
        };
        line!(out, "  {verdict}  {:10} {:34} {:5} {found}", model.tier, model.model, model.numbers);
    }
    if report.models_not_reached > 0 {
        line!(out, "  {} more were not reached in time", report.models_not_reached);
    }
    out
}

pub fn rates(rates: &Rates) -> String {
    let giga = |rate: Option<f64>| rate.map_or("not offered".into(), |rate| format!("{rate:.1} GFLOP/s"));
    let dispatch = rates.dependent_dispatch_us.map_or(super::parts::NOT_REACHED.into(), |us| format!("{us:.2} µs"));
    let mut out = String::from("\nRATES\n");
    line!(out, "  memory read                {:.1} GB/s", rates.read_gb_s);
    line!(out, "  multiply-add in f32        {:.1} GFLOP/s", rates.f32_gflop_s);
    line!(out, "  multiply-add in f16        {}", giga(rates.f16_gflop_s));
    line!(out, "  matrices, f16 to f32       {}", giga(rates.matrices_gflop_s));
    line!(out, "  a dependent dispatch       {dispatch}");
    out
}

pub fn speed(speeds: &[Speed]) -> String {
    let prompt = speeds.iter().map(|speed| speed.prompt).max().unwrap_or(0);
    let mut out = format!("\nSPEED: greedy decode, prefill of {prompt} tokens, as shares of the roofline of the rates above\n");
    let heads = ["decode", "of roofline", "prefill", "of roofline", "weights", "load"];
    let _ = write!(out, "  {:14} {:16}", "shape", "weights in");
    heads.iter().for_each(|head| {
        let _ = write!(out, " {head:>12}");
    });
    out.push('\n');
    for of_shape in speeds.chunk_by(|a, b| a.shape == b.shape) {
        for row in rows(of_shape) {
            let _ = write!(out, "  {:14} {:16}", of_shape[0].shape, row.stored);
            match row.figures {
                Ok((decode, prefill)) => {
                    let [decode, prefill] = [decode, prefill].map(|rate| [format!("{:.1} t/s", rate.tokens_per_s), share(rate)]);
                    let rest = [HumanBytes(row.weight_bytes).to_string(), format!("{:.1} s", row.load_s)];
                    decode.iter().chain(&prefill).chain(&rest).for_each(|cell| {
                        let _ = write!(out, " {cell:>12}");
                    });
                }
                Err(problem) => {
                    let _ = write!(out, " {problem}");
                }
            }
            out.push('\n');
        }
    }
    out
}

/// A line of the speeds of a shape: of one way to store weights, or of several that have one problem.
pub struct Row {
    pub stored: String,
    pub weight_bytes: u64,
    pub load_s: f64,
    /// Decode and prefill, or why there are none.
    pub figures: Result<(Rate, Rate), String>,
}

/// The lines of one shape.
pub fn rows(speeds: &[Speed]) -> Vec<Row> {
    let problem = |speed: &Speed| match (&speed.problem, speed.decode, speed.prefill) {
        (None, Some(_), Some(_)) => None,
        (problem, ..) => Some(problem.clone().unwrap_or(super::parts::NOT_REACHED.into())),
    };
    let alike = |a: &Speed, b: &Speed| problem(a).is_some() && problem(a) == problem(b);
    let row = |alike: &[Speed]| {
        let first = &alike[0];
        let figures = match (problem(first), first.decode, first.prefill) {
            (None, Some(decode), Some(prefill)) => Ok((decode, prefill)),
            (problem, ..) => Err(problem.unwrap_or_default()),
        };
        let stored = alike.iter().map(|speed| speed.weights).collect::<Vec<_>>().join(", ");
        Row { stored, weight_bytes: first.weight_bytes, load_s: first.load_s, figures }
    };
    speeds.chunk_by(alike).map(row).collect()
}

/// What the library found out about the kernels of these shapes.
pub fn tuning(tuned: &Tuned, software: bool) -> String {
    let mut out = String::from("\nTUNING of the kernels of these shapes, as the library does it by default\n");
    line!(out, "  {}", tuned_in_short(tuned, software));
    for replaced in &tuned.replaced {
        line!(out, "  WRONG and replaced: a kernel of {}, now {}", replaced.op, replaced.by);
    }
    for chosen in tuned.chosen.iter().filter(|chosen| chosen.number > 0) {
        line!(out, "  choice {} for {}", chosen.number, chosen.work);
    }
    out
}

/// The same in a sentence.
pub fn tuned_in_short(tuned: &Tuned, software: bool) -> String {
    let others = tuned.chosen.iter().filter(|chosen| chosen.number > 0).count();
    match tuned {
        Tuned { tested: 0, chosen, replaced } if chosen.is_empty() && replaced.is_empty() => {
            if software {
                "No kernel was tried: by default adapters that compute on the CPU try none.".into()
            } else {
                "No kernel was tried.".into()
            }
        }
        Tuned { tested, chosen, replaced } => format!(
            "{tested} kernels tested and right, ops with a replaced one: {}; {} choices timed, in {others} the estimate's is not the \
             fastest.",
            replaced.len(),
            chosen.len()
        ),
    }
}

/// A share in per cent.
pub fn share(rate: Rate) -> String {
    rate.share.map_or("-".into(), |share| format!("{:.0} %", share * 100.0))
}

/// How it ended.
pub fn verdict(report: &Report) -> String {
    let mut out = String::from("\nVERDICT\n");
    for part in &report.parts {
        let ended = part.problem.as_deref().unwrap_or("done");
        line!(out, "  {:14} {:6.1} s  {ended}", part.name, part.seconds);
    }
    line!(out, "  {}", sentence(report));
    out
}

/// The verdict in a sentence.
pub fn sentence(report: &Report) -> String {
    let cases: usize = report.kernels.iter().map(|tier| tier.not_reached).sum();
    let rest = match cases + report.models_not_reached {
        0 => String::new(),
        count => format!("; {count} cases and small models were not reached in time"),
    };
    match (report.wrong, report.examined()) {
        (0, false) => "No kernel was examined.".into(),
        (0, true) => format!("All kernels that were examined are right{rest}."),
        (1, _) => format!("1 kernel or model is WRONG{rest}."),
        (count, _) => format!("{count} kernels or models are WRONG{rest}."),
    }
}
