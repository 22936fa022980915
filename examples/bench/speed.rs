//! Tokens per second of prefill and decode, and what a decoded token asks of the host.

use std::time::{Duration, Instant};

use anyhow::Result;
use gemmaflow::{
    generate::{GemmaGenerator, SampleOpts},
    runtime::CounterSnapshot,
};
use indicatif::ProgressBar;

use crate::{Arguments, common, tokens};

/// All that was measured.
pub struct Speed {
    /// The first prompt of the process: kernels compile, caches are made.
    pub cold: Duration,
    /// Tokens of a prompt, and the times to the first token after it.
    pub prefill: Vec<(usize, Vec<Duration>)>,
    pub decode: Vec<Decode>,
}

/// Decode from one depth on.
pub struct Decode {
    pub depth: usize,
    /// Time of all generated tokens together, a repetition.
    pub times: Vec<Duration>,
    /// Submits of one token.
    pub submits: f64,
    /// Bytes that one token brings to the host.
    pub read_back: f64,
    /// Time of a token that the host did not spend waiting for the device, a repetition; none on the reference.
    pub host: Vec<Duration>,
}

pub fn measure(generator: &mut GemmaGenerator, arguments: &Arguments) -> Result<Speed> {
    let length = (arguments.reps + 1) * (arguments.prompt.len() + arguments.depth.len());
    let bar = common::bar(length as u64, "{msg:24} {bar:30} {pos}/{len}");
    let mut speed = Speed { cold: Duration::ZERO, prefill: Vec::new(), decode: Vec::new() };
    let mut seed = 0;
    for &prompt in &arguments.prompt {
        bar.set_message(format!("prefill of {prompt}"));
        let mut times = Vec::new();
        for _ in 0..=arguments.reps {
            seed += 1;
            times.push(first_token(generator, prompt, seed)?);
            bar.inc(1);
        }
        let warm_up = times.remove(0);
        if speed.prefill.is_empty() {
            speed.cold = warm_up;
        }
        speed.prefill.push((prompt, times));
    }
    for &depth in &arguments.depth {
        bar.set_message(format!("decode at depth {depth}"));
        speed.decode.push(decode(generator, arguments, depth, &bar)?);
    }
    bar.finish_and_clear();
    Ok(speed)
}

fn first_token(generator: &mut GemmaGenerator, prompt: usize, seed: usize) -> Result<Duration> {
    let prompt = tokens(prompt, seed, generator.config().vocab_size);
    let start = Instant::now();
    generator.prefill(&prompt)?;
    generator.step_cached(&SampleOpts::greedy())?;
    Ok(start.elapsed())
}

fn decode(generator: &mut GemmaGenerator, arguments: &Arguments, depth: usize, bar: &ProgressBar) -> Result<Decode> {
    let (vocab, greedy) = (generator.config().vocab_size, SampleOpts::greedy());
    let count = arguments.generated;
    let mut found = Decode { depth, times: Vec::new(), submits: 0.0, read_back: 0.0, host: Vec::new() };
    for rep in 0..=arguments.reps {
        // The same tokens each time: the cache keeps their rows, and only what was generated is forgotten.
        generator.prefill(tokens(depth.max(1), 0, vocab))?;
        if depth > 0 {
            generator.step_cached(&greedy)?;
        }
        let before = generator.counters();
        let start = Instant::now();
        generator.generate_cached(count, &greedy)?;
        let elapsed = start.elapsed();
        bar.inc(1);
        if rep == 0 {
            continue;
        }
        found.times.push(elapsed);
        if let (Some(before), Some(after)) = (before, generator.counters()) {
            let made = |of: fn(&CounterSnapshot) -> u64| of(&after) - of(&before);
            found.submits = made(|c| c.submits) as f64 / count as f64;
            found.read_back = made(|c| c.bytes_read_back) as f64 / count as f64;
            let waited = Duration::from_nanos(made(|c| c.nanos_waited));
            found.host.push(elapsed.saturating_sub(waited) / count as u32);
        }
    }
    Ok(found)
}
