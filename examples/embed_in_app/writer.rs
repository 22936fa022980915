//! The thread that writes the text.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    ir::DType,
    runtime::{Device, GpuOptions, OwnDevice},
    text::{TextStream, Tokenizer},
    weights::random_weights,
};

use crate::common;

/// What is to be written.
pub struct Job {
    pub model: PathBuf,
    /// Random weights of this shape instead, and how many of its layers.
    pub shape: Option<String>,
    pub layers: Option<usize>,
    pub prompt: String,
    pub tokens: usize,
    pub seed: u64,
    pub submit_time: Option<Duration>,
    pub max_binding: Option<u64>,
}

/// What the thread tells.
pub enum Event {
    /// The model is loaded, and every kernel has run.
    Ready,
    Text(String),
    /// So many tokens in so much time, the prompt's included.
    Done(usize, Duration),
}

/// A handle of the thread.
pub struct Writer {
    pub events: Receiver<Event>,
    begin: Sender<()>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Writer {
    /// Loads the model to the application's device, in a thread of its own.
    pub fn start(own: OwnDevice, job: Job) -> Self {
        let (sender, events) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || write(own, &job, &sender, &begun, &stopped));
        Self { events, begin, stop, thread }
    }

    /// Lets it write.
    pub fn begin(&self) {
        // Where it has ended, `finish` says why.
        self.begin.send(()).ok();
    }

    /// Ends it after the token that it is at.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        drop(self.begin);
        self.thread.join().map_err(|_| anyhow!("the thread that writes has panicked"))?
    }
}

fn write(own: OwnDevice, job: &Job, events: &Sender<Event>, begun: &Receiver<()>, stop: &AtomicBool) -> Result<()> {
    let (mut generator, mut speech) = load(own, job)?;
    let prompt = speech.encode(&job.prompt)?;
    let opts = SampleOpts::temperature(0.8, job.seed).with_top_k(40);
    // Drivers compile at a kernel's first run, and how submits are cut is learnt from the runs after it.
    for _ in 0..2 {
        generator.prefill(&[prompt[0]])?;
        generator.prefill(&prompt)?;
        generator.generate_cached(4, &opts)?;
    }
    generator.prefill(&[prompt[0]])?;
    generator.prefill(&prompt)?;
    events.send(Event::Ready)?;
    if begun.recv().is_err() {
        return Ok(());
    }
    let (start, mut tokens) = (Instant::now(), 0);
    if job.tokens > 0 {
        generator.generate_cached_with(job.tokens, &opts, |token| {
            tokens += 1;
            let heard = speech.push(token).is_none_or(|text| events.send(Event::Text(text)).is_ok());
            if heard && !stop.load(Relaxed) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    // Whoever does not listen any more has seen enough.
    events.send(Event::Done(tokens, start.elapsed())).ok();
    Ok(())
}

/// Between text and tokens.
enum Speech {
    Of(Box<Tokenizer>, TextStream),
    /// Random weights have no text: the numbers of the tokens.
    Numbers,
}

impl Speech {
    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        match self {
            Speech::Of(tokenizer, _) => Ok(tokenizer.encode(prompt, true)?),
            Speech::Numbers => Ok((2..18).collect()),
        }
    }

    fn push(&mut self, token: u32) -> Option<String> {
        match self {
            Speech::Of(_, stream) => stream.push(token),
            Speech::Numbers => Some(format!("{token} ")),
        }
    }
}

fn load(own: OwnDevice, job: &Job) -> Result<(GemmaGenerator, Speech)> {
    let gpu = GpuOptions { max_binding: job.max_binding, ..GpuOptions::default() };
    let options = |defaults| GeneratorOptions { submit_time: job.submit_time, gpu: gpu.clone(), ..defaults };
    let Some(shape) = &job.shape else {
        let model = common::local(&job.model)?;
        let (config, mut weights) = common::open(&model)?;
        let tokenizer = common::tokenizer(&model)?;
        let options = options(GeneratorOptions::near_weights(&model)?);
        let (generator, _) = common::load(config, weights.as_mut(), Device::Own(own), options)?;
        let stream = tokenizer.stream();
        return Ok((generator, Speech::Of(Box::new(tokenizer), stream)));
    };
    let mut config = common::preset(shape)?;
    config.effective_num_layers = job.layers;
    config.eos_token_ids.clear();
    let mut weights = random_weights(&config, DType::BF16, 1)?;
    let (generator, _) = common::load(config, &mut weights, Device::Own(own), options(GeneratorOptions::default()))?;
    Ok((generator, Speech::Numbers))
}
