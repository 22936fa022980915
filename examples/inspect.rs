//! Shows what becomes of a model: its graph, its plan, its shaders, its memory. Reads headers only.

mod common;
#[path = "common/towers.rs"]
mod towers;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{Args, Parser};
use gemmaflow::{
    flow::BuiltModel,
    gemma::{BidirectionalPictures, GemmaConfig, GemmaFlow, random_weights},
    generate::{GeneratorOptions, MemoryPlan, PREFILL_CHUNK, SMALLEST_BUCKET},
    internals::{
        ir::{LowerOptions, PassReport, kernel::Target, passes::prepare_reference},
        lower::{Together, lower},
        plan::Plan,
        shader::{Sizes, compose},
    },
    ir::{DType, DimBinding, sym},
    profile::CompileProfile,
    runtime::{Capabilities, Device, GpuOptions, Opened},
    weights::WeightLoader,
};
use indicatif::HumanBytes;

/// Prints a model's graph, plan, shaders or memory. Reads the headers of weights only.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json and safetensors weights, a weights file, a .gguf file, or OWNER/NAME[/FILE.gguf] on the
    /// Hugging Face Hub [default: the demo model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// A released model's shape in bf16 instead, such as gemma-3-1b
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    shape: Option<String>,
    #[command(flatten)]
    what: What,
    /// New tokens of the run that the plan is for; 1 is a decode step
    #[arg(long, value_name = "N", default_value_t = 1)]
    tokens: usize,
    /// Tokens that the cache shall hold
    #[arg(long, value_name = "N", default_value_t = 1024)]
    context: usize,
    /// With --memory: most MiB of the device's memory
    #[arg(long, value_name = "MIB", requires = "memory")]
    budget: Option<u64>,
    /// Compile profile [default: gemma.rlx.toml beside the weights, else the preset]
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Device that graph and plan are for: portable (any device), cpu (the reference), auto, gpu, or a part of an
    /// adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: String,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The graph as it is authored (on cpu: as it runs there): ops, shapes, names
    #[arg(long)]
    graph: bool,
    /// The profile, the passes, and the plan: slots and dispatches
    #[arg(long)]
    plan: bool,
    /// The WGSL of the plan's kernels whose shader or place in the model contains NAME
    #[arg(long, value_name = "NAME")]
    shader: Option<String>,
    /// Bytes of weights, caches, scratch memory and towers, and the longest context that fits
    #[arg(long)]
    memory: bool,
    /// The towers for pictures and sounds: layers, widths, weights, and the dispatches of a run of each size
    #[arg(long, conflicts_with = "shape")]
    towers: bool,
    /// The GPU adapters of this machine
    #[arg(long)]
    devices: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.what.devices {
        return common::list_devices();
    }
    arguments.model = arguments.model.as_deref().map(common::local).transpose()?;
    let (config, mut weights) = model(&arguments)?;
    if arguments.tokens == 0 || arguments.context < arguments.tokens {
        bail!("--tokens is {}, expected 1 to --context, which is {}", arguments.tokens, arguments.context);
    }
    if arguments.context > config.max_position_embeddings {
        bail!("--context is {}, the model was made for at most {}", arguments.context, config.max_position_embeddings);
    }
    if arguments.what.towers {
        return Ok(common::print(&towers::described(&config, model_path(&arguments), &capabilities(&arguments.device)?)?)?);
    }
    if arguments.what.memory {
        return Ok(common::print(&memory(&arguments, config, weights.as_mut())?)?);
    }
    let (profile, origin) = profile(&arguments, arguments.tokens == 1)?;
    let built = GemmaFlow::resident(&config).profile(profile.clone()).last_token_logits().build(weights.as_mut())?;
    let text = if arguments.what.graph {
        let mut report = PassReport::default();
        let graph = if arguments.device.eq_ignore_ascii_case("cpu") {
            prepare_reference(&built.graph, &profile.options("cpu"), &mut report)?.into_owned()
        } else {
            built.graph
        };
        format!("{origin}\n{profile}{report}{graph}")
    } else {
        let device = capabilities(&arguments.device)?;
        let target = device.target();
        let options = LowerOptions { chosen_from: Some("logits".into()), ..profile.options(&device.backend) };
        let rows = arguments.context.next_power_of_two().max(SMALLEST_BUCKET);
        let model = Model { config, built, target, options, rows };
        match &arguments.what.shader {
            Some(name) => shaders(&model.plan(arguments.tokens)?, name)?,
            None => {
                let plan = model.plan(arguments.tokens)?;
                format!("{origin}\n{profile}{}{plan}", plan.report)
            }
        }
    };
    Ok(common::print(&text)?)
}

/// The profile in effect, and where it comes from in one line.
fn profile(arguments: &Arguments, decode: bool) -> Result<(CompileProfile, String)> {
    let mode = if decode { "decode" } else { "prefill" };
    let beside = match (&arguments.profile, &arguments.shape) {
        (Some(file), _) => Some(file.clone()),
        (None, Some(_)) => None,
        (None, None) => CompileProfile::file_near_weights(model_path(arguments))?.map(|path| path.as_path().to_path_buf()),
    };
    match beside {
        Some(file) => Ok((CompileProfile::from_file(&file, decode)?, format!("profile for {mode}: {}", file.display()))),
        None if decode => Ok((CompileProfile::gemma_decode(), "profile for decode: preset gemma_decode".into())),
        None => Ok((CompileProfile::gemma_prefill(), "profile for prefill: preset gemma_prefill".into())),
    }
}

fn model(arguments: &Arguments) -> Result<(GemmaConfig, Box<dyn WeightLoader>)> {
    match &arguments.shape {
        Some(shape) => {
            let config = common::preset(shape)?;
            let weights = random_weights(&config, DType::BF16, 1)?;
            Ok((config, Box::new(weights)))
        }
        None => common::open(model_path(arguments)),
    }
}

fn model_path(arguments: &Arguments) -> &Path {
    arguments.model.as_deref().unwrap_or(Path::new(common::DEMO))
}

/// What the plan is for.
fn capabilities(device: &str) -> Result<Capabilities> {
    if device.eq_ignore_ascii_case("portable") {
        return Ok(Capabilities::portable());
    }
    match device.parse::<Device>()?.open(&GpuOptions::default())? {
        Opened::Gpu(context) => Ok(context.capabilities().clone()),
        Opened::Reference => {
            eprintln!("the reference runs the graph itself; this is the plan for any device (portable)");
            Ok(Capabilities::portable())
        }
    }
}

/// What a generator takes of the device, and the towers of its model's files.
fn memory(arguments: &Arguments, config: GemmaConfig, weights: &mut dyn WeightLoader) -> Result<String> {
    let [prefill_profile, decode_profile] = [false, true].map(|decode| profile(arguments, decode).map(|(profile, _)| profile));
    let device = capabilities(&arguments.device)?;
    let planned = match arguments.shape {
        Some(_) => Vec::new(),
        None => towers::planned(&config, model_path(arguments), &device),
    };
    let sees = planned.iter().any(|tower| tower.name == "vision" && tower.memory.is_ok());
    let longest_picture = config.multimodal.vision.as_ref().filter(|_| sees).map(|vision| vision.max_soft_tokens());
    let run_whole = longest_picture.filter(|_| config.bidirectional_pictures != BidirectionalPictures::Never);
    let longest_run = run_whole.map_or(PREFILL_CHUNK, |tokens| PREFILL_CHUNK.max(tokens)).min(arguments.context);
    let towers = planned.iter().filter_map(|tower| Some(tower.memory.as_ref().ok()?.peak())).sum();
    let budget = arguments.budget.map(|mib| mib.saturating_mul(1 << 20));
    let options = GeneratorOptions {
        context: Some(arguments.context),
        memory_budget: budget.map(|budget| budget.saturating_sub(towers)),
        prefill_profile: prefill_profile?,
        decode_profile: decode_profile?,
        longest_picture,
        ..GeneratorOptions::default()
    };
    let mut plan = MemoryPlan::for_options(config, weights, &device, &options)?;
    plan.towers = towers;
    plan.budget = budget;
    let fits = if plan.fits() { "fits" } else { "does not fit" };
    let end = format!("a context of {} tokens {fits}, the longest that fits has {}\n", plan.context, plan.longest_context);
    Ok(rows(&plan, &planned, longest_run).concat() + &end)
}

/// The figures of a plan, each in a line.
fn rows(plan: &MemoryPlan, planned: &[towers::Planned], longest_run: usize) -> Vec<String> {
    let full = plan.full_cache;
    let sliding = plan.sliding_cache;
    let (binding, bound) = &plan.largest_binding;
    let most = HumanBytes(plan.max_binding);
    let beside_weights = "beside the weights, free again before caches and scratch are made";
    let mut rows = vec![
        row("weights", plan.weights, &format!("{} tensors, with the padding between them", plan.tensors)),
        row("cache, full layers", full.bytes, &format!("{} rows, {} buffers", full.rows, full.buffers)),
        row("cache, sliding layers", sliding.bytes, &format!("{} rows, {} buffers", sliding.rows, sliding.buffers)),
        row("scratch", plan.scratch, &format!("runs of up to {longest_run} tokens")),
    ];
    rows.extend(planned.iter().flat_map(tower_rows));
    if plan.towers > 0 {
        rows.push(row("towers", plan.towers, "of each the weights, and a run or loading, whichever is more"));
    }
    rows.extend([
        row("together", plan.running(), "once it runs"),
        row("loading", plan.loading, beside_weights),
        row("most at once", plan.peak(), ""),
        row("largest binding", *binding, &format!("{bound}; the device binds at most {most}")),
    ]);
    rows
}

/// The figures of a tower, or why there are none.
fn tower_rows(tower: &towers::Planned) -> Vec<String> {
    let name = tower.name;
    match &tower.memory {
        Ok(memory) => vec![
            row(&format!("{name}, weights"), memory.weights, &format!("from the first {} on", tower.of)),
            row(&format!("{name}, a run"), memory.runs, &tower.largest),
            row(&format!("{name}, loading"), memory.loading, "free again before the first run"),
        ],
        Err(error) => vec![format!("{:22} not counted: {error}\n", format!("{name} tower"))],
    }
}

fn row(name: &str, bytes: u64, note: &str) -> String {
    let human = HumanBytes(bytes).to_string();
    format!("{name:22} {bytes:>15} bytes {human:>12}  {note}").trim_end().to_string() + "\n"
}

struct Model {
    config: GemmaConfig,
    built: BuiltModel,
    target: Target,
    options: LowerOptions,
    /// Capacity of the full layers' caches.
    rows: usize,
}

impl Model {
    /// Capacity of the sliding layers' rings.
    fn ring(&self) -> usize {
        self.config.sliding_window.unwrap_or(1) + PREFILL_CHUNK
    }

    fn binding(&self, tokens: usize) -> DimBinding {
        DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, self.rows).with(sym::RING, self.ring())
    }

    fn plan(&self, tokens: usize) -> Result<Plan> {
        Ok(lower(&self.built.graph, &self.binding(tokens), &self.target, &self.options, &Together::of(&self.built.graph))?)
    }
}

/// The composed WGSL of every kernel of the plan that matches.
fn shaders(plan: &Plan, name: &str) -> Result<String> {
    let mut seen = BTreeSet::new();
    let mut text = String::new();
    for dispatch in &plan.dispatches {
        let matches = dispatch.kernel.shader.contains(name) || dispatch.label.contains(name);
        if !matches || !seen.insert(dispatch.kernel.key()) {
            continue;
        }
        text.push_str(&format!("// {}\n// first used at {}\n\n", dispatch.kernel.to_string().replace('\n', " "), dispatch.label));
        text.push_str(&compose(&dispatch.kernel, Sizes::Constants)?);
        text.push('\n');
    }
    if text.is_empty() {
        let known: BTreeSet<&str> = plan.dispatches.iter().map(|d| d.kernel.shader).collect();
        let known: Vec<&str> = known.into_iter().collect();
        bail!("--shader: nothing in the plan is called '{name}'; its shaders are {}", known.join(", "));
    }
    Ok(text)
}
