//! Measures prefill and decode, and how much of the device's memory bandwidth decode uses.

mod chart;
#[path = "../common/mod.rs"]
mod common;
mod dispatches;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use dispatches::Roofline;
use gemmaflow::{
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    ir::DType,
    runtime::{Clock, Device, GpuOptions, Opened, measure_arithmetic_rate, measure_copy_bandwidth},
    weights::{WeightLoader, random_weights},
};
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};

/// Measures tokens per second of prefill and decode, greedy, batch 1.
///
/// Prefill is the prompt's tokens over the time to the first generated token; decode is the tokens after that one over the rest.
/// One repetition that is not counted comes first.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json and safetensors weights, or a weights file [default: the demo model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Random weights of a released model's shape instead, made on the device, such as gemma-3-1b
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    shape: Option<String>,
    /// How random weights are stored
    #[arg(long, value_enum, default_value = "bf16", conflicts_with = "model")]
    weights: Storage,
    /// Run only the first N layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens generated after the first
    #[arg(long = "gen", value_name = "N", default_value_t = 128)]
    generated: usize,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 5)]
    reps: usize,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Device,
    /// Where the time goes, kernel by kernel: one decode step with --depth cached tokens and the last chunk of the prompt
    #[arg(long)]
    profile: bool,
    /// Cached tokens before the decode step of --profile
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// By what --profile times a dispatch [default: the best that the device has]
    #[arg(long, value_enum, requires = "profile")]
    clock: Option<ClockName>,
    /// Write a chart of the profile to this file
    #[arg(long, value_name = "FILE", requires = "profile")]
    svg: Option<PathBuf>,
    /// Print one JSON object on the last line of stdout instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Bf16,
    F16,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClockName {
    /// Timestamps before and after each dispatch of one pass
    Inside,
    /// A pass for each dispatch, timestamps at its edges
    Passes,
    /// A submit for each dispatch, timed on the host
    Submits,
}

impl From<ClockName> for Clock {
    fn from(name: ClockName) -> Self {
        match name {
            ClockName::Inside => Clock::InsidePasses,
            ClockName::Passes => Clock::PassEdges,
            ClockName::Submits => Clock::Submits,
        }
    }
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    for (flag, value) in [("--prompt", arguments.prompt), ("--gen", arguments.generated), ("--reps", arguments.reps)] {
        if value == 0 {
            bail!("{flag} is 0, expected at least 1");
        }
    }
    let (name, config, mut weights) = model(&arguments)?;
    let context = (arguments.prompt + arguments.generated).max(arguments.depth + 1) + 1;
    let options = GeneratorOptions { context: Some(context), ..GeneratorOptions::default() };
    let (mut generator, load) = common::load(config, weights.as_mut(), arguments.device.clone(), options)?;

    if arguments.profile {
        return profile(&name, &mut generator, &arguments);
    }
    let bar = common::bar((arguments.reps as u64 + 1) * arguments.generated as u64, "{msg:14} {bar:30} {pos}/{len} tokens");
    bar.set_message("warm-up");
    repetition(&mut generator, &arguments, 0, &bar)?;
    let mut measured = Vec::new();
    for rep in 1..=arguments.reps {
        bar.set_message(format!("repetition {rep}"));
        measured.push(repetition(&mut generator, &arguments, rep, &bar)?);
    }
    bar.finish_and_clear();
    let bandwidth = bandwidth(&arguments.device)?;
    let report = Report { name, load, bandwidth, measured, arguments: &arguments, generator: &generator };
    match arguments.json {
        true => common::print(&format!("{}\n", report.json()))?,
        false => common::print(&report.table())?,
    }
    Ok(())
}

/// The model's name, configuration and weights.
fn model(arguments: &Arguments) -> Result<(String, GemmaConfig, Box<dyn WeightLoader>)> {
    let Some(shape) = &arguments.shape else {
        let path = arguments.model.clone().unwrap_or(common::DEMO.into());
        let (mut config, weights) = common::open(&path)?;
        config.effective_num_layers = arguments.layers;
        let name = path.file_name().map_or(path.display().to_string(), |name| name.to_string_lossy().into_owned());
        return Ok((name, config, weights));
    };
    let mut config = common::preset(shape)?;
    config.effective_num_layers = arguments.layers;
    let dtype = match arguments.weights {
        Storage::Bf16 => DType::BF16,
        Storage::F16 => DType::F16,
        Storage::F32 => DType::F32,
    };
    let weights = random_weights(&config, dtype, 1)?;
    Ok((format!("{shape}, random {dtype} weights"), config, Box::new(weights)))
}

/// Times one decode step and one chunk of prefill dispatch by dispatch.
fn profile(name: &str, generator: &mut GemmaGenerator, arguments: &Arguments) -> Result<()> {
    let vocab = generator.config().vocab_size;
    // The two begin differently, so that neither finds rows of the other.
    let tokens = |count: usize, first: usize| -> Vec<u32> {
        (first..first + count).map(|i| ((i * 2_654_435_761 + 17) % vocab) as u32).collect()
    };
    let (decode, clock) = (tokens(arguments.depth + 1, 0), arguments.clock.map(Clock::from));
    if arguments.depth > 0 {
        // Rows of all but the last token, so that the run is one of decode.
        generator.prefill_get_last_logits(&decode[..arguments.depth])?;
    }
    generator.prefill(&decode)?;
    let mut runs = vec![generator.time_dispatches(arguments.reps, clock)?];
    generator.prefill(&tokens(arguments.prompt, 1))?;
    runs.push(generator.time_dispatches(arguments.reps, clock)?);
    let quiet = tracing::subscriber::NoSubscriber::default();
    let roofline = tracing::subscriber::with_default(quiet, || roofline(&arguments.device))?;
    if let Some(file) = &arguments.svg {
        std::fs::write(file, chart::svg(name, &runs, &roofline)).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    }
    if arguments.json {
        let runs: Vec<Value> = runs.iter().map(|run| dispatches::json(run, &roofline)).collect();
        let report = json!({
            "model": name,
            "adapter": generator.stats().device,
            "copy_bandwidth_read_gb_s": roofline.bandwidth / 1e9,
            "arithmetic_gflop_s": roofline.arithmetic / 1e9,
            "arithmetic_f16_gflop_s": roofline.half.map(|rate| rate / 1e9),
            "runs": runs,
        });
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let tables: String = runs.iter().map(|run| dispatches::table(run, &roofline)).collect();
    let layers = generator.config().active_num_layers();
    let head = format!("{name}, {layers} layers, on {}\n{}", generator.stats().device, dispatches::ceilings(&roofline));
    Ok(common::print(&(head + &tables))?)
}

/// What the device reads and computes at best.
fn roofline(device: &Device) -> Result<Roofline> {
    match device.open(&GpuOptions::default())? {
        Opened::Gpu(context) => Ok(Roofline {
            bandwidth: measure_copy_bandwidth(&context)?,
            arithmetic: measure_arithmetic_rate(&context, DType::F32)?,
            half: context.capabilities().f16.then(|| measure_arithmetic_rate(&context, DType::F16)).transpose()?,
        }),
        Opened::Reference => bail!("--profile needs a GPU adapter; the CPU reference has no dispatches"),
    }
}

struct Times {
    first: Duration,
    rest: Duration,
}

fn repetition(generator: &mut GemmaGenerator, arguments: &Arguments, rep: usize, bar: &ProgressBar) -> Result<Times> {
    let vocab = generator.config().vocab_size;
    // Prompts differ from their first token on, so that no repetition finds the cache of the one before.
    let prompt: Vec<u32> = (0..arguments.prompt).map(|i| ((i * 2_654_435_761 + rep * 40_503 + 17) % vocab) as u32).collect();
    let greedy = SampleOpts::greedy();
    let start = Instant::now();
    generator.prefill(&prompt)?;
    generator.step_cached(&greedy)?;
    let first = start.elapsed();
    let start = Instant::now();
    for _ in 0..arguments.generated {
        generator.step_cached(&greedy)?;
        bar.inc(1);
    }
    Ok(Times { first, rest: start.elapsed() })
}

/// Bytes per second that the device reads; `None` for the reference.
fn bandwidth(device: &Device) -> Result<Option<f64>> {
    // What there is to say about the adapter was said when the model was loaded.
    let quiet = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(quiet, || match device.open(&GpuOptions::default())? {
        Opened::Gpu(context) => Ok(Some(measure_copy_bandwidth(&context)?)),
        Opened::Reference => Ok(None),
    })
    .map_err(|error: gemmaflow::Error| anyhow!("measuring the bandwidth: {error}"))
}

/// Median, smallest and largest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self { median: (low + high) / 2.0, min: values[0], max: values[values.len() - 1] }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} (from {:.2} to {:.2})", self.median, self.min, self.max)
    }
}

struct Report<'a> {
    name: String,
    load: Duration,
    bandwidth: Option<f64>,
    measured: Vec<Times>,
    arguments: &'a Arguments,
    generator: &'a GemmaGenerator,
}

impl Report<'_> {
    fn prefill(&self) -> Spread {
        Spread::of(self.measured.iter().map(|t| self.arguments.prompt as f64 / t.first.as_secs_f64()))
    }

    fn decode(&self) -> Spread {
        Spread::of(self.measured.iter().map(|t| self.arguments.generated as f64 / t.rest.as_secs_f64()))
    }

    fn first_token_ms(&self) -> f64 {
        Spread::of(self.measured.iter().map(|t| t.first.as_secs_f64() * 1e3)).median
    }

    /// The weights read by decode as a share of what the device could read meanwhile.
    fn share(&self) -> Option<f64> {
        let read = self.generator.stats().bytes_per_token as f64 * self.decode().median;
        self.bandwidth.map(|bandwidth| read / bandwidth)
    }

    fn json(&self) -> Value {
        let stats = self.generator.stats();
        json!({
            "model": self.name,
            "layers": self.generator.config().active_num_layers(),
            "adapter": stats.device,
            "prompt": self.arguments.prompt,
            "gen": self.arguments.generated,
            "reps": self.arguments.reps,
            "prefill_tokens_per_s": self.prefill().json(),
            "decode_tokens_per_s": self.decode().json(),
            "weight_bytes": stats.weight_bytes,
            "cache_bytes": stats.cache_bytes,
            "bytes_per_token": stats.bytes_per_token,
            "dispatches_per_token": stats.dispatches_per_token,
            "copy_bandwidth_read_gb_s": self.bandwidth.map(|b| b / 1e9),
            "share_of_bandwidth": self.share(),
            "first_token_ms": self.first_token_ms(),
            "load_ms": self.load.as_secs_f64() * 1e3,
        })
    }

    fn table(&self) -> String {
        let (stats, arguments) = (self.generator.stats(), self.arguments);
        let bandwidth = match (self.bandwidth, self.share()) {
            // Software adapters are bound by arithmetic, also while they are measured; and other programs may have run meanwhile.
            (Some(b), Some(share)) if share > 1.0 => {
                format!("{:.1} GB/s measured, {:.1} times that by decode: no bound on this adapter", b / 1e9, share)
            }
            (Some(b), Some(share)) => format!("{:.1} GB/s measured, of which decode uses {:.0} %", b / 1e9, share * 100.0),
            _ => "not measured on the reference".into(),
        };
        let layers = self.generator.config().active_num_layers();
        let rows = [
            ("model", format!("{}, {layers} layers", self.name)),
            ("adapter", stats.device.clone()),
            ("prefill", format!("{} tokens/s, {} tokens", self.prefill(), arguments.prompt)),
            ("decode", format!("{} tokens/s, {} tokens", self.decode(), arguments.generated)),
            ("repetitions", format!("{}, medians first", arguments.reps)),
            ("first token", format!("{:.1} ms", self.first_token_ms())),
            ("load", format!("{:.1} ms", self.load.as_secs_f64() * 1e3)),
            ("weights", format!("{}", HumanBytes(stats.weight_bytes))),
            ("cache", format!("{}", HumanBytes(stats.cache_bytes))),
            ("read a token", format!("{} of weights", HumanBytes(stats.bytes_per_token))),
            ("dispatches", format!("{} a token", stats.dispatches_per_token)),
            ("bandwidth", bandwidth),
        ];
        rows.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect()
    }
}
