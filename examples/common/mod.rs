//! What the examples share: command line, model files, progress, errors in plain words.
#![allow(dead_code, unused_imports)] // Each example uses a part.

pub mod environment;
mod hub;
pub mod text;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Parser, ValueEnum};
use gemmaflow::{
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{Drafter, GemmaGenerator, GeneratorOptions, OnProgress, SampleOpts},
    runtime::{Device, UploadProgress, adapters},
    text::Tokenizer,
    weights::{Quantise, WeightLoader, is_gguf},
};
pub use hub::{local, local_with_projector};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::level_filters::LevelFilter;

/// A packed format, as the command line names it.
#[derive(Clone, Copy, ValueEnum)]
pub enum Packing {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl From<Packing> for Quantise {
    fn from(packing: Packing) -> Self {
        match packing {
            Packing::Q8_0 => Quantise::Q8_0,
            Packing::Q4_0 => Quantise::Q4_0,
        }
    }
}

/// The model that comes with the source tree.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");

/// Which model, and what it runs on.
#[derive(Args)]
pub struct Source {
    /// Folder with config.json, tokenizer.json and safetensors weights, a .gguf file, or OWNER/NAME[/FILE.gguf] on the
    /// Hugging Face Hub
    #[arg(long, value_name = "DIR", default_value = DEMO, hide_default_value = true)]
    pub model: PathBuf,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub device: Device,
}

/// How tokens are chosen. What is not given is as the model's maker recommends.
#[derive(Args)]
pub struct Sampling {
    /// Divisor of the logits; 0 always takes the likeliest token
    #[arg(long, allow_negative_numbers = true, value_name = "T")]
    pub temperature: Option<f32>,
    /// Keep the K likeliest tokens (of those that are allowed); 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that together have probability P
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the likeliest
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    pub min_p: Option<f32>,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

impl Sampling {
    /// Over what the model's maker recommends, which is told on stderr, or else over `usual`, what was asked for.
    pub fn over(&self, recommended: Option<SampleOpts>, usual: SampleOpts) -> Result<SampleOpts> {
        if let Some(recommended) = recommended {
            eprintln!("sampling as the model's maker recommends: {recommended}");
        }
        let opts = self.changed(recommended.unwrap_or(usual));
        if recommended.is_some_and(|recommended| recommended != opts.with_seed(0)) {
            eprintln!("sampling as asked for: {opts}");
        }
        opts.validate()?;
        Ok(opts)
    }

    /// Checks what was asked for, before a model is loaded.
    pub fn validate(&self) -> Result<()> {
        Ok(self.changed(SampleOpts::greedy()).validate()?)
    }

    fn changed(&self, mut opts: SampleOpts) -> SampleOpts {
        if let Some(temperature) = self.temperature {
            opts = opts.with_temperature(temperature);
        }
        if let Some(k) = self.top_k {
            opts = opts.with_top_k(k);
        }
        if let Some(p) = self.top_p {
            opts = opts.with_top_p(p);
        }
        if let Some(p) = self.min_p {
            opts = opts.with_min_p(p);
        }
        opts.with_seed(self.seed)
    }
}

/// Parses the command line and runs; an error is one line on stderr and exit code 1.
pub fn main<C: Parser>(run: impl FnOnce(C) -> Result<()>) -> ExitCode {
    let arguments = match C::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            let code = if usage.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            // Nothing is left to do where even this cannot be printed.
            usage.print().ok();
            return code;
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Writes text to stdout at once.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Lists the adapters on stdout.
pub fn list_devices() -> Result<()> {
    let found = adapters();
    let mut text: String = found.iter().map(|adapter| format!("{adapter}\n")).collect();
    if found.is_empty() {
        text = "no GPU adapter; is a Vulkan, Metal or DX12 driver installed?\n".into();
    }
    text.push_str("cpu: the CPU reference (always there, slow)\n");
    Ok(print(&text)?)
}

/// The folder of a model that is given as a folder or as a weights file.
pub fn folder(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_path_buf();
    }
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The configuration and the weights of a folder, of a safetensors file (with `config.json` beside it) or of a GGUF
/// file. Reads headers only.
pub fn open(path: &Path) -> Result<(GemmaConfig, Box<dyn WeightLoader>)> {
    if !path.exists() {
        let wanted = "--model takes a GGUF file, a folder with config.json and safetensors weights, or OWNER/NAME on the hub";
        bail!("{}: no such file or folder; {wanted}", path.display());
    }
    // First, as it says best what is wrong with a file.
    let weights = load_from_path(path)?;
    Ok((GemmaConfig::near_weights(path)?, weights))
}

/// The tokenizer of a model: that inside a GGUF file, else the `tokenizer.json` of its folder.
pub fn tokenizer(model: &Path) -> Result<Tokenizer> {
    if is_gguf(model) {
        return Ok(Tokenizer::from_gguf(model)?);
    }
    let path = folder(model).join("tokenizer.json");
    if !path.is_file() {
        bail!("{}: no such file; the model's tokenizer.json must lie beside its config.json", path.display());
    }
    Ok(Tokenizer::from_file(path)?)
}

/// The drafter of a folder or file, or with `lookup` the text itself.
pub fn drafter(path: &Path) -> Result<Drafter> {
    match path.to_str() {
        Some("lookup") => Ok(Drafter::prompt_lookup()),
        _ if !path.exists() => bail!("{}: no such file or folder; --draft takes a drafter's, or 'lookup'", path.display()),
        _ => Ok(Drafter::from_path(path)?),
    }
}

/// The shape of a released model.
pub fn preset(name: &str) -> Result<GemmaConfig> {
    let known = || GemmaConfig::preset_names().collect::<Vec<_>>().join(", ");
    GemmaConfig::preset(name).ok_or_else(|| anyhow!("--shape: there is no '{name}'; known are {}", known()))
}

/// Loads a model with a progress bar; also says how long it took.
pub fn load(
    config: GemmaConfig,
    weights: &mut dyn WeightLoader,
    device: Device,
    options: GeneratorOptions,
) -> Result<(GemmaGenerator, Duration)> {
    let start = Instant::now();
    let (bar, on_progress) = loading();
    let options = GeneratorOptions { on_progress: Some(on_progress), ..options };
    let generator = GemmaGenerator::with_options(config, weights, device, options);
    bar.finish_and_clear();
    Ok((generator?, start.elapsed()))
}

/// A bar for a model that loads, and what moves it.
pub fn loading() -> (ProgressBar, OnProgress) {
    let bar = bar(0, "loading {bar:30} {bytes}/{total_bytes}");
    let shown = bar.clone();
    let on_progress = move |progress: UploadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    };
    (bar, Box::new(on_progress))
}

/// A progress bar on stderr; hidden where that is no terminal.
pub fn bar(length: u64, style: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// `count` things in `time` as a rate; a span too short to measure gives none.
pub fn rate(count: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (count > 0 && seconds > 0.0).then(|| count as f64 / seconds)
}

/// The value in the middle; 0 where there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A greedy continuation and how fast it came.
pub struct Raced {
    /// The tokens after the prompt.
    pub tokens: Vec<u32>,
    /// Tokens of decode per second, the median over the turns.
    pub rate: f64,
}

/// Lets generators continue a prompt in turns, `reps` of them after one that is not counted, so that whatever else the
/// machine does meets them all alike.
pub fn race(generators: &mut [GemmaGenerator], prompt: &[u32], count: usize, reps: usize) -> Result<Vec<Raced>> {
    let greedy = SampleOpts::greedy();
    let mut rates = vec![Vec::new(); generators.len()];
    let mut texts = vec![Vec::new(); generators.len()];
    for rep in 0..=reps {
        for (i, generator) in generators.iter_mut().enumerate() {
            generator.prefill(prompt)?;
            let mut tokens = vec![generator.step_cached(&greedy)?];
            let start = Instant::now();
            tokens.extend(generator.generate_cached(count.saturating_sub(1), &greedy)?);
            let rate = rate(tokens.len() - 1, start.elapsed()).filter(|_| rep > 0);
            rates[i].extend(rate);
            texts[i] = tokens;
        }
    }
    let raced = texts.into_iter().zip(rates).map(|(tokens, rates)| Raced { tokens, rate: median(rates) });
    Ok(raced.collect())
}
