//! Adds a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) to a model's products: `y + scale · B·(A·x)` for `y = W·x`.

mod common;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Result;
use clap::Parser;
pub use gemmaflow::lora::Lora;
use gemmaflow::{
    gemma::{GemmaConfig, LayerWeight, WeightPosition},
    generate::GeneratorOptions,
    internals::ir::Case,
    lora::LoraPart,
    weights::Tensor,
};

/// Generates greedily with and without an adapter, and compares their speed.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// An adapter's folder or file as PEFT, mlx-lm or llama.cpp (GGUF) writes it
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

/// Random values of rank 8 for the queries and values of every layer: no adapter that anybody trained.
fn random(config: &GemmaConfig) -> Lora {
    let rank = 8;
    let numbers =
        |shape: [usize; 2], seed| Tensor::from_f32("random", shape.to_vec(), &Case::numbers(shape[0] * shape[1], seed, 0.05));
    let adapted =
        |position: &WeightPosition| matches!(position, WeightPosition::Layer(_, LayerWeight::Query | LayerWeight::Value));
    let places = config.weights().filter(adapted).map(|position| (position, config.weight_shape(position)[0]));
    let target = |(seed, (position, out)): (usize, (WeightPosition, usize))| {
        let seed = 2 * seed as u64;
        let (a, b) = (numbers([rank, config.hidden_size], seed), numbers([out, rank], seed + 1));
        (position.to_string(), LoraPart { a, b, scale: 1.0, bias: None, magnitude: None })
    };
    Lora::from_parts(places.enumerate().map(target))
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let model = common::local(&arguments.source.model)?;
    let (config, _) = common::open(&model)?;
    let lora = Arc::new(match &arguments.adapter {
        Some(path) => Lora::open(path, &config)?,
        None => random(&config),
    });
    let tokenizer = common::tokenizer(&model)?;
    let prompt = tokenizer.encode(&arguments.prompt, true)?;
    let count = lora.targets().len();

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
