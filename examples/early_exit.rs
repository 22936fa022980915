//! Stops a model after some of its layers: a `layer` hook leaves the others out.

mod common;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use gemmaflow::{
    flow::FlowStage,
    gemma::GemmaFlow,
    generate::{GemmaGenerator, GeneratorOptions},
};

/// Generates greedily with the first layers of a model alone, at several depths, beside the whole model.
///
/// A layer that is left out has no weights on the device, no cache and no dispatch.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "ROMEO:\n", hide_default_value = true)]
    prompt: String,
    /// Layers after which to stop, such as 1,3 [default: every depth but the last]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    exit: Vec<usize>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 40)]
    max_tokens: usize,
    /// Repetitions, whose median speed counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    reps: usize,
}

/// The flow with its first `layers` layers alone; final norm and head follow the last of them.
pub fn exit_after(flow: GemmaFlow<'_>, layers: usize) -> GemmaFlow<'_> {
    flow.layer(move |layer| if layer.index() < layers { layer.default_stage() } else { FlowStage::identity() })
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(mut arguments: Arguments) -> Result<()> {
    arguments.source.model = common::local(&arguments.source.model)?;
    let (config, _) = common::open(&arguments.source.model)?;
    let layers = config.active_num_layers();
    if let Some(exit) = arguments.exit.iter().find(|exit| **exit == 0 || **exit > layers) {
        bail!("--exit {exit}: the model has layers 1 to {layers}");
    }
    let exits = if arguments.exit.is_empty() { (1..layers).collect() } else { arguments.exit.clone() };
    let tokenizer = common::tokenizer(&arguments.source.model)?;
    let prompt = tokenizer.encode(&arguments.prompt, true)?;

    // The stock model, without a hook, comes first.
    let mut generators = vec![load(&arguments, GeneratorOptions::default())?];
    for &exit in &exits {
        generators.push(load(&arguments, GeneratorOptions::default().with_flow(move |flow| exit_after(flow, exit)))?);
    }
    let raced = common::race(&mut generators, &prompt, arguments.max_tokens, arguments.reps)?;
    for ((run, generator), depth) in raced.iter().zip(&generators).zip([layers].iter().chain(&exits)) {
        let (ratio, stats) = (run.rate / raced[0].rate, generator.stats());
        let text = tokenizer.decode(&run.tokens)?;
        let facts = format!("{:.1} tokens/s, {ratio:.2} of the stock model, {} weight bytes", run.rate, stats.weight_bytes);
        common::print(&format!("after layer {depth} of {layers}: {facts}\n  {text:?}\n"))?;
    }
    Ok(())
}

fn load(arguments: &Arguments, options: GeneratorOptions) -> Result<GemmaGenerator> {
    let (config, mut weights) = common::open(&arguments.source.model)?;
    Ok(common::load(config, weights.as_mut(), arguments.source.device.clone(), options)?.0)
}
