//! Looks into a model: hidden states of chosen layers as side outputs, and what the model would say if it ended there.

mod common;

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use gemmaflow::{
    flow::{BlockStage, FlowStage},
    gemma::{GemmaConfig, GemmaFlow, GemmaRmsNormStage, LmHeadStage},
    ir::ops::Slice,
    runtime::{CompileOptions, Session},
};

/// Prints, for each layer, how long the hidden state of the prompt's last token is and which tokens the final norm and
/// the head make of it (the logit lens).
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// Text to read
    #[arg(long, value_name = "TEXT", default_value = "ROMEO:\nI will not", hide_default_value = true)]
    prompt: String,
    /// Layers to look at, from 0, such as 0,3 [default: all]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    layers: Vec<usize>,
    /// Tokens to show for each layer
    #[arg(long, value_name = "N", default_value_t = 4)]
    top: usize,
    /// Repetitions, whose median speed counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    reps: usize,
}

/// The flow with two more outputs for each of `layers`: `hidden_{i}` `[B, T, D]`, the stream after the layer, and
/// `lens_{i}` `[B, 1, V]`, the head's logits of its last token, before the softcap.
pub fn probe<'a>(flow: GemmaFlow<'a>, layers: &[usize]) -> GemmaFlow<'a> {
    let layers = layers.to_vec();
    flow.layer(move |layer| {
        let index = layer.index();
        let stage = layer.default_stage();
        if !layers.contains(&index) {
            return stage;
        }
        let config = layer.config().clone();
        stage.then(FlowStage::custom("probe", move |context, x| {
            context.side_output(format!("hidden_{index}"), x);
            let last = context.seq.fixed().ok_or_else(|| anyhow!("the lens needs a fixed number of tokens"))? - 1;
            let lens = context.scoped(&format!("probe.{index}"), |context| {
                let row = context.graph.push(Slice { axis: 1, start: last, len: 1.into() }, &[x])?;
                context.graph.label(row, "last_token");
                let row = GemmaRmsNormStage::final_norm(&config).emit(context, row)?;
                head(&config).emit(context, row)
            })?;
            context.side_output(format!("lens_{index}"), lens);
            Ok(x)
        }))
    })
}

fn head(config: &GemmaConfig) -> LmHeadStage {
    if config.tie_word_embeddings { LmHeadStage::tied(config) } else { LmHeadStage::separate(config) }
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let model = common::local(&arguments.source.model)?;
    let (config, mut weights) = common::open(&model)?;
    let count = config.active_num_layers();
    if let Some(layer) = arguments.layers.iter().find(|layer| **layer >= count) {
        bail!("--layers {layer}: the model has layers 0 to {}", count - 1);
    }
    let layers = if arguments.layers.is_empty() { (0..count).collect() } else { arguments.layers.clone() };
    let tokenizer = common::tokenizer(&model)?;
    let tokens = tokenizer.encode(&arguments.prompt, true)?;

    let session = Session::new(&arguments.source.device)?;
    let stock = GemmaFlow::for_prefill(&config, 1, tokens.len()).last_token_logits();
    let probed = probe(stock.clone(), &layers).build(weights.as_mut())?;
    let stock = stock.build(common::open(&model)?.1.as_mut())?;
    let options = CompileOptions::default().with_weights(&session.load(probed.params())?);
    let mut graphs = [session.compile_with(&stock.graph, &options)?, session.compile_with(&probed.graph, &options)?];

    // In turns, so that whatever else the machine does meets both; the first turn does not count.
    let (mut times, mut outputs) = ([Vec::new(), Vec::new()], Vec::new());
    for rep in 0..=arguments.reps {
        for (graph, times) in graphs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            outputs = graph.run(&[("input_ids", &tokens[..])])?;
            times.extend((rep > 0).then(|| start.elapsed().as_secs_f64()));
        }
    }
    for layer in &layers {
        let value = |name: &str| {
            let name = format!("{name}_{layer}");
            outputs.iter().find(|(n, _)| *n == name).map(|(_, value)| value).ok_or_else(|| anyhow!("no output '{name}'"))
        };
        let hidden = value("hidden")?.to_f32()?;
        let norm = hidden[hidden.len() - config.hidden_size..].iter().map(|x| x * x).sum::<f32>().sqrt();
        let words = top(&value("lens")?.to_f32()?, arguments.top).into_iter().map(|id| tokenizer.decode(&[id]));
        common::print(&format!("layer {layer}: norm {norm:8.3}, says {:?}\n", words.collect::<Result<Vec<_>, _>>()?))?;
    }
    let [stock, probed] = times.map(|times| tokens.len() as f64 / common::median(times));
    let ratio = probed / stock;
    common::print(&format!("prefill: {stock:.1} tokens/s stock, {probed:.1} tokens/s probed, {ratio:.2} of the stock model\n"))?;
    Ok(())
}

/// The `count` likeliest tokens, the likeliest first.
fn top(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    ids.truncate(count);
    ids
}
