//! The ladder: each variant of a kernel, from plain to best, over the shapes of released models.
//!
//! `cargo bench --bench kernels -- --shape gemma-3-270m --rows 1,8 --kernel linear`. All variants of one shape run in
//! turns, so that whatever else the machine does meets them alike; a figure is the median over the rounds.

mod attention;
mod ladder;
mod linear;
mod rows;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use gemmaflow::{
    gemma::GemmaConfig,
    internals::runtime::{PipelineCache, measure_copy_bandwidth},
    ir::DType,
    runtime::{Device, GpuContext, GpuOptions, Opened},
};
use ladder::Bench;

const SHAPES: [&str; 4] = ["gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-2-2b"];

/// Times every variant of the kernels: microseconds, GB/s, GFLOP/s and the speed relative to the plain variant of the
/// same run.
#[derive(Parser)]
pub struct Arguments {
    /// Shapes of these models
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', default_value = SHAPES[0])]
    shape: Vec<String>,
    /// New tokens
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,8,64")]
    rows: Vec<usize>,
    /// How weights (and, but for bf16, keys and values) are stored
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bf16")]
    dtype: Vec<Storage>,
    /// Which kernels [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    kernel: Vec<KernelName>,
    /// Only products of these weights: query, key, output, gate, down, unembed [default: all]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    weight: Vec<String>,
    /// Only variants whose line contains one of these, such as `subgroup` or `NR=2`, and the plain one [default: all]
    #[arg(long, value_name = "TEXT,TEXT", value_delimiter = ',')]
    variant: Vec<String>,
    /// Cached rows for attention
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1024")]
    depth: Vec<usize>,
    /// All four shapes, all three types and 1, 2, 4, 8, 64 and 512 rows: hours on a software driver
    #[arg(long, conflicts_with_all = ["shape", "rows", "dtype"])]
    all: bool,
    /// Turns that are timed
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// A part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "gpu")]
    device: Device,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Storage {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum KernelName {
    Linear,
    Attention,
    RmsNorm,
    Argmax,
}

impl Storage {
    fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.all {
        arguments.shape = SHAPES.map(String::from).to_vec();
        arguments.rows = vec![1, 2, 4, 8, 64, 512];
        arguments.dtype = vec![Storage::F32, Storage::F16, Storage::Bf16];
    }
    if arguments.rows.contains(&0) || arguments.depth.contains(&0) || arguments.rounds == 0 {
        bail!("--rows, --depth and --rounds must be at least 1");
    }
    let Opened::Gpu(context) = arguments.device.open(&GpuOptions::default())? else { bail!("kernels need a GPU adapter") };
    let bandwidth = measure_copy_bandwidth(&context)?;
    println!("{}: {:.2} GB/s read; medians of {} turns", context.capabilities().adapter, bandwidth / 1e9, arguments.rounds);
    let pipelines = PipelineCache::new(&context);
    let bench = Bench::new(&context, &pipelines, &arguments, bandwidth)?;
    for shape in &arguments.shape {
        let known = || GemmaConfig::preset_names().collect::<Vec<_>>().join(", ");
        let config =
            GemmaConfig::preset(shape).ok_or_else(|| anyhow!("--shape: there is no '{shape}'; known are {}", known()))?;
        model(&bench, &context, shape, &config, &arguments)?;
    }
    Ok(())
}

fn model(bench: &Bench, context: &Arc<GpuContext>, shape: &str, config: &GemmaConfig, arguments: &Arguments) -> Result<()> {
    let wanted = |name| arguments.kernel.is_empty() || arguments.kernel.contains(&name);
    for storage in &arguments.dtype {
        let dtype = storage.dtype();
        if wanted(KernelName::Linear) {
            for weight in linear::weights(config) {
                if arguments.weight.is_empty() || arguments.weight.iter().any(|name| name == weight.name) {
                    linear::run(bench, context, shape, &weight, dtype, &arguments.rows)?;
                }
            }
        }
        if wanted(KernelName::Attention) && dtype != DType::BF16 {
            attention::run(bench, shape, config, dtype, &arguments.rows, &arguments.depth)?;
        }
        if wanted(KernelName::RmsNorm) {
            rows::rms_norm(bench, context, shape, config, dtype, &arguments.rows)?;
        }
    }
    if wanted(KernelName::Attention) && arguments.dtype.iter().all(|storage| *storage == Storage::Bf16) {
        attention::run(bench, shape, config, DType::F32, &arguments.rows, &arguments.depth)?;
    }
    if wanted(KernelName::Argmax) {
        rows::argmax(bench, shape, config)?;
    }
    Ok(())
}
