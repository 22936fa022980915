//! `--load`: how fast a model loads, beside how fast its files are read and its bytes are brought to the device, and
//! what it takes of heap and device.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use anyhow::{Result, anyhow, bail};
use gemmaflow::{
    checkpoint::{GgufLoader, SafetensorsLoader, load_from_path},
    flow::{BuiltModel, ModelParams},
    gemma::{GemmaConfig, GemmaFlow},
    generate::{GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts},
    runtime::{Device, GpuContext, GpuOptions, Opened, Session},
    weights::{Tensor, TensorSource, is_gguf},
};
use indicatif::HumanBytes;
use serde_json::json;

use crate::{Arguments, common, heap, tokens};

/// Bytes read at a time, as the library does.
const PORTION: usize = 1 << 20;

/// Tokens of the prompt that fills the plans.
const PROMPT: usize = 16;

/// Bytes from memory instead of a file.
struct Memory(Vec<u8>);

impl TensorSource for Memory {
    fn read(&self, offset: u64, out: &mut [u8]) -> gemmaflow::Result<()> {
        let mut at = offset as usize % self.0.len();
        for part in out.chunks_mut(self.0.len() / 2) {
            at = if at + part.len() > self.0.len() { 0 } else { at };
            part.copy_from_slice(&self.0[at..at + part.len()]);
            at += part.len();
        }
        Ok(())
    }
}

/// Seconds of each part, one a repetition.
#[derive(Default)]
struct Times {
    read: Vec<f64>,
    upload: Vec<f64>,
    load: Vec<f64>,
}

pub fn run(name: &str, config: GemmaConfig, path: &Path, arguments: &Arguments) -> Result<()> {
    let context = match arguments.device.open(&GpuOptions::default())? {
        Opened::Gpu(context) => context,
        Opened::Reference => bail!("--load needs a GPU adapter"),
    };
    let files = files(path)?;
    let file_bytes = files.iter().map(|file| std::fs::metadata(file).map(|m| m.len())).sum::<std::io::Result<u64>>()?;
    let built = GemmaFlow::resident(&config).lm_head().build(load_from_path(path)?.as_mut())?;
    let device_bytes: u64 = built.params.values().map(|tensor| tensor.byte_len() as u64).sum();
    let mut times = Times::default();
    for _ in 0..arguments.reps {
        measure(&context, &files, &built, arguments.cold, &mut times)?;
    }
    let [read, upload, load] = [times.read, times.upload, times.load].map(common::median);
    let taken = take(config, path, &context)?;
    let (share, heap) = (read.max(upload) / load, heap::peak() as u64);
    let rate = |bytes: u64, seconds: f64| bytes as f64 / seconds / 1e9;
    let report = json!({
        "model": name,
        "adapter": context.capabilities().adapter,
        "cache": if arguments.cold { "cold" } else { "warm" },
        "file_bytes": file_bytes,
        "device_bytes": device_bytes,
        "read_gb_per_s": rate(file_bytes, read),
        "upload_gb_per_s": rate(device_bytes, upload),
        "load_gb_per_s": rate(device_bytes, load),
        "share_of_slower": share,
        "generator_load_s": taken.seconds,
        "planned_bytes": taken.planned,
        "taken_bytes": taken.bytes,
        "heap_peak_bytes": heap,
    });
    if arguments.json {
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let line = |what: &str, bytes: u64, seconds: f64| {
        format!("{what:34} {:>12} in {seconds:8.3} s, {:7.3} GB/s\n", HumanBytes(bytes).to_string(), rate(bytes, seconds))
    };
    let text = [
        format!("{name} on {}, {} files\n", context.capabilities().adapter, if arguments.cold { "uncached" } else { "cached" }),
        line("reading the files", file_bytes, read),
        line("uploading as much from memory", device_bytes, upload),
        line("loading the weights", device_bytes, load),
        format!("{:34} {:.0} % of what the slower of reading and uploading allows\n", "", share * 100.0),
        format!("{:34} {:.3} s until a generator is ready\n", "", taken.seconds),
        format!("{:34} {} planned, {} taken\n", "device memory", HumanBytes(taken.planned), HumanBytes(taken.bytes)),
        format!("{:34} {} at most\n", "heap", HumanBytes(heap)),
    ];
    Ok(common::print(&text.concat())?)
}

/// The files of a model.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if is_gguf(path) {
        Ok(GgufLoader::from_file(path)?.files().to_vec())
    } else {
        Ok(SafetensorsLoader::open(path)?.files().to_vec())
    }
}

/// Each part once, in turns.
fn measure(context: &Arc<GpuContext>, files: &[PathBuf], built: &BuiltModel, cold: bool, times: &mut Times) -> Result<()> {
    let session = Session::on(context);
    let timed = |params: &ModelParams| -> Result<f64> {
        let start = Instant::now();
        let weights = session.load(params)?;
        let seconds = start.elapsed().as_secs_f64();
        drop(weights);
        context.wait_idle("freeing the weights")?;
        Ok(seconds)
    };
    settle(files, cold)?;
    times.load.push(timed(&built.params)?);
    let source: Arc<dyn TensorSource> = Arc::new(Memory((0..2 * PORTION).map(|i| (i * 31) as u8 & 0x3f).collect()));
    let ready =
        |(name, t): (&String, &Tensor)| (name.clone(), Tensor::new(name, t.dtype(), t.shape().to_vec(), source.clone(), 0));
    times.upload.push(timed(&built.params.iter().map(ready).collect())?);
    settle(files, cold)?;
    times.read.push(read(files)?);
    Ok(())
}

/// Seconds that reading every file takes.
fn read(files: &[PathBuf]) -> Result<f64> {
    let start = Instant::now();
    let mut portion = vec![0; PORTION];
    for path in files {
        let mut file = File::open(path)?;
        while file.read(&mut portion)? > 0 {}
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Puts the files into the system's cache, or asks it to forget them.
fn settle(files: &[PathBuf], cold: bool) -> Result<()> {
    if !cold {
        return read(files).map(drop);
    }
    for file in files {
        let input = format!("if={}", file.display());
        let status = Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]).status();
        match status {
            Ok(status) if status.success() => {}
            other => {
                return Err(anyhow!("--cold: dd (GNU coreutils) could not drop {} from the cache: {other:?}", file.display()));
            }
        }
    }
    Ok(())
}

/// A generator that has run: how long it took to load, what was planned and what it then held of the device.
struct Taken {
    seconds: f64,
    planned: u64,
    bytes: u64,
}

fn take(config: GemmaConfig, path: &Path, context: &Arc<GpuContext>) -> Result<Taken> {
    let size = 1024.min(config.max_position_embeddings);
    let options = || GeneratorOptions { context: Some(size), memory_budget: Some(u64::MAX), ..GeneratorOptions::default() };
    let capabilities = context.capabilities();
    let plan = MemoryPlan::for_options(config.clone(), load_from_path(path)?.as_mut(), capabilities, &options())?;
    let before = context.counters().snapshot().bytes_live;
    let start = Instant::now();
    let mut loader = load_from_path(path)?;
    let vocab = config.vocab_size;
    let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), Device::Context(context.clone()), options())?;
    let seconds = start.elapsed().as_secs_f64();
    generator.prefill(tokens(PROMPT, 1, vocab))?;
    generator.generate_cached(2, &SampleOpts::greedy())?;
    Ok(Taken { seconds, planned: plan.running(), bytes: context.counters().snapshot().bytes_live - before })
}
