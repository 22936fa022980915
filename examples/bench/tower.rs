//! `--image` and `--audio`: a picture or a clip through a tower of a shape, stage by stage, beside prefill of text.

mod clip;
mod picture;

use std::{sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use clip::Clip;
use gemmaflow::{
    flow::BuiltModel,
    generate::GemmaGenerator,
    internals::tower::TowerInputs,
    ir::DType,
    profile::CompileProfile,
    runtime::{Clock, CompileOptions, GpuContext, RunInput, RunTimes, Session},
};
use picture::Picture;
pub use picture::Size;

use crate::{Arguments, common, dispatches, roofline::Roofline, tokens};

/// What is encoded.
#[derive(Clone, Copy)]
pub enum Subject {
    Picture(Size),
    /// Its seconds.
    Clip(u32),
}

/// A tower with random weights, and what it encodes.
trait Tower {
    fn subject(&self) -> &'static str;

    /// Encodes one, another for each seed, as an application does.
    fn encode(&self, seed: u32) -> Result<()>;

    /// The graph of a run.
    fn graph(&self) -> Result<Graph>;
}

struct Graph {
    built: BuiltModel,
    inputs: TowerInputs,
    profile: CompileProfile,
    /// Its rows, by which the work of a dispatch is reckoned.
    tokens: usize,
    heading: String,
}

/// Measures the tower, and one chunk of the text model, which has the same number of layers.
pub fn run(name: &str, mut generator: GemmaGenerator, dtype: DType, subject: Subject, arguments: &Arguments) -> Result<()> {
    let no_gpu = || anyhow!("--image and --audio need a GPU adapter; the CPU reference has no dispatches");
    let gpu = generator.gpu().ok_or_else(no_gpu)?;
    let shape = arguments.shape.as_deref().unwrap_or_default();
    let config = generator.config().clone();
    let tower: Box<dyn Tower> = match subject {
        Subject::Picture(size) => Box::new(Picture::new(shape, arguments.layers, config, dtype, size, gpu.clone())?),
        Subject::Clip(seconds) => Box::new(Clip::new(shape, arguments.layers, config, dtype, seconds, gpu.clone())?),
    };
    let graph = tower.graph()?;
    let times = times(&graph, &gpu, arguments)?;
    let encoding = encode(tower.as_ref(), &gpu, arguments.reps)?;
    generator.prefill(tokens(arguments.prompt[0], 1, generator.config().vocab_size))?;
    let text = generator.time_dispatches(arguments.reps, arguments.clock.map(Clock::from))?;
    let roofline = Roofline::measure(&gpu)?;
    let of_tower = rate(&times);
    let of_text = rate(&text);
    let Encoding { first, median, kept, kept_submits } = encoding;
    let summary = format!(
        "\nencoding: {median:.3} s a {} ({first:.3} s the first, with its pipelines); kept, {:.1} µs and {kept_submits} submits\n\
         tower: {:.3} s on the device, {:.2} GFLOP/s; text prefill: {:.2} GFLOP/s; the tower has {:.2} of its rate\n",
        tower.subject(),
        kept * 1e6,
        times.whole,
        of_tower / 1e9,
        of_text / 1e9,
        of_tower / of_text.max(1e-12),
    );
    let head = format!("{name}, on {}\n{}", generator.stats().device, dispatches::ceilings(&roofline));
    let heading = format!("tower, {}", graph.heading);
    let tables = [dispatches::table(&heading, &times, &roofline), dispatches::table(&dispatches::title(&text), &text, &roofline)];
    Ok(common::print(&(head + &tables.concat() + &summary))?)
}

/// Multiplications and additions a second, of the run as one pass.
fn rate(times: &RunTimes) -> f64 {
    let flops: u64 = times.dispatches.iter().map(|dispatch| dispatch.cost.flops).sum();
    flops as f64 / times.whole.max(1e-12)
}

/// The tower's dispatches. Its graph is compiled beside the encoder's, with the encoder's profile.
fn times(graph: &Graph, gpu: &Arc<GpuContext>, arguments: &Arguments) -> Result<RunTimes> {
    let session = Session::on(gpu);
    let weights = session.load(graph.built.params())?;
    let options = CompileOptions::default().with_weights(&weights).with_profile(&graph.profile);
    let mut compiled = session.compile_with(&graph.built.graph, &options)?;
    let given: Vec<(&str, RunInput)> = graph.inputs.iter().map(|(name, value)| (*name, RunInput::Value(value))).collect();
    Ok(compiled.time_dispatches(&given, graph.tokens, arguments.reps, arguments.clock.map(Clock::from))?)
}

/// Seconds of an encoding, from what is given to soft tokens.
struct Encoding {
    first: f64,
    median: f64,
    /// Of what was encoded before.
    kept: f64,
    kept_submits: u64,
}

fn encode(tower: &dyn Tower, gpu: &GpuContext, reps: usize) -> Result<Encoding> {
    let timed = |seed: u32| -> Result<f64> {
        let start = Instant::now();
        tower.encode(seed)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let first = timed(0)?;
    let times = (1..=reps as u32).map(timed).collect::<Result<Vec<_>>>()?;
    let submits = gpu.counters().snapshot().submits;
    let kept = timed(reps as u32)?;
    let kept_submits = gpu.counters().snapshot().submits - submits;
    Ok(Encoding { first, median: common::median(times), kept, kept_submits })
}
