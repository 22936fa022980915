//! Adds a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) to chosen projections: `y + scale · B·(A·x)` for `y = W·x`.

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Parser;
use gemmaflow::{
    flow::{EmitContext, FlowStage, Projection},
    gemma::{GemmaConfig, GemmaFlow, LayerWeight, WeightPosition},
    generate::GeneratorOptions,
    ir::{Case, NodeId},
    weights::{Tensor, load_from_path},
};

/// Generates greedily with and without an adapter, and compares their speed.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// Folder with adapter_model.safetensors and adapter_config.json as PEFT writes them, or a safetensors file
    /// [default: random values of rank 8 on q_proj and v_proj of every layer]
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "ROMEO:\n", hide_default_value = true)]
    prompt: String,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 40)]
    max_tokens: usize,
    /// Repetitions, whose median speed counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    reps: usize,
}

/// An adapter: A `[r, in]` and B `[out, r]` for each projection, by the projection's name in the graph.
pub struct Lora {
    pub scale: f32,
    pub targets: BTreeMap<String, [Tensor; 2]>,
}

/// What PEFT says of an adapter beside its weights; other kinds of adapter are refused.
#[derive(serde::Deserialize)]
struct AdapterConfig {
    r: f32,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, f32>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f32>,
}

impl Lora {
    /// Reads an adapter for a model of `config`.
    pub fn open(path: &Path, config: &GemmaConfig) -> Result<Self> {
        let folder = common::folder(path);
        let file = if path.is_dir() { folder.join("adapter_model.safetensors") } else { path.to_path_buf() };
        let mut loader = load_from_path(&file)?;
        let mut parts: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for key in loader.remaining_keys() {
            let (name, part) = target(&key, config).map_err(|e| anyhow!("{}: {e}", file.display()))?;
            parts.entry(name).or_default()[part] = Some(loader.take(&key)?);
        }
        ensure!(!parts.is_empty(), "{}: there is no lora_A and no lora_B in it", file.display());
        let whole = |(name, parts): (String, [Option<Tensor>; 2])| match parts {
            [Some(a), Some(b)] => Ok((name, [a, b])),
            [a, _] => bail!("{}: {name} has no {}", file.display(), if a.is_some() { "lora_B" } else { "lora_A" }),
        };
        let targets = parts.into_iter().map(whole).collect::<Result<_>>()?;
        ensure!(
            !path.is_dir() || folder.join("adapter_config.json").is_file(),
            "{}: there is no adapter_config.json",
            path.display()
        );
        Ok(Self { scale: scale(&folder.join("adapter_config.json"))?, targets })
    }

    /// Random values of rank 8 for the queries and values of every layer: no adapter that anybody trained.
    pub fn random(config: &GemmaConfig) -> Self {
        let rank = 8;
        let numbers =
            |shape: [usize; 2], seed| Tensor::from_f32("random", shape.to_vec(), &Case::numbers(shape[0] * shape[1], seed, 0.05));
        let adapted =
            |position: &WeightPosition| matches!(position, WeightPosition::Layer(_, LayerWeight::Query | LayerWeight::Value));
        let places = config.weights().filter(adapted).map(|position| (position, config.weight_shape(position)[0]));
        let target = |(seed, (position, out)): (usize, (WeightPosition, usize))| {
            let seed = 2 * seed as u64;
            (position.to_string(), [numbers([rank, config.hidden_size], seed), numbers([out, rank], seed + 1)])
        };
        Self { scale: 1.0, targets: places.enumerate().map(target).collect() }
    }

    /// The flow with the adapter on every layer; a target that no layer has is an error when the flow is built.
    pub fn apply<'a>(self: &Arc<Self>, flow: GemmaFlow<'a>) -> GemmaFlow<'a> {
        let (lora, same) = (self.clone(), self.clone());
        flow.layer(move |layer| {
            let lora = lora.clone();
            layer.default_stage().adapted(move |context, projection| lora.adapt(context, projection))
        })
        .after_layers([FlowStage::custom("lora", move |context, x| same.check(context, x))])
    }

    /// `y + scale · B·(A·x)` where the projection is a target.
    fn adapt(&self, context: &mut EmitContext, projection: &Projection) -> Result<NodeId> {
        let (name, y) = (projection.name, projection.output);
        let Some([a, b]) = self.targets.get(name) else { return Ok(y) };
        let (rank, shapes) = (a.shape()[0], [a.shape(), b.shape()]);
        let expected = [[rank, context.width(projection.input)?], [context.width(y)?, rank]];
        ensure!(shapes == expected, "A and B have shapes {shapes:?}, {name} takes {expected:?}");
        let a = context.own_weight(&format!("{name}.lora_a"), a.clone())?;
        let b = context.own_weight(&format!("{name}.lora_b"), b.clone())?;
        let low = context.graph.linear(projection.input, a)?;
        context.graph.label(low, "lora_a");
        let delta = context.graph.linear(low, b)?;
        context.graph.label(delta, "lora_b");
        let scaled = context.graph.scale(delta, self.scale)?;
        let sum = context.graph.add(y, scaled)?;
        context.share(format!("{name}.lora"), sum);
        Ok(sum)
    }

    /// Refuses targets that were met nowhere; the stream passes through.
    fn check(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        match self.targets.keys().find(|name| context.find_shared(&format!("{name}.lora")).is_none()) {
            Some(name) => bail!("the adapter's target {name} is in no layer of this flow, it would have no effect"),
            None => Ok(x),
        }
    }
}

/// The projection that a key of the file adapts, by its name in the graph, and whether the key is A (0) or B (1).
fn target(key: &str, config: &GemmaConfig) -> Result<(String, usize)> {
    use LayerWeight::{AttentionOutput, FfwDown, FfwGate, FfwUp, Key, Query, Value};
    let place = ["lora_A", "lora_B"].iter().position(|part| key.ends_with(&format!(".{part}.weight")));
    let part = place.ok_or_else(|| anyhow!("'{key}' is neither lora_A nor lora_B of a projection"))?;
    let name = key[..key.len() - ".lora_A.weight".len()].trim_start_matches("base_model.model.");
    let prefixes = ["model.language_model.", "language_model.model.", "model."];
    let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let projections = [Query, Key, Value, AttentionOutput, FfwGate, FfwUp, FfwDown];
    match WeightPosition::from_hugging_face(config.arch, &format!("{name}.weight")) {
        Some(WeightPosition::Layer(layer, _)) if layer >= config.active_num_layers() => {
            bail!("'{key}' adapts layer {layer}, the model has {}", config.active_num_layers())
        }
        Some(at @ WeightPosition::Layer(_, weight)) if projections.contains(&weight) => Ok((at.to_string(), part)),
        _ => bail!("'{key}' adapts nothing that this model has a projection for"),
    }
}

/// `alpha / r`, or 1 without a configuration.
fn scale(path: &Path) -> Result<f32> {
    if !path.is_file() {
        return Ok(1.0);
    }
    let read = || -> Result<AdapterConfig> { Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?) };
    let config = read().map_err(|e| anyhow!("{}: {e}", path.display()))?;
    let plain = !config.use_dora && config.rank_pattern.is_empty() && config.alpha_pattern.is_empty();
    ensure!(plain, "{}: use_dora, rank_pattern and alpha_pattern are not supported", path.display());
    ensure!(config.r >= 1.0, "{}: r is {}, expected at least 1", path.display(), config.r);
    Ok(config.lora_alpha / if config.use_rslora { config.r.sqrt() } else { config.r })
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let model = common::local(&arguments.source.model)?;
    let (config, _) = common::open(&model)?;
    let lora = Arc::new(match &arguments.adapter {
        Some(path) => Lora::open(path, &config)?,
        None => Lora::random(&config),
    });
    let tokenizer = common::tokenizer(&model)?;
    let prompt = tokenizer.encode(&arguments.prompt, true)?;
    let count = lora.targets.len();

    let adapted = GeneratorOptions::default().with_flow(move |flow| lora.apply(flow));
    let mut generators = Vec::new();
    for options in [GeneratorOptions::default(), adapted] {
        let (config, mut weights) = common::open(&model)?;
        generators.push(common::load(config, weights.as_mut(), arguments.source.device.clone(), options)?.0);
    }
    let raced = common::race(&mut generators, &prompt, arguments.max_tokens, arguments.reps)?;
    let titles = ["stock".to_string(), format!("with {count} adapted projections")];
    for ((title, run), generator) in titles.iter().zip(&raced).zip(&generators) {
        let (ratio, dispatches) = (run.rate / raced[0].rate, generator.stats().dispatches_per_token);
        let facts = format!("{:.1} tokens/s, {ratio:.2} of the stock model, {dispatches} dispatches a token", run.rate);
        common::print(&format!("{title}: {facts}\n  {:?}\n", tokenizer.decode(&run.tokens)?))?;
    }
    Ok(())
}
