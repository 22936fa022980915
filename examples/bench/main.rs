//! Measures prefill, decode and the first token, and where their time goes.

mod chart;
#[path = "../common/mod.rs"]
mod common;
mod conversations;
mod dispatches;
mod drafting;
mod embedding;
mod first_token;
#[path = "../../tests/common/heap.rs"]
mod heap;
mod load;
#[path = "../common/first_token.rs"]
mod parts;
mod profile;
mod report;
#[path = "../common/roofline.rs"]
mod roofline;
mod speed;
#[path = "../common/svg.rs"]
mod svg;
mod tower;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use gemmaflow::{
    gemma::{GemmaConfig, random_weights},
    generate::{GeneratorOptions, TablePlacement},
    internals::runtime::measure_copy_bandwidth,
    ir::{Compute, DType},
    profile::CompileProfile,
    runtime::{Clock, Device, GpuOptions, KernelTier, Opened},
    weights::WeightLoader,
};
use parts::tokens;

/// Measures tokens per second of prefill and decode, greedy, batch 1.
///
/// Prefill is the prompt's tokens over the time to the first generated token; decode is single tokens after a cache of
/// a given depth. One repetition that is not counted comes first.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json and safetensors weights, a weights file, a .gguf file, or OWNER/NAME[/FILE.gguf] on the
    /// Hugging Face Hub [default: the demo model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Random weights of a released model's shape instead, made on the device, such as gemma-3-1b
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    shape: Option<String>,
    /// How random weights are stored
    #[arg(long, value_enum, default_value = "bf16", conflicts_with = "model")]
    weights: Storage,
    /// Pack 16-bit and f32 matrices as they are loaded
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "first_token")]
    quantize: Option<common::Packing>,
    /// Where the tables are kept that each layer has of its own (Gemma 3n, Gemma 4's E-series)
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "first_token")]
    tables: Tables,
    /// Run only the first N layers; of Gemma 3n's vision tower all run
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Tokens of the prompts [default: those of 128, 512 and 2048 that the model's context holds]
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    prompt: Vec<usize>,
    /// Cached tokens before decode begins [default: those of 0, 1024 and 4096 that the model's context holds]
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    depth: Vec<usize>,
    /// Tokens generated at each depth
    #[arg(long = "gen", value_name = "N", default_value_t = 32)]
    generated: usize,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 5)]
    reps: usize,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Device,
    /// Which kernels run: to compare them on one device
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "first_token")]
    kernels: Kernels,
    /// The numbers of products: f16 through cooperative matrices where there are any, always f32, or always f16
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "first_token")]
    compute: Numbers,
    /// Where the time goes instead, kernel by kernel: one decode step at the first depth, the last chunk of the first
    /// prompt
    #[arg(long, group = "timed")]
    profile: bool,
    /// By what --profile and --image time a dispatch [default: the best that the device has]
    #[arg(long, value_enum, requires = "timed")]
    clock: Option<ClockName>,
    /// Write a chart of the profile to this file
    #[arg(long, value_name = "FILE", requires = "profile")]
    svg: Option<PathBuf>,
    /// The time to the first token of a 16-token prompt in this process instead, part by part
    #[arg(long, conflicts_with = "profile")]
    first_token: bool,
    /// How fast the model loads instead, beside the rates at which its files are read and its bytes reach the device;
    /// what it takes of heap and device
    #[arg(long, requires = "model", conflicts_with_all = ["profile", "first_token"])]
    load: bool,
    /// With --load: drop the files from the system's cache first (GNU dd)
    #[arg(long, requires = "load")]
    cold: bool,
    /// Decode with a drafter (its folder or file, or `lookup`) instead, beside decode without, after the first of the
    /// prompts
    #[arg(long, value_name = "PATH", conflicts_with_all = ["profile", "first_token", "load"])]
    draft: Option<PathBuf>,
    /// With --draft: tokens that are tried at once
    #[arg(long, value_name = "N", requires = "draft")]
    drafted: Option<usize>,
    /// Decode several conversations at once instead, so many of them, beside one alone, after the first of the prompts
    #[arg(long, value_name = "N,N", value_delimiter = ',', conflicts_with_all = ["profile", "first_token", "load", "draft"])]
    conversations: Vec<usize>,
    /// One picture through the shape's vision tower instead, stage by stage, beside a chunk of the first of the
    /// prompts; and the same picture again, which is kept
    #[arg(long, value_name = "WxH", group = "timed", requires = "shape", conflicts_with_all = ["first_token", "draft", "json"])]
    image: Option<tower::Size>,
    /// The same of a clip of so many seconds through the shape's audio tower
    #[arg(long, value_name = "SECONDS", group = "timed", requires = "shape",
        conflicts_with_all = ["image", "first_token", "draft", "json"], value_parser = clap::value_parser!(u32).range(1..=30))]
    audio: Option<u32>,
    /// Compiled pipelines: taken from this file where it is there, written to it at the end
    #[arg(long, value_name = "FILE", requires = "first_token")]
    pipelines: Option<PathBuf>,
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

impl From<Storage> for DType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Bf16 => DType::BF16,
            Storage::F16 => DType::F16,
            Storage::F32 => DType::F32,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Numbers {
    Auto,
    F32,
    F16,
}

impl From<Numbers> for Compute {
    fn from(numbers: Numbers) -> Self {
        match numbers {
            Numbers::Auto => Compute::Auto,
            Numbers::F32 => Compute::F32,
            Numbers::F16 => Compute::F16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Tables {
    /// On the device
    Auto,
    /// In the file or, of random ones, made as they are read
    Host,
}

impl From<Tables> for TablePlacement {
    fn from(tables: Tables) -> Self {
        match tables {
            Tables::Auto => TablePlacement::Auto,
            Tables::Host => TablePlacement::Host,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Kernels {
    /// Those that suit the adapter
    Auto,
    /// Those made for GPUs that need no optional feature
    Portable,
    /// Those made for GPUs
    Subgroup,
    /// Those made for GPUs whose subgroups differ in size
    Subgroups,
    /// Those made for adapters that compute on the CPU
    Software,
    /// The same without any optional feature
    PortableSoftware,
}

impl From<Kernels> for KernelTier {
    fn from(kernels: Kernels) -> Self {
        match kernels {
            Kernels::Auto => KernelTier::Auto,
            Kernels::Portable => KernelTier::Portable,
            Kernels::Subgroup => KernelTier::Subgroup,
            Kernels::Subgroups => KernelTier::Subgroups,
            Kernels::Software => KernelTier::Software,
            Kernels::PortableSoftware => KernelTier::PortableSoftware,
        }
    }
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

fn run(mut arguments: Arguments) -> Result<()> {
    let (name, mut config, mut weights) = model(&mut arguments)?;
    // A text that happens to end would end the measurement.
    config.eos_token_ids.clear();
    sizes(&mut arguments, config.max_position_embeddings)?;
    if let (true, Some(path)) = (arguments.load, &arguments.model) {
        return load::run(&name, config, path, &arguments);
    }
    if arguments.first_token {
        return first_token::run(&name, config, weights.as_mut(), &arguments);
    }
    if config.use_bidirectional_attention {
        return embedding::run(&name, config, weights.as_mut(), &arguments);
    }
    let options = options(&arguments);
    let (mut generator, load) = common::load(config, weights.as_mut(), arguments.device.clone(), options)?;
    if let Some(path) = &arguments.draft {
        return drafting::run(&name, generator, common::drafter(path)?, &arguments);
    }
    if !arguments.conversations.is_empty() {
        return conversations::run(&name, generator, &arguments);
    }
    let picture = arguments.image.map(tower::Subject::Picture);
    if let Some(subject) = picture.or(arguments.audio.map(tower::Subject::Clip)) {
        return tower::run(&name, generator, arguments.weights.into(), subject, &arguments);
    }
    if arguments.profile {
        return profile::run(&name, &mut generator, &arguments);
    }
    let speed = speed::measure(&mut generator, &arguments)?;
    let bandwidth = bandwidth(&arguments.device)?;
    let report = report::Report { name, load, bandwidth, speed, arguments: &arguments, generator: &generator };
    if arguments.json {
        common::print(&format!("{}\n", report.json()))?
    } else {
        common::print(&report.table())?
    }
    Ok(())
}

/// Most tokens that any measurement holds.
fn context(arguments: &Arguments) -> usize {
    let prompt = arguments.prompt.iter().max().map_or(0, |tokens| tokens + 1);
    let depth = arguments.depth.iter().max().map_or(0, |rows| rows + arguments.generated + 2);
    prompt.max(depth)
}

/// Puts the sizes that fit where none are given.
fn sizes(arguments: &mut Arguments, limit: usize) -> Result<()> {
    for (flag, values) in [
        ("--prompt", &arguments.prompt),
        ("--conversations", &arguments.conversations),
        ("--gen", &vec![arguments.generated]),
        ("--reps", &vec![arguments.reps]),
    ] {
        if values.contains(&0) {
            bail!("{flag} is 0, expected at least 1");
        }
    }
    if arguments.prompt.is_empty() {
        arguments.prompt = [128, 512, 2048].into_iter().filter(|tokens| tokens < &limit).collect();
    }
    if arguments.depth.is_empty() {
        arguments.depth = [0, 1024, 4096].into_iter().filter(|rows| rows + arguments.generated + 2 <= limit).collect();
    }
    let needed = context(arguments);
    if arguments.prompt.is_empty() || arguments.depth.is_empty() || needed > limit {
        bail!("the model's context holds {limit} tokens, {needed} are needed: choose --prompt, --depth and --gen that fit");
    }
    Ok(())
}

fn options(arguments: &Arguments) -> GeneratorOptions {
    let gpu = GpuOptions { kernels: arguments.kernels.into(), ..GpuOptions::default() };
    let profile = |mut profile: CompileProfile| {
        profile.precision.compute = arguments.compute.into();
        profile
    };
    let (prefill_profile, decode_profile) = (profile(CompileProfile::gemma_prefill()), profile(CompileProfile::gemma_decode()));
    let (context, quantise) = (Some(context(arguments)), arguments.quantize.map(Into::into));
    let per_layer_tables = arguments.tables.into();
    GeneratorOptions { context, gpu, prefill_profile, decode_profile, quantise, per_layer_tables, ..GeneratorOptions::default() }
}

/// The model's name, configuration and weights; `--model` becomes its path.
fn model(arguments: &mut Arguments) -> Result<(String, GemmaConfig, Box<dyn WeightLoader>)> {
    let Some(shape) = &arguments.shape else {
        let named = arguments.model.clone().unwrap_or(common::DEMO.into());
        arguments.model = arguments.model.as_deref().map(common::local).transpose()?;
        let (mut config, weights) = common::open(arguments.model.as_ref().unwrap_or(&named))?;
        config.effective_num_layers = arguments.layers;
        let name = named.file_name().map_or(named.display().to_string(), |name| name.to_string_lossy().into_owned());
        return Ok((name, config, weights));
    };
    let mut config = common::preset(shape)?;
    config.effective_num_layers = arguments.layers;
    let dtype = arguments.weights.into();
    let weights = random_weights(&config, dtype, 1)?;
    Ok((format!("{shape}, random {dtype} weights"), config, Box::new(weights)))
}

/// Opens the device without saying again what was said when the model was loaded.
fn open_quietly(device: &Device) -> gemmaflow::Result<Opened> {
    let quiet = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(quiet, || device.open(&GpuOptions::default()))
}

/// Bytes per second that the device reads; `None` for the reference.
fn bandwidth(device: &Device) -> Result<Option<f64>> {
    let measured = match open_quietly(device)? {
        Opened::Gpu(context) => measure_copy_bandwidth(&context).map(Some),
        Opened::Reference => Ok(None),
    };
    measured.map_err(|error| anyhow!("measuring the bandwidth: {error}"))
}
