//! The thread that writes the text.

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Conversation, Event, Model},
    gemma::random_weights,
    generate::{CancelToken, GeneratorOptions, SampleOpts},
    image::Image,
    ir::DType,
    runtime::{Device, GpuOptions, OwnDevice, wgpu},
    text::{Part, Tokenizer},
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
pub enum News {
    /// The model is loaded, and every kernel has run.
    Ready,
    Text(String),
    /// So many tokens in so much time, the prompt's included.
    Done(usize, Duration),
}

/// A handle of the thread, which ends with it.
pub struct Writer {
    pub events: Receiver<News>,
    begin: Sender<Option<wgpu::Texture>>,
    cancel: CancelToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    /// Loads the model to the application's device, in a thread of its own.
    pub fn start(own: OwnDevice, job: Job) -> Self {
        let (sender, events) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let cancel = CancelToken::new();
        let cancelled = cancel.clone();
        let thread = std::thread::spawn(move || write(own, &job, &sender, &begun, &cancelled));
        Self { events, begin, cancel, thread: Some(thread) }
    }

    /// Lets it write, of what it is shown.
    pub fn begin(&self, shown: Option<wgpu::Texture>) {
        // Where it has ended, `finish` says why.
        self.begin.send(shown).ok();
    }

    /// Ends it after the submit that it is at, and says how it went.
    pub fn finish(&mut self) -> Result<()> {
        self.cancel.cancel();
        // It may be waiting for this.
        self.begin(None);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        match thread.join().map_err(|_| anyhow!("the thread that writes has panicked"))? {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Cancelled(_))) => Ok(()),
            outcome => outcome,
        }
    }
}

/// A thread that uses the device must not outlive the application.
impl Drop for Writer {
    fn drop(&mut self) {
        self.finish().ok();
    }
}

fn write(
    own: OwnDevice,
    job: &Job,
    events: &Sender<News>,
    begun: &Receiver<Option<wgpu::Texture>>,
    cancel: &CancelToken,
) -> Result<()> {
    let model = load(own, job, cancel)?;
    let sampling = SampleOpts::temperature(0.8, job.seed).with_top_k(40);
    let mut conversation = model.conversation()?.with_options(AnswerOptions { sampling, ..AnswerOptions::default() });
    let empty = conversation.bookmark();
    // Drivers compile at a kernel's first run, and how submits are cut is learnt from the runs after it. The prompt is
    // then read anew: no row of it is kept, as the text before was another.
    model.keep_prompts(0);
    let other: String = job.prompt.chars().rev().collect();
    for text in [&job.prompt, &other] {
        begin(&mut conversation, text)?;
        finish(&mut conversation, 4, cancel, |_| {})?;
        conversation.rewind(&empty);
    }
    events.send(News::Ready)?;
    let shown = begun.recv()?;
    let start = Instant::now();
    match shown.zip(model.gpu()) {
        Some((texture, gpu)) => {
            let image = Image::try_from(gpu.read_texture(&texture)?)?;
            let picture = model.vision()?.with_cancel(cancel.clone()).encode(&image)?;
            conversation.send([picture.into(), Part::from(job.prompt.as_str())])?;
        }
        None => begin(&mut conversation, &job.prompt)?,
    }
    finish(&mut conversation, job.tokens, cancel, |event| {
        let news = match event {
            Event::Text(text) => News::Text(text.clone()),
            Event::End { usage, .. } => News::Done(usage.completion_tokens, start.elapsed()),
            _ => return,
        };
        // Whoever does not listen any more has cancelled.
        events.send(news).ok();
    })
}

/// Begins to go on from a text.
fn begin(conversation: &mut Conversation, text: &str) -> Result<()> {
    conversation.write(text)?;
    Ok(conversation.answer()?)
}

/// Says so many tokens, unless it is cancelled.
fn finish(conversation: &mut Conversation, tokens: usize, cancel: &CancelToken, mut tell: impl FnMut(&Event)) -> Result<()> {
    conversation.set_options(AnswerOptions { max_tokens: Some(tokens), ..conversation.options().clone() });
    conversation.finish(|event| {
        if cancel.is_cancelled() {
            return ControlFlow::Break(());
        }
        tell(event);
        ControlFlow::Continue(())
    })?;
    Ok(())
}

fn load(own: OwnDevice, job: &Job, cancel: &CancelToken) -> Result<Model> {
    let gpu = GpuOptions { max_binding: job.max_binding, ..GpuOptions::default() };
    let (submit_time, cancel) = (job.submit_time, Some(cancel.clone()));
    let Some(shape) = &job.shape else {
        let path = common::local(&job.model)?;
        let options = GeneratorOptions { submit_time, gpu, cancel, ..GeneratorOptions::near_weights(&path)? };
        return Ok(Model::open(path, Device::Own(own), options)?);
    };
    let mut config = common::preset(shape)?;
    config.effective_num_layers = job.layers;
    let mut weights = random_weights(&config, DType::BF16, 1)?;
    let options = GeneratorOptions { submit_time, gpu, cancel, ..GeneratorOptions::default() };
    // Of the tokens that come by chance it knows a few.
    let tokenizer = Tokenizer::from_file(common::DEMO)?;
    Ok(Model::from_loader(config, &mut weights, tokenizer, Device::Own(own), options)?)
}
