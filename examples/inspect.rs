//! Shows what becomes of a model: its graph, its plan, its shaders, its memory. Reads headers only.

mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser};
use gemmaflow::{
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    generate::{PREFILL_CHUNK, SMALLEST_BUCKET},
    ir::{
        DType, DimBinding, LowerOptions, Op, PassReport,
        kernel::{Target, row_shards},
        ops::Role,
        passes::prepare_reference,
        sym,
    },
    lower::{Together, lower},
    plan::Plan,
    profile::CompileProfile,
    runtime::{Device, GpuOptions, Opened},
    shader::{Sizes, compose},
    weights::{Tensor, WeightLoader, random_weights},
};
use indicatif::HumanBytes;

/// Prints a model's graph, plan, shaders or memory. Reads the headers of weights only.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json and safetensors weights, a weights file, or a .gguf file [default: the demo model]
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
    /// Compile profile [default: gemma.rlx.toml beside the weights, else the preset]
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Device that graph and plan are for: portable (any device), cpu (the reference), auto, gpu, or a part of an adapter's name
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
    /// Bytes of weights, caches and scratch memory
    #[arg(long)]
    memory: bool,
    /// The GPU adapters of this machine
    #[arg(long)]
    devices: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.what.devices {
        return common::list_devices();
    }
    let (config, mut weights) = model(&arguments)?;
    if arguments.tokens == 0 || arguments.context < arguments.tokens {
        bail!("--tokens is {}, expected 1 to --context, which is {}", arguments.tokens, arguments.context);
    }
    if arguments.context > config.max_position_embeddings {
        bail!("--context is {}, the model was made for at most {}", arguments.context, config.max_position_embeddings);
    }
    let (profile, origin) = profile(&arguments)?;
    let built = GemmaFlow::resident(&config).profile(profile.clone()).last_token_logits().build(weights.as_mut())?;
    let text = if arguments.what.graph {
        let mut report = PassReport::default();
        let graph = match arguments.device.eq_ignore_ascii_case("cpu") {
            true => prepare_reference(&built.graph, &profile.options("cpu"), &mut report)?.into_owned(),
            false => built.graph,
        };
        format!("{origin}\n{profile}{report}{graph}")
    } else {
        let (target, backend) = target(&arguments.device)?;
        let options = LowerOptions { chosen_from: Some("logits".into()), ..profile.options(&backend) };
        let rows = arguments.context.next_power_of_two().max(SMALLEST_BUCKET);
        let model = Model { config, built, target, options, rows };
        match &arguments.what.shader {
            Some(name) => shaders(&model.plan(arguments.tokens)?, name)?,
            None if arguments.what.plan => {
                let plan = model.plan(arguments.tokens)?;
                format!("{origin}\n{profile}{}{plan}", plan.report)
            }
            None => model.memory()?,
        }
    };
    Ok(common::print(&text)?)
}

/// The profile in effect, and where it comes from in one line.
fn profile(arguments: &Arguments) -> Result<(CompileProfile, String)> {
    let decode = arguments.tokens == 1;
    let mode = if decode { "decode" } else { "prefill" };
    let beside = match (&arguments.profile, &arguments.shape) {
        (Some(file), _) => Some(file.clone()),
        (None, Some(_)) => None,
        (None, None) => CompileProfile::file_near_weights(arguments.model.as_deref().unwrap_or(Path::new(common::DEMO)))?,
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
        None => common::open(&arguments.model.clone().unwrap_or(common::DEMO.into())),
    }
}

/// What the plan is for, and the backend's name.
fn target(device: &str) -> Result<(Target, String)> {
    let portable = || (Target::portable(), "portable".to_string());
    if device.eq_ignore_ascii_case("portable") {
        return Ok(portable());
    }
    match device.parse::<Device>()?.open(&GpuOptions::default())? {
        Opened::Gpu(context) => Ok((context.capabilities().target(), context.capabilities().backend.clone())),
        Opened::Reference => {
            eprintln!("the reference runs the graph itself; this is the plan for any device (portable)");
            Ok(portable())
        }
    }
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

    /// Bytes and number of the caches whose capacity is `symbol`.
    fn caches(&self, symbol: &str) -> Result<(u64, usize)> {
        let (mut bytes, mut count) = (0, 0);
        for node in self.built.graph.nodes() {
            let Op::Input(input) = &node.op else { continue };
            if input.role != Role::Cache || !input.ty.shape.to_string().contains(symbol) {
                continue;
            }
            let elements: usize = input.ty.shape.bind(&self.binding(1))?.iter().product();
            bytes += (elements * input.ty.dtype.scalar_bytes().context("a cache in a packed format")?) as u64;
            count += 1;
        }
        Ok((bytes, count))
    }

    /// The largest piece of a weight that is bound at once, and its name.
    fn largest_binding(&self) -> Result<(u64, String)> {
        let mut largest = (0, String::new());
        for (name, tensor) in &self.built.params {
            let shards = row_shards(tensor.dtype(), tensor.shape(), self.target.max_binding);
            let shards = shards.map_err(|problem| anyhow!("weight '{name}': {problem}"))?;
            let longest = shards.iter().map(|rows| rows.len()).max().unwrap_or(0);
            let bytes = longest as u64 * resident_bytes(tensor) / tensor.shape().first().map_or(1, |rows| *rows as u64);
            let what = format!("weight {name}, {} shard{}", shards.len(), if shards.len() == 1 { "" } else { "s" });
            largest = largest.max((bytes, what));
        }
        Ok(largest)
    }

    fn memory(&self) -> Result<String> {
        let weights: u64 = self.built.params.values().map(resident_bytes).sum();
        let (full, full_count) = self.caches(sym::CACHE.0)?;
        let (sliding, sliding_count) = self.caches(sym::RING.0)?;
        let chunk = PREFILL_CHUNK.min(self.rows);
        let (decode, prefill) = (self.plan(1)?.scratch_bytes(), self.plan(chunk)?.scratch_bytes());
        let (binding, bound) = self.largest_binding()?;
        let rows = [
            ("weights", weights, format!("{} tensors", self.built.params.len())),
            ("cache, full layers", full, format!("{} rows, {full_count} buffers", self.rows)),
            ("cache, sliding layers", sliding, format!("{} rows, {sliding_count} buffers", self.ring())),
            ("scratch, decode", decode, "1 token".into()),
            ("scratch, prefill", prefill, format!("{chunk} tokens; shares buffers with decode")),
            ("together", weights + full + sliding + decode.max(prefill), String::new()),
            ("largest binding", binding, format!("{bound}; the device binds at most {}", HumanBytes(self.target.max_binding))),
        ];
        let line = |(name, bytes, note): &(&str, u64, String)| {
            let human = HumanBytes(*bytes).to_string();
            format!("{name:22} {bytes:>15} bytes {human:>12}  {note}").trim_end().to_string() + "\n"
        };
        Ok(rows.iter().map(line).collect())
    }
}

/// Bytes of a weight as a device holds it.
fn resident_bytes(tensor: &Tensor) -> u64 {
    let row = tensor.shape().last().copied().unwrap_or(1).max(1);
    tensor.dtype().resident_row_bytes(row).map_or(0, |bytes| bytes * (tensor.len() / row) as u64)
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
