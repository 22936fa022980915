//! Writes a model's logits to a safetensors file, to be compared with another implementation's.

#[path = "../common/mod.rs"]
mod common;
mod parts;
mod stages;
mod tensors;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions},
    ir::Value,
    prompt::Prompt,
    runtime::Device,
};
use parts::Parts;

/// Writes `tokens` I32 [T] and `logits` F32 [T, V]; row t follows tokens 0..=t. With --parts the ids are `input_ids`.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json and safetensors weights, a weights file beside its config.json, a .gguf file, or
    /// OWNER/NAME[/FILE.gguf] on the Hugging Face Hub
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Token ids: 1,2,3 or @FILE with a JSON array of them
    #[arg(long, value_name = "IDS", required_unless_present_any = ["text", "parts"])]
    tokens: Option<String>,
    /// Text, or @FILE with it, as the model's tokenizer reads it
    #[arg(long, value_name = "TEXT", conflicts_with = "tokens")]
    text: Option<String>,
    /// JSON array of parts: {"tokens": [1, 2]}, {"audio": FILE}, or {"image": FILE} with "max_soft_tokens" (Gemma 4) or
    /// "do_pan_and_scan" and "words" (Gemma 3): the ids before the picture and before each crop; or {"video": [{"image":
    /// FILE, "seconds": S}, …]} with "max_soft_tokens" (Gemma 4). A frame's time is text, read by the model's tokenizer;
    /// "words" of the video, the ids before each frame, stand in its place. Pictures, videos and sounds are laid out as
    /// the model's processor does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "text", "first"])]
    parts: Option<PathBuf>,
    /// Also write what the towers are given and what they make of it, by transformers' names: pixel_values,
    /// vision.layer_out.0, vision.tower, vision.soft, input_features, audio.soft, …; and the text model's
    /// inputs_embeds and hidden
    #[arg(long, requires = "parts")]
    stages: bool,
    /// Write each tensor as NAME.tensor
    #[arg(long, value_name = "NAME", requires = "parts")]
    case: Option<String>,
    /// Read the first N tokens alone
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Device,
    /// How the logits are computed; all ways agree but for rounding
    #[arg(long, value_enum, default_value = "prefill")]
    path: Way,
    /// Tokens of one piece with --path chunked; a power of two
    #[arg(long, value_name = "N", default_value_t = 16)]
    chunk: usize,
    /// Pack 16-bit and f32 matrices as they are loaded
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<common::Packing>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Way {
    /// All tokens in one pass, without a cache
    Prefill,
    /// Everything recomputed for each prefix
    Steps,
    /// The first half by prefill, the rest by cached decode steps
    Cached,
    /// Prefill through the cache in pieces of --chunk
    Chunked,
    /// As cached, with the ladder of cache sizes from 1
    Bucketed,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(mut arguments: Arguments) -> Result<()> {
    if let Some(folder) = arguments.out.parent().filter(|folder| *folder != Path::new("") && !folder.is_dir()) {
        bail!("--out: {} is no folder", folder.display());
    }
    if !arguments.chunk.is_power_of_two() {
        bail!("--chunk is {}, expected a power of two", arguments.chunk);
    }
    arguments.model = common::local(&arguments.model)?;
    let parts = arguments.parts.as_deref().map(Parts::read).transpose()?;
    let tokens = if parts.is_some() { Vec::new() } else { tokens(&arguments)? };
    let (config, mut weights) = common::open(&arguments.model)?;
    let longest_picture = parts.as_ref().map(|parts| parts.longest_picture(&config));
    let prefill_chunk = (arguments.path == Way::Chunked).then_some(arguments.chunk);
    let quantise = arguments.quantize.map(Into::into);
    let options =
        GeneratorOptions { prefill_chunk, quantise, longest_picture, ..GeneratorOptions::near_weights(&arguments.model)? };
    let (mut generator, _) = common::load(config, weights.as_mut(), arguments.device, options)?;
    let laid_out = parts.map(|parts| parts.lay_out(&generator, &arguments.model)).transpose()?;
    let prompt = laid_out.as_ref().map_or_else(|| tokens.into(), |laid_out| laid_out.prompt.clone());
    if arguments.path == Way::Bucketed {
        generator = generator.with_decode_cache(prompt.len().max(1))?;
    }
    let start = Instant::now();
    let logits = logits(&mut generator, &prompt, arguments.path)?;
    let time = start.elapsed();
    let shape = [prompt.len(), generator.config().vocab_size];
    let name = if laid_out.is_some() { "input_ids" } else { "tokens" };
    let ids = Value::u32([prompt.len()], prompt.tokens().to_vec());
    let mut tensors = vec![(name.to_string(), ids), ("logits".to_string(), Value::f32(shape, logits))];
    if let (true, Some(laid_out)) = (arguments.stages, &laid_out) {
        tensors.extend(stages::of(laid_out, generator.config(), &arguments.model, generator.gpu().as_ref())?);
    }
    tensors::write(&arguments.out, arguments.case.as_deref(), &tensors)?;
    eprintln!("{}: logits {shape:?} in {:.2} s on {}", arguments.out.display(), time.as_secs_f64(), generator.stats().device);
    Ok(())
}

fn logits(generator: &mut GemmaGenerator, prompt: &Prompt, way: Way) -> Result<Vec<f32>> {
    let bar = common::bar(prompt.len() as u64, "{bar:30} {pos}/{len} tokens");
    // Pictures are run whole: they and the token after them come before any step.
    let pictures = prompt.soft_tokens().map(|(start, soft)| start + soft.len() + 1).max().unwrap_or(0);
    let mut logits = Vec::new();
    match way {
        Way::Prefill => logits = generator.recompute_all_logits(prompt)?,
        Way::Chunked => logits = generator.all_logits(prompt)?,
        Way::Steps if prompt.is_empty() => bail!("--tokens names no token"),
        Way::Steps if pictures > 0 => bail!("--path steps does not go with pictures, which are run whole; use --path cached"),
        Way::Steps => {
            let row = generator.config().vocab_size;
            for end in 1..=prompt.len() {
                let all = generator.recompute_all_logits(&prompt.tokens()[..end])?;
                logits.extend(&all[(end - 1) * row..]);
                bar.set_position(end as u64);
            }
        }
        Way::Cached | Way::Bucketed => {
            let first = prompt.len().div_ceil(2).max(pictures);
            logits = generator.all_logits(parts::beginning(prompt, first))?;
            for (index, token) in prompt.tokens().iter().enumerate().skip(first) {
                logits.extend(generator.decode_get_logits(*token)?);
                bar.set_position(index as u64 + 1);
            }
        }
    }
    bar.finish_and_clear();
    Ok(logits)
}

/// The tokens that the arguments name.
fn tokens(arguments: &Arguments) -> Result<Vec<u32>> {
    let mut tokens = match &arguments.text {
        Some(text) => text_tokens(&arguments.model, text)?,
        None => ids(arguments.tokens.as_deref().unwrap_or_default())?,
    };
    tokens.truncate(arguments.first.unwrap_or(usize::MAX));
    Ok(tokens)
}

fn text_tokens(model: &Path, text: &str) -> Result<Vec<u32>> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|e| anyhow!("--text: {path}: {e}"))?,
        None => text.to_string(),
    };
    Ok(common::tokenizer(model)?.encode(&text, true)?)
}

/// `1,2,3` or `@FILE`.
fn ids(text: &str) -> Result<Vec<u32>> {
    if let Some(path) = text.strip_prefix('@') {
        let json = common::text::read_text(Path::new(path)).map_err(|e| anyhow!("--tokens: {e}"))?;
        return serde_json::from_str(&json).map_err(|e| anyhow!("--tokens: {path} is no JSON array of token ids: {e}"));
    }
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| id.parse().map_err(|_| anyhow!("--tokens: '{id}' is no token id; give ids as in 1,2,3, or @FILE"))).collect()
}
