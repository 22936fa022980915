//! Compiles every kernel that released models need, one by one, or writes them as WGSL. Reads no weights.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod limits;
mod models;
mod radv;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use gemmaflow::{
    ir::kernel::{Target, Tier},
    runtime::{Device, GpuOptions, Opened, PipelineCache},
    shader::standard,
};
use limits::Limits;
use models::{Kernels, MODELS};
use radv::Compiled;

/// Compiles every kernel that released models need, or writes them as WGSL.
#[derive(Parser)]
struct Arguments {
    /// Released models, such as gemma-3-1b
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values = MODELS, global = true)]
    shapes: Vec<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compiles them on a device and says how long each takes
    Compile {
        /// gpu, or a part of an adapter's name
        #[arg(long, value_name = "NAME", default_value = "gpu")]
        device: Device,
        /// With cooperative matrices, where the device has any
        #[arg(long)]
        cooperative: bool,
    },
    /// Compiles them by Mesa's RADV for GPUs that need not be there, as scripts/drivers sets it up, and holds the code to limits
    Radv {
        /// Families of GPUs, as Mesa calls them
        #[arg(long, value_name = "NAME,…", value_delimiter = ',', required = true)]
        families: Vec<String>,
        /// The table of limits
        #[arg(long, value_name = "FILE")]
        limits: PathBuf,
        /// Write today's figures into the table
        #[arg(long)]
        update: bool,
    },
    /// Writes them, and those of the test cases, as standard WGSL with their constants: one JSON array
    Write {
        /// Which sort of device they are for
        #[arg(long)]
        tier: Sort,
        /// The file to write
        out: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    /// WebGPU's default limits and no optional feature
    Portable,
    /// Subgroups of any size, f16
    Subgroups,
    /// Subgroups of 32, f16
    Subgroup,
}

impl Sort {
    fn target(self) -> Target {
        let gpu = |tier| Target { tier, max_binding: 1 << 30, max_storage_buffers: 16, f16: true, ..Target::portable() };
        match self {
            Sort::Portable => Target::portable(),
            Sort::Subgroups => gpu(Tier::Subgroups),
            Sort::Subgroup => gpu(Tier::Subgroup(32)),
        }
    }
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Compile { device, cooperative } => compile(&arguments.shapes, &device, cooperative),
        What::Radv { families, limits, update } => radv(&arguments.shapes, &families, &limits, update),
        What::Write { tier, out } => write(&arguments.shapes, tier, out),
    }
}

/// Each kernel's lines on stderr stand between those that a driver writes while it compiles.
fn compile(shapes: &[String], device: &Device, cooperative: bool) -> Result<()> {
    let options = GpuOptions { cooperative_matrices: cooperative, ..GpuOptions::default() };
    let Opened::Gpu(context) = device.open(&options)? else { bail!("--device: the reference compiles no kernels") };
    let mut kernels = Kernels::default();
    kernels.add_models(shapes, &context.capabilities().target())?;
    eprintln!("driver: {}", context.capabilities().driver);
    let pipelines = PipelineCache::new(&context);
    let (mut total, mut failed) = (Duration::ZERO, 0);
    for (key, (kernel, from)) in &kernels.0 {
        eprintln!("kernel: {key}");
        let start = Instant::now();
        let result = pipelines.get(kernel);
        total += start.elapsed();
        eprintln!("compiled: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        if let Err(error) = result {
            failed += 1;
            eprintln!("failed: {from}: {error}");
        }
    }
    println!("{}: {} kernels in {:.1} s, {failed} failed", context.capabilities().adapter, kernels.0.len(), total.as_secs_f64());
    if failed > 0 {
        bail!("{failed} kernels do not compile");
    }
    Ok(())
}

/// Two families at a time: each compiles on one thread.
fn radv(shapes: &[String], families: &[String], table: &Path, update: bool) -> Result<()> {
    let mut limits = Limits::read(table)?;
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(family) = families.get(next.fetch_add(1, Relaxed)) {
            let kernels = radv::sweep(family, shapes);
            done.lock().expect("no thread panics").push((family, kernels));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let mut faults = Vec::new();
    for (family, swept) in done.into_inner().expect("no thread panics") {
        let sweep = match swept {
            Ok(sweep) => sweep,
            Err(error) => {
                faults.push(error.to_string());
                continue;
            }
        };
        println!("{}", summary(family, &sweep.kernels));
        faults.extend(spills(family, &sweep.kernels));
        if update {
            limits.accept(family, &sweep)?;
            continue;
        }
        let (worse, better) = limits.faults(family, &sweep);
        faults.extend(worse);
        if better > 0 {
            println!("{family}: {better} limits could be stricter");
        }
    }
    if update {
        limits.write(table)?;
    }
    match faults.len() {
        0 => Ok(()),
        count => bail!("{count} faults\n{}", faults.join("\n")),
    }
}

/// Kernels whose values did not find room in the registers.
fn spills(family: &str, kernels: &[Compiled]) -> Vec<String> {
    let spilled = kernels.iter().filter(|kernel| kernel.scratch > 0 || kernel.spilled_vgprs > 0);
    let fault = |Compiled { key, scratch, spilled_vgprs, .. }: &Compiled| {
        format!("{family}: {scratch} bytes of scratch, {spilled_vgprs} VGPRs spilled: {key}")
    };
    spilled.map(fault).collect()
}

fn summary(family: &str, kernels: &[Compiled]) -> String {
    let total: f64 = kernels.iter().map(|kernel| kernel.ms).sum();
    let slowest = kernels.iter().map(|kernel| kernel.ms).fold(0.0, f64::max);
    format!("{family}: {} kernels in {:.1} s, the slowest in {slowest:.0} ms", kernels.len(), total / 1e3)
}

fn write(shapes: &[String], tier: Sort, out: PathBuf) -> Result<()> {
    let mut kernels = Kernels::default();
    kernels.add_cases(&tier.target())?;
    kernels.add_models(shapes, &tier.target())?;
    let mut written = Vec::new();
    for (key, (kernel, from)) in &kernels.0 {
        let constants: serde_json::Map<_, _> = kernel.overrides.iter().map(|(name, v)| (name.to_string(), (*v).into())).collect();
        written.push(serde_json::json!({ "key": key, "from": from, "wgsl": standard(kernel)?, "constants": constants }));
    }
    fs::write(&out, serde_json::to_string(&written)?)?;
    println!("{} kernels", written.len());
    Ok(())
}
