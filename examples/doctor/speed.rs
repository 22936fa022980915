//! Decode and prefill of released shapes, beside what the roofline allows.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use gemmaflow::{
    Error,
    error::DeviceError,
    gemma::{GemmaConfig, random_weights},
    generate::{GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts},
    ir::{DType, Packed},
    runtime::{AdapterKind, Device, GpuContext, RunTimes},
    weights::{WeightLoader, WeightMap},
};
use indicatif::HumanBytes;

use crate::{
    first_token::tokens,
    memory,
    parts::{NOT_REACHED, Scope},
    report::{Rate, Speed, without_folders},
    roofline::Roofline,
    stored::Stored,
    tuning,
};

/// The shapes, small ones first: what takes most memory comes last.
const SHAPES: [&str; 5] = ["gemma-3-270m", "gemma-3-1b", "gemma-2-2b", "gemma-3-4b", "gemma-4-e2b"];
const QUICK: usize = 2;
const STORED: [&str; 3] = ["Q4_0", "Q8_0", "bf16"];
const CONTEXT: usize = 1024;

/// What is run of each.
#[derive(Clone, Copy)]
struct Sizes {
    prompt: usize,
    generated: usize,
    reps: usize,
}

const GPU: Sizes = Sizes { prompt: 512, generated: 32, reps: 3 };
const SOFTWARE: Sizes = Sizes { prompt: 16, generated: 4, reps: 1 };

/// Measures all that there is time and memory for.
///
/// # Errors
/// What `open`, which opens the device, anew where it was lost, says.
pub fn measure(scope: &Scope, quick: bool, roofline: Option<Roofline>, open: &dyn Fn() -> Result<Arc<GpuContext>>) -> Result<()> {
    let shapes = if quick { &SHAPES[..QUICK] } else { &SHAPES[..] };
    // Seconds that the last one took a byte of weights, by how they are stored.
    let mut paces = HashMap::new();
    scope.at("opening the device");
    let mut context = open()?;
    for (shape, weights) in shapes.iter().flat_map(|shape| STORED.map(|weights| (*shape, weights))) {
        scope.at(&format!("{shape} in {weights}"));
        if context.check().is_err() {
            context = open()?;
        }
        let start = Instant::now();
        let mut speed = Speed { shape, weights, ..Speed::default() };
        let pace = paces.get(weights).copied().unwrap_or(0.0);
        match one(scope, &context, pace, roofline, &mut speed) {
            Ok(()) => drop(paces.insert(weights, start.elapsed().as_secs_f64() / speed.weight_bytes.max(1) as f64)),
            Err(error) => fail(scope, &error, &mut speed),
        }
        let choices = context.kernel_choices();
        scope.update(|report| {
            report.speed.push(speed);
            report.tuning = Some(tuning::section(&choices));
        });
    }
    Ok(())
}

/// Says why there are no figures.
fn fail(scope: &Scope, error: &anyhow::Error, speed: &mut Speed) {
    speed.problem = Some(match error.downcast_ref::<Error>() {
        Some(Error::Cancelled(_)) => NOT_REACHED.into(),
        Some(Error::Device(DeviceError::OutOfMemory { bytes, .. })) => {
            format!("the device has no memory for it ({bytes} bytes more were refused)")
        }
        Some(Error::Device(DeviceError::WrongKernel { .. })) => {
            speed.wrong = true;
            format!("WRONG: {}", without_folders(&error.to_string()))
        }
        _ if error.is::<NoNumbers>() => {
            speed.wrong = true;
            error.to_string()
        }
        _ if scope.over() => NOT_REACHED.into(),
        _ => without_folders(&error.to_string()),
    });
}

/// A model's logits are infinite or no numbers.
#[derive(Debug)]
struct NoNumbers;

impl std::fmt::Display for NoNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WRONG: its logits are no finite numbers")
    }
}

impl std::error::Error for NoNumbers {}

fn options() -> GeneratorOptions {
    GeneratorOptions { context: Some(CONTEXT), ..GeneratorOptions::default() }
}

/// Runs `with` on the loader of random weights, stored like this.
fn with_loader<T>(weights: &mut WeightMap, stored: &str, with: impl FnOnce(&mut dyn WeightLoader) -> T) -> T {
    match Packed::by_name(stored) {
        Some(format) => with(&mut Stored::new(weights, format)),
        None => with(weights),
    }
}

/// One shape with its weights stored in one way.
fn one(scope: &Scope, context: &Arc<GpuContext>, pace: f64, roofline: Option<Roofline>, speed: &mut Speed) -> Result<()> {
    let config = GemmaConfig::preset(speed.shape).ok_or_else(|| anyhow!("there is no shape {}", speed.shape))?;
    let capabilities = context.capabilities();
    let sizes = if capabilities.kind == AdapterKind::Software { SOFTWARE } else { GPU };
    speed.prompt = sizes.prompt;
    let random = || random_weights(&config, DType::BF16, 1);
    let plan = with_loader(&mut random()?, speed.weights, |loader| {
        MemoryPlan::for_options(config.clone(), loader, capabilities, &options())
    })?;
    speed.weight_bytes = plan.weights;
    // Larger ones take less a byte, and what is under way can be cancelled.
    if scope.over() || 0.7 * pace * plan.weights as f64 > scope.left().as_secs_f64() {
        return Err(Error::Cancelled("a model for which no time is left").into());
    }
    let shares_memory = matches!(capabilities.kind, AdapterKind::Integrated | AdapterKind::Software);
    let room = memory::available().filter(|_| shares_memory).map(|bytes| bytes / 4 * 3);
    if let Some(room) = room.filter(|room| plan.peak() > *room) {
        return Err(anyhow!("it takes {}, and three quarters of what is free are {}", HumanBytes(plan.peak()), HumanBytes(room)));
    }
    let start = Instant::now();
    let options = GeneratorOptions { cancel: Some(scope.cancel.clone()), ..options() };
    let device = Device::Context(context.clone());
    let mut generator = with_loader(&mut random()?, speed.weights, |loader| {
        GemmaGenerator::with_options(config.clone(), loader, device, options)
    })?;
    context.wait_idle("the upload of the weights")?;
    generator.set_cancel(scope.cancel.clone());
    speed.load_s = start.elapsed().as_secs_f64();
    run(scope, &mut generator, sizes, roofline, speed)
}

fn run(scope: &Scope, generator: &mut GemmaGenerator, sizes: Sizes, roofline: Option<Roofline>, speed: &mut Speed) -> Result<()> {
    let vocab = generator.config().vocab_size;
    let logits = generator.prefill_get_last_logits(tokens(sizes.prompt, 0, vocab))?;
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(NoNumbers.into());
    }
    // Compiles what a greedy step needs.
    generator.generate_cached(2, &SampleOpts::greedy())?;
    speed.dispatches_per_token = generator.stats().dispatches_per_token;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for rep in 1..=sizes.reps {
        if scope.over() && rep > 1 {
            break;
        }
        let start = Instant::now();
        generator.prefill(tokens(sizes.prompt, rep, vocab))?;
        generator.step_cached(&SampleOpts::greedy())?;
        prefill.push(rate(sizes.prompt, start.elapsed()));
        let start = Instant::now();
        let made = generator.generate_cached(sizes.generated, &SampleOpts::greedy())?;
        decode.push(rate(made.len(), start.elapsed()));
    }
    speed.prefill = Some(of(prefill, None));
    speed.decode = Some(of(decode, None));
    let Some(roofline) = roofline else { return Ok(()) };
    let ceilings = match ceilings(generator, sizes.prompt, &roofline) {
        Err(_) if scope.over() => return Ok(()),
        other => other?,
    };
    speed.prefill = speed.prefill.map(|rate| of(vec![rate.tokens_per_s], Some(ceilings[0])));
    speed.decode = speed.decode.map(|rate| of(vec![rate.tokens_per_s], Some(ceilings[1])));
    Ok(())
}

/// Tokens a second that the roofline allows: in the last chunk of a prompt, and in a step after it.
fn ceilings(generator: &mut GemmaGenerator, prompt: usize, roofline: &Roofline) -> Result<[f64; 2]> {
    let rate = |times: RunTimes| times.tokens as f64 / times.dispatches.iter().map(|d| roofline.seconds(d)).sum::<f64>();
    let vocab = generator.config().vocab_size;
    generator.prefill(tokens(prompt, 0, vocab))?;
    let prefill = rate(generator.time_dispatches(1, None)?);
    generator.step_cached(&SampleOpts::greedy())?;
    Ok([prefill, rate(generator.time_dispatches(1, None)?)])
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

fn of(rates: Vec<f64>, roofline: Option<f64>) -> Rate {
    let tokens_per_s = crate::common::median(rates);
    let roofline = roofline.filter(|rate| rate.is_finite());
    Rate { tokens_per_s, roofline_tokens_per_s: roofline, share: roofline.map(|rate| tokens_per_s / rate) }
}
