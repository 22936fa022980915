//! Answers a question about pictures, videos and sounds.

mod common;
#[path = "common/media.rs"]
mod media;

use std::{ops::ControlFlow, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use clap::Parser;
use gemmaflow::{
    conversation::{AnswerOptions, Event},
    generate::GeneratorOptions,
    text::Content,
};
use media::{Media, Shown};

/// Answers a question about pictures with a Gemma 3, 3n or 4 that sees them, about a video with a Gemma 4, or about
/// sounds with one that hears. The answer goes to stdout, all else to stderr.
///
/// Tokens are chosen as the model's maker recommends (generation_config.json); where that says nothing, with temperature
/// 1 of the 64 likeliest that together have probability 0.95.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    #[command(flatten)]
    projector: media::Projector,
    /// Pictures (PNG, JPEG, WebP) and clips (WAV, FLAC, MP3, Ogg Vorbis)
    #[arg(required_unless_present = "video", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Frames of a video, after the files: the pictures of a folder in the order of their names, as `ffmpeg -i film.mp4
    /// -vf fps=1 frames/%04d.png` writes them (Gemma 4). Of more than 32, 32 at equal distances are shown
    #[arg(long, value_name = "FOLDER")]
    video: Option<PathBuf>,
    /// Frames of the folder in a second of the video
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = media::frames_per_second, requires = "video")]
    fps: f64,
    /// What to ask, after the files
    #[arg(long, value_name = "TEXT", default_value = "Describe this.")]
    question: String,
    /// Most soft tokens of a picture or a frame (Gemma 4: 70, 140, 280, 560 or 1120) [default: what the model was made
    /// for; 70 of a frame]
    #[arg(long, value_name = "N")]
    budget: Option<usize>,
    /// Show a wide or tall picture with crops of it, in which small things are seen (Gemma 3)
    #[arg(long, conflicts_with = "budget")]
    crops: bool,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 400)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: common::Sampling,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    arguments.sampling.validate()?;
    let mut files: Vec<Media> = arguments.files.iter().map(|file| Media::open(file)).collect::<Result<_>>()?;
    if let Some(folder) = &arguments.video {
        files.push(Media::open_video(folder, arguments.fps)?);
    }
    let source = arguments.projector.files(&arguments.source.model)?;
    let (bar, on_progress) = common::loading();
    let options = GeneratorOptions {
        longest_picture: longest(&arguments, &source)?,
        on_progress: Some(on_progress),
        ..GeneratorOptions::near_weights(&source.path)?
    };
    let model = source.open(arguments.source.device.clone(), options)?;
    bar.finish_and_clear();

    let start = Instant::now();
    let shown = Shown::asked(arguments.budget, arguments.crops);
    let mut parts = media::parts(&files, &model, shown)?;
    parts.push(arguments.question.as_str().into());
    let encoded = start.elapsed();

    let sampling = arguments.sampling.over(model.recommended_sampling(), AnswerOptions::default().sampling)?;
    let options = AnswerOptions { sampling, max_tokens: Some(arguments.max_tokens), ..AnswerOptions::default() };
    let mut conversation = model.conversation()?.with_options(options);
    conversation.send(Content::from(parts))?;
    let mut written = Ok(());
    let mut usage = None;
    conversation.finish(|event| {
        match event {
            Event::Thought(text) => eprint!("{text}"),
            Event::End { usage: end, .. } => usage = Some(*end),
            event => written = common::print(&event.to_string()),
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    common::print("\n")?;
    let usage = usage.context("the answer has no end")?;
    let (prompt, answer) = (usage.prompt_tokens, usage.completion_tokens);
    eprintln!("adapter:  {}", model.stats().device);
    let described: Vec<String> = files.iter().map(Media::described).collect();
    let seconds = encoded.as_secs_f64();
    eprintln!("files:    {} ({}) in {seconds:.2} s, load of the towers included", files.len(), described.join(", "));
    eprintln!("tokens:   {prompt} asked, {answer} answered");
    Ok(())
}

/// The tokens of the longest picture, where a budget was asked for: a model of one budget has its own all the same.
fn longest(arguments: &Arguments, source: &media::ModelFiles) -> Result<Option<usize>> {
    let Some(budget) = arguments.budget else { return Ok(None) };
    let vision = source.config()?.multimodal.vision;
    Ok(Some(vision.map_or(budget, |vision| vision.max_soft_tokens().max(budget))))
}
