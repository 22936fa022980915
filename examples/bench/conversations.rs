//! Decode of several conversations at once beside decode of one, in turns.

use std::time::Instant;

use anyhow::{Result, bail};
use gemmaflow::generate::{GemmaGenerator, SampleOpts};
use serde_json::json;

use crate::{Arguments, common, tokens};

pub fn run(name: &str, one: GemmaGenerator, arguments: &Arguments) -> Result<()> {
    let most = arguments.conversations.iter().copied().max().unwrap_or(1);
    let mut generators = vec![one];
    while generators.len() < most {
        generators.push(generators[0].share_weights()?);
    }
    let (mut alone, mut together) = (Vec::new(), vec![Vec::new(); arguments.conversations.len()]);
    for rep in 0..=arguments.reps {
        let one = alone_once(&mut generators[0], arguments)?;
        let times = arguments.conversations.iter().map(|count| once(&mut generators[..*count], arguments));
        let times = times.collect::<Result<Vec<_>>>()?;
        // The first repetition compiles and fills caches.
        if rep > 0 {
            alone.push(one);
            times.into_iter().zip(&mut together).for_each(|(time, all)| all.push(time));
        }
    }
    let rate = |tokens: usize, times: Vec<f64>| tokens as f64 / common::median(times);
    let base = rate(arguments.generated, alone);
    let rates: Vec<(usize, f64)> = arguments
        .conversations
        .iter()
        .zip(together)
        .map(|(count, times)| (*count, rate(count * arguments.generated, times)))
        .collect();
    let (device, prompt) = (generators[0].stats().device, arguments.prompt[0]);
    if arguments.json {
        let rows = rates.iter().map(|(count, rate)| json!({"conversations": count, "tokens_per_s": rate, "ratio": rate / base}));
        let report = json!({
            "model": name, "adapter": device, "prompt": prompt, "gen": arguments.generated,
            "decode_tokens_per_s": base, "together": rows.collect::<Vec<_>>(),
        });
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let mut text = format!(
        "{name} on {device}, greedy, {} tokens after {prompt}, medians of {}\none alone            {base:8.2} tokens/s\n",
        arguments.generated, arguments.reps
    );
    for (count, rate) in rates {
        text += &format!("{count:2} at once           {rate:8.2} tokens/s of all, {:.2} times one alone\n", rate / base);
    }
    Ok(common::print(&text)?)
}

/// Puts the prompt's rows into the cache, without the step that follows.
fn prepare(generator: &mut GemmaGenerator, arguments: &Arguments, seed: usize) -> Result<()> {
    let prompt = tokens(arguments.prompt[0], seed, generator.config().vocab_size);
    generator.prefill(&prompt)?;
    generator.step_cached(&SampleOpts::greedy())?;
    Ok(())
}

fn alone_once(generator: &mut GemmaGenerator, arguments: &Arguments) -> Result<f64> {
    prepare(generator, arguments, 0)?;
    let start = Instant::now();
    generator.generate_cached(arguments.generated, &SampleOpts::greedy())?;
    Ok(start.elapsed().as_secs_f64())
}

/// Conversations of one length.
fn once(generators: &mut [GemmaGenerator], arguments: &Arguments) -> Result<f64> {
    for (seed, generator) in generators.iter_mut().enumerate() {
        prepare(generator, arguments, seed)?;
    }
    let opts = vec![SampleOpts::greedy(); generators.len()];
    let mut all: Vec<&mut GemmaGenerator> = generators.iter_mut().collect();
    let start = Instant::now();
    for _ in 0..arguments.generated {
        for token in GemmaGenerator::decode_batch(&mut all, &opts) {
            if let Err(error) = token {
                bail!(error);
            }
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
