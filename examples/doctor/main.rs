//! Examines a GPU that nobody has tried: are its kernels right, and how fast is it. Needs no files.

mod adapter;
#[path = "../../tests/common/cases.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/first_token.rs"]
mod first_token;
mod kernels;
mod memory;
mod parts;
mod picture;
mod rates;
mod report;
#[path = "../common/roofline.rs"]
mod roofline;
mod small;
mod speed;
mod start;
#[path = "../common/stored.rs"]
mod stored;
#[path = "../common/svg.rs"]
mod svg;
mod text;
mod tuning;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use clap::Parser;
use gemmaflow::runtime::{Device, GpuContext, GpuOptions, Tuning};
use parts::{Record, Scope, Share, run};
use report::Report;

/// Examines a GPU: holds every kernel in every tier against the CPU reference, measures what the device reaches at
/// best, and how near to that models of released shapes come.
///
/// Needs no files: weights are random. Prints what it finds and writes report.json and report.svg. The report names
/// adapter, driver, limits and figures, the operating system's kind and the number of processor threads; it has no
/// host, user or file names, and nothing is sent anywhere. Ends with 0 where all kernels that were examined are right,
/// 1 where one is wrong, 2 where none was examined.
#[derive(Parser, Clone)]
struct Arguments {
    /// gpu, or a part of an adapter's name; the best adapter if nothing is said
    #[arg(long, value_name = "NAME", default_value = "gpu", hide_default_value = true)]
    device: Device,
    /// Half a minute instead of three: small shapes alone, and cases as far as there is time
    #[arg(long)]
    quick: bool,
    /// Seconds to take at most [default: 170, or 28 with --quick]
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Folder for report.json and report.svg
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let mut code = 1;
    let ended = common::main(|arguments| {
        code = examine(arguments)?;
        Ok(())
    });
    if ended == ExitCode::SUCCESS { ExitCode::from(code) } else { ended }
}

/// Runs all parts. The exit code.
fn examine(arguments: Arguments) -> Result<u8> {
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 28 } else { 170 });
    let end = Instant::now() + Duration::from_secs(seconds.into());
    // A panic of a part becomes a line of the report.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() == Some("main") {
            hook(panic);
        }
    }));
    let bar = common::bar(0, "{spinner} {elapsed} {wide_msg}");
    let report = Report::new(arguments.quick, seconds.into());
    common::print(&format!("gemmaflow {} doctor, at most {seconds} s\n", report.gemmaflow))?;
    let record = Record::new(report, &arguments.out, bar.clone())?;
    let visit = Visit { record: record.clone(), end, software: false };
    let visited = visit.all(&arguments);
    bar.finish_and_clear();
    visited?;
    record.write()?;
    let report = record.report();
    common::print(&text::verdict(&report))?;
    let path = arguments.out.join("report.svg");
    std::fs::write(&path, picture::picture(&report)).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    common::print("  written: report.json, report.svg\n")?;
    Ok(report.exit_code())
}

/// One examination.
struct Visit {
    record: Arc<Record>,
    end: Instant,
    software: bool,
}

impl Visit {
    /// Part by part, each in a share of what is left, and prints what each has found. What may take all memory comes
    /// last.
    fn all(mut self, arguments: &Arguments) -> Result<()> {
        let device = arguments.device.clone();
        self.part(0.3, "adapter", move |scope| adapter::describe(&device, scope))?;
        self.show(|report| report.adapter.as_ref().map(text::adapter))?;
        let Some(software) = self.record.report().adapter.as_ref().map(|adapter| adapter.software) else { return Ok(()) };
        self.software = software;
        let device = arguments.device.clone();
        self.part(0.2, "first start", move |scope| start::measure(scope, &device))?;
        self.show(|report| report.first_start.as_ref().map(text::first_start))?;
        let device = arguments.device.clone();
        self.part(0.45, "kernels", move |scope| all_kernels(scope, &device, software))?;
        self.show(|report| Some(text::kernels(&report.kernels)))?;
        let device = arguments.device.clone();
        self.part(0.25, "small models", move |scope| small_models(scope, &device, software))?;
        self.show(|report| Some(text::models(report)))?;
        let open = opener(&arguments.device, GpuOptions::default(), software);
        self.part(0.5, "rates", move |scope| rates::measure(scope, &*open()?))?;
        self.show(|report| report.rates.as_ref().map(text::rates))?;
        let (open, quick) = (opener(&arguments.device, GpuOptions::default(), software), arguments.quick);
        let roofline = self.record.report().rates.map(|rates| rates.roofline());
        self.part(1.0, "speed", move |scope| speed::measure(scope, quick, roofline, &open))?;
        self.show(|report| Some(text::speed(&report.speed)))?;
        self.show(|report| report.tuning.as_ref().map(|tuned| text::tuning(tuned, software)))
    }

    fn part(&self, of_rest: f64, name: &'static str, part: impl FnOnce(&Scope) -> Result<()> + Send + 'static) -> Result<()> {
        let rest = self.end.saturating_duration_since(Instant::now());
        // A driver on the CPU compiles a kernel for seconds, and nothing can stop it.
        let grace = Duration::from_secs(if self.software { 60 } else { 15 });
        let part = run(&self.record, rest, Share { of_rest, grace }, name, part);
        match &part.problem {
            Some(problem) => Ok(common::print(&format!("\n{name}: {problem}\n"))?),
            None => Ok(()),
        }
    }

    fn show(&self, section: impl FnOnce(&Report) -> Option<String>) -> Result<()> {
        let text = section(&self.record.report());
        Ok(common::print(&text.unwrap_or_default())?)
    }
}

/// Opens the device again and again.
fn opener(device: &Device, options: GpuOptions, software: bool) -> impl Fn() -> Result<Arc<GpuContext>> + Send + 'static {
    let device = device.clone();
    move || adapter::open(&device, options.clone(), software)
}

/// Every tier that the device has, its own first.
fn all_kernels(scope: &Scope, device: &Device, software: bool) -> Result<()> {
    let first = opener(device, GpuOptions::default(), software)()?;
    let tiers = adapter::tiers(first.capabilities());
    drop(first);
    let mut known = kernels::Known::default();
    for (name, kernels) in tiers {
        let open = opener(device, GpuOptions { kernels, ..GpuOptions::default() }, software);
        kernels::examine_tier(name, scope, &mut known, &open)?;
    }
    Ok(())
}

/// The same for whole models.
fn small_models(scope: &Scope, device: &Device, software: bool) -> Result<()> {
    let first = opener(device, GpuOptions::default(), software)()?;
    let tiers = adapter::tiers(first.capabilities());
    drop(first);
    let mut expected = Vec::new();
    scope.change(|report| report.models_not_reached = tiers.len() * small::COUNT);
    for (name, kernels) in tiers {
        if scope.over() {
            break;
        }
        // Kernels as they are: none is replaced.
        let options = GpuOptions { kernels, tuning: Tuning::Off, ..GpuOptions::default() };
        let context = opener(device, options, software)()?;
        small::examine(name, scope, &context, &mut expected)?;
    }
    Ok(())
}
