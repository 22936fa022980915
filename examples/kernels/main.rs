//! Compiles every kernel that released models need, one by one, or writes them as WGSL. Reads no weights.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod limits;
mod models;
mod radv;
#[path = "../common/stored.rs"]
mod stored;

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
    internals::{
        ir::kernel::{Target, Tier},
        runtime::PipelineCache,
        shader::standard,
    },
    runtime::{Device, GpuOptions, Opened},
};
use limits::Limits;
use models::{Kernels, MODELS};
use radv::{Compiled, Sweep};

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
    /// Compiles them by Mesa's RADV for GPUs that need not be there, as scripts/drivers sets it up, and holds the code
    /// to limits
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
        /// Fail where the driver is another than the table's; else its limits are then left out
        #[arg(long)]
        strict: bool,
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
        What::Radv { families, limits, update, strict } => {
            let kernels = sweep_all(&arguments.shapes, &families);
            if update { accept(kernels, &limits) } else { compare(kernels, &limits, strict) }
        }
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

/// Two families at a time: each compiles on one thread. Says in a line how each went.
fn sweep_all(shapes: &[String], families: &[String]) -> Swept {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(family) = families.get(next.fetch_add(1, Relaxed)) {
            let sweep = radv::sweep(family, shapes);
            if let Ok(sweep) = &sweep {
                println!("{family}: {}", summary(&sweep.kernels));
            }
            done.lock().expect("no thread panics").push((family.clone(), sweep));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    done.into_inner().expect("no thread panics")
}

/// Families with what became of their kernels.
type Swept = Vec<(String, Result<Sweep>)>;

fn accept(swept: Swept, table: &Path) -> Result<()> {
    let mut limits = Limits::read(table)?;
    for (family, sweep) in swept {
        limits.accept(&family, &sweep?)?;
    }
    limits.write(table)
}

fn compare(swept: Swept, table: &Path, strict: bool) -> Result<()> {
    let limits = Limits::read(table)?;
    let mut faults = Vec::new();
    for (family, sweep) in swept {
        let sweep = match sweep {
            Ok(sweep) => sweep,
            Err(error) => {
                faults.push(error.to_string());
                continue;
            }
        };
        faults.extend(spills(&family, &sweep.kernels));
        // Another compiler's code says nothing about the shaders.
        if sweep.driver != limits.driver {
            let other = format!("{family}: the limits are those of {}, this is {}", limits.driver, sweep.driver);
            if strict {
                faults.push(other)
            } else {
                println!("{other}: left out")
            }
            continue;
        }
        let (worse, better) = limits.faults(&family, &sweep.kernels);
        faults.extend(worse);
        if better > 0 {
            println!("{family}: {better} limits could be stricter");
        }
    }
    if !faults.is_empty() {
        bail!("faults: {}\n{}", faults.len(), faults.join("\n"));
    }
    Ok(())
}

/// Kernels whose values did not find room in the registers.
fn spills(family: &str, kernels: &[Compiled]) -> Vec<String> {
    let spilled = kernels.iter().filter(|kernel| kernel.scratch > 0 || kernel.spilled_vgprs > 0);
    let fault = |Compiled { key, scratch, spilled_vgprs, .. }: &Compiled| {
        format!("{family}: {scratch} bytes of scratch, {spilled_vgprs} VGPRs spilled: {key}")
    };
    spilled.map(fault).collect()
}

fn summary(kernels: &[Compiled]) -> String {
    let total: f64 = kernels.iter().map(|kernel| kernel.ms).sum();
    let slowest = kernels.iter().map(|kernel| kernel.ms).fold(0.0, f64::max);
    format!("{} kernels in {:.1} s, the slowest in {slowest:.0} ms", kernels.len(), total / 1e3)
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
