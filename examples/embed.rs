//! Ranks the lines of a file by how near their meaning is to a query.

mod common;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use gemmaflow::{
    audio::{Audio, AudioLimits},
    embed::{EmbedderOptions, EmbeddingTask, GemmaEmbedder},
    image::{Image, ImageLimits},
    runtime::{Device, UploadProgress},
    text::{Content, Part},
};

/// Embeds a query and every line of a file with EmbeddingGemma and prints the lines, the nearest first, each after its
/// cosine with the query and its number in the file.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json, tokenizer.json, safetensors weights and the folders of modules.json, a .gguf file, or
    /// OWNER/NAME[/FILE.gguf] on the Hugging Face Hub
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// What to look for
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["image", "audio"])]
    query: Option<String>,
    /// A picture to look for, before the text of the query (EmbeddingGemma 2)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A sound to look for, before the text of the query (EmbeddingGemma 2)
    #[arg(long, value_name = "FILE")]
    audio: Option<PathBuf>,
    /// Text file with a document a line; empty lines are passed over
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Keep the first N numbers of each vector, such as 512, 256 or 128 [default: all]
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Cut a line that is too long for the model, as sentence-transformers does [default: such a line is told and left
    /// out]
    #[arg(long)]
    truncate: bool,
    /// Lines to print
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Pack 16-bit and f32 matrices as they are loaded
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<common::Packing>,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Device,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(mut arguments: Arguments) -> Result<()> {
    let text = common::text::read_text(&arguments.file)?;
    let lines: Vec<(usize, &str)> = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty()).collect();
    if lines.is_empty() {
        bail!("{}: there is no line with text in it", arguments.file.display());
    }
    arguments.model = common::local(&arguments.model)?;
    let tokenizer = common::tokenizer(&arguments.model)?;
    let mut embedder = load(&arguments)?;
    if let Some(dimensions) = arguments.dimensions {
        embedder = embedder.with_dimensions(dimensions)?;
    }

    let start = Instant::now();
    let query = embedder.embed_texts(&tokenizer, &EmbeddingTask::Query, &[query(&arguments, &embedder)?])?.concat();
    let documents: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
    let vectors = embedder.embed_texts_each(&tokenizer, &EmbeddingTask::document(), &documents)?;
    let time = start.elapsed();
    for (number, error) in lines.iter().zip(&vectors).filter_map(|((number, _), vector)| Some((number, vector.as_ref().err()?))) {
        eprintln!("{}, line {number} is left out: {error}", arguments.file.display());
    }

    let cosine = |vector: &[f32]| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
    let embedded = vectors.iter().zip(&lines).filter_map(|(vector, line)| Some((vector.as_ref().ok()?, line)));
    let mut ranked: Vec<(f32, usize, &str)> = embedded.map(|(vector, (number, line))| (cosine(vector), *number, *line)).collect();
    if ranked.is_empty() {
        bail!("{}: no line is left to rank", arguments.file.display());
    }
    ranked.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let width = lines.last().map_or(1, |(number, _)| number.to_string().len());
    let shown = ranked.iter().take(arguments.top);
    let table: String = shown.map(|(score, number, line)| format!("{score:7.4}  {number:width$}  {line}\n")).collect();
    common::print(&table)?;
    let (count, adapter) = (ranked.len() + 1, embedder.adapter().unwrap_or("CPU reference"));
    eprintln!("{count} texts, {} numbers each, in {:.2} s on {adapter}", embedder.dimensions(), time.as_secs_f64());
    Ok(())
}

/// The picture, the sound and the text to look for.
fn query(arguments: &Arguments, embedder: &GemmaEmbedder) -> Result<Content> {
    let mut parts: Vec<Part> = Vec::new();
    if let Some(file) = &arguments.image {
        let named = || file.display().to_string();
        let image = Image::from_bytes(&fs::read(file).with_context(named)?, &ImageLimits::default()).with_context(named)?;
        parts.push(embedder.picture(&image)?);
    }
    if let Some(file) = &arguments.audio {
        let named = || file.display().to_string();
        let clip = Audio::from_bytes(&fs::read(file).with_context(named)?, &AudioLimits::default()).with_context(named)?;
        parts.push(embedder.sound(&clip)?);
    }
    parts.extend(arguments.query.as_deref().map(Part::from));
    Ok(parts.into())
}

/// Loads the model with a progress bar.
fn load(arguments: &Arguments) -> Result<GemmaEmbedder> {
    let (config, mut weights) = common::open(&arguments.model)?;
    let bar = common::bar(0, "loading {bar:30} {bytes}/{total_bytes}");
    let shown = bar.clone();
    let on_progress = Box::new(move |progress: UploadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    });
    let options = EmbedderOptions {
        on_progress: Some(on_progress),
        quantise: arguments.quantize.map(Into::into),
        truncate: arguments.truncate,
        ..EmbedderOptions::near_weights(&arguments.model)?
    };
    let embedder = GemmaEmbedder::with_options(config, weights.as_mut(), arguments.device.clone(), options);
    bar.finish_and_clear();
    Ok(embedder?)
}
