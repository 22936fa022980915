//! A conversation in the terminal.

mod common;
#[path = "common/dropped.rs"]
pub mod dropped;
#[path = "common/media.rs"]
pub mod media;

use std::{
    fs::File,
    io::{BufReader, BufWriter, IsTerminal},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Parser;
use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Bookmark, Conversation, Event, FinishReason, Model, Overflow, Usage},
    error::DeviceError,
    generate::{CancelToken, GeneratorOptions, SampleOpts},
    text::{Content, Instructions, Message, Part},
};
use media::Media;

const HELP: &str = "/image FILE, /audio FILE or /video FOLDER of frames (for the next message), /save FILE, /load FILE, \
                    /undo (the last exchange), /new, /context, /quit; Ctrl-C stops an answer";

/// Talks with a Gemma model, and shows it pictures or lets it hear if it can. Answers go to stdout, all else to stderr;
/// lines are read from stdin.
///
/// Tokens are chosen as the model's maker recommends (generation_config.json, or the sampling keys of a GGUF file);
/// where that says nothing, with temperature 1 of the 64 likeliest that together have probability 0.95.
#[derive(Parser)]
pub struct Arguments {
    #[command(flatten)]
    source: common::Source,
    #[command(flatten)]
    projector: media::Projector,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers; its thoughts go to stderr (Gemma 4)
    #[arg(long)]
    thinking: bool,
    #[command(flatten)]
    sampling: common::Sampling,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_tokens: usize,
    /// Most tokens of the whole conversation; beyond it the oldest messages are forgotten [default: what the model was
    /// made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Show wide and tall pictures with crops of them, in which small things are seen (Gemma 3)
    #[arg(long)]
    crops: bool,
    /// Frames of a /video folder in a second of the video
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = media::frames_per_second)]
    fps: f64,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    arguments.sampling.validate()?;
    let source = arguments.projector.files(&arguments.source.model)?;
    let (bar, on_progress) = common::loading();
    let (context, on_progress) = (arguments.context, Some(on_progress));
    let options = GeneratorOptions { context, on_progress, ..GeneratorOptions::near_weights(&source.path)? };
    let model = source.open(arguments.source.device.clone(), options)?;
    bar.finish_and_clear();
    // Whether it knows turns.
    model.chat_template().parser(model.tokenizer())?;

    let under_way = UnderWay::default();
    let stoppable = under_way.clone();
    ctrlc::set_handler(move || match &*lock(&stoppable) {
        Some(answer) => answer.cancel(),
        None => std::process::exit(130),
    })?;
    eprintln!("{:?} on {}; {HELP}", model.config().arch, model.stats().device);
    let mut talk = Talk::new(&model, &arguments)?;
    let (asks, mut lines) = (std::io::stdin().is_terminal(), common::text::Lines::new(std::io::stdin().lock()));
    loop {
        if asks {
            eprint!("> ");
        }
        let Some(line) = lines.next_line()? else { break };
        let line = match line {
            Ok(line) => line,
            Err(problem) => {
                eprintln!("{problem}; the line is passed over");
                continue;
            }
        };
        match line.trim() {
            "" => {}
            "/quit" => break,
            command if command.starts_with('/') => {
                if let Err(error) = talk.command(command) {
                    eprintln!("{error:#}");
                }
            }
            said => talk.send(said, &under_way)?,
        }
    }
    Ok(())
}

/// The answer under way, which Ctrl-C stops; where there is none it ends the program.
pub type UnderWay = Arc<Mutex<Option<CancelToken>>>;

fn lock(under_way: &UnderWay) -> MutexGuard<'_, Option<CancelToken>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The conversation, and where its exchanges begin.
pub struct Talk<'a> {
    model: &'a Model,
    arguments: &'a Arguments,
    sampling: SampleOpts,
    pub conversation: Conversation,
    exchanges: Vec<Bookmark>,
    /// Pictures, videos and sounds for the next message.
    shown: Vec<Part>,
}

impl<'a> Talk<'a> {
    pub fn new(model: &'a Model, arguments: &'a Arguments) -> Result<Self> {
        let sampling = arguments.sampling.over(model.recommended_sampling(), AnswerOptions::default().sampling)?;
        Self::with_sampling(model, arguments, sampling)
    }

    fn with_sampling(model: &'a Model, arguments: &'a Arguments, sampling: SampleOpts) -> Result<Self> {
        let mut conversation = model.conversation()?.with_options(answers(arguments, sampling));
        if arguments.system.is_some() || arguments.thinking {
            let text = arguments.system.clone().unwrap_or_default();
            let instructions = Instructions { text, thinking: arguments.thinking, ..Instructions::default() };
            conversation.push(Message::System(instructions))?;
        }
        Ok(Self { model, arguments, sampling, conversation, exchanges: Vec::new(), shown: Vec::new() })
    }

    pub fn command(&mut self, command: &str) -> Result<()> {
        match command.split_once(' ').map_or((command, ""), |(name, file)| (name, file.trim())) {
            ("/save", file) if !file.is_empty() => self.save(Path::new(file))?,
            ("/load", file) if !file.is_empty() => {
                let reader = BufReader::new(File::open(file).with_context(|| file.to_owned())?);
                self.conversation = self.model.restore(reader)?.with_options(answers(self.arguments, self.sampling));
                self.exchanges.clear();
                eprintln!("{} messages", self.conversation.messages().len());
            }
            ("/image" | "/audio", files) if !files.is_empty() => self.show(files, Media::open)?,
            ("/video", folders) if !folders.is_empty() => {
                let fps = self.arguments.fps;
                self.show(folders, |folder| Media::open_video(folder, fps))?;
            }
            ("/undo", "") => match self.exchanges.pop() {
                Some(before) => self.conversation.rewind(&before),
                None => eprintln!("there is nothing to undo"),
            },
            ("/new", "") => *self = Self::with_sampling(self.model, self.arguments, self.sampling)?,
            ("/context", "") => eprintln!("{} of {} tokens", self.conversation.used(), self.conversation.max_context()),
            _ => eprintln!("{HELP}"),
        }
        Ok(())
    }

    /// Keeps what these files or folders hold, by `open`, for the next message.
    fn show(&mut self, files: &str, open: impl Fn(&Path) -> Result<Media>) -> Result<()> {
        let files: Vec<_> = dropped::files(files).iter().map(|file| open(file)).collect::<Result<_>>()?;
        let parts = media::parts(&files, self.model, media::Shown::asked(None, self.arguments.crops))?;
        let soft = |part: &Part| match part {
            Part::Soft(soft) => soft.len(),
            Part::Video(frames) => frames.iter().map(|frame| frame.soft.len()).sum(),
            _ => 0,
        };
        let described: Vec<String> = files.iter().map(Media::described).collect();
        eprintln!("{} as {} tokens", described.join(", "), parts.iter().map(soft).sum::<usize>());
        self.shown.extend(parts);
        Ok(())
    }

    /// Writes beside the file and renames, so that an old one is never lost to a failure.
    fn save(&mut self, file: &Path) -> Result<()> {
        let beside = file.with_extension("part");
        let mut writer = BufWriter::new(File::create(&beside).with_context(|| beside.display().to_string())?);
        self.conversation.save(&mut writer)?;
        writer.into_inner()?.sync_all()?;
        std::fs::rename(&beside, file).with_context(|| file.display().to_string())?;
        eprintln!("saved {} messages", self.conversation.messages().len());
        Ok(())
    }

    /// Says something, and prints the answer as it comes.
    pub fn send(&mut self, said: &str, under_way: &UnderWay) -> Result<()> {
        let before = self.conversation.bookmark();
        let parts = self.shown.iter().cloned().chain([said.into()]).collect::<Vec<Part>>();
        let content = Content::from(parts);
        // Ctrl-C waits until the answer has begun, as that makes its token new.
        let mut stoppable = lock(under_way);
        if let Err(error) = self.surely(|conversation| conversation.send(content.clone())) {
            eprintln!("{error}");
            return Ok(());
        }
        self.shown.clear();
        *stoppable = Some(self.conversation.cancel_token());
        drop(stoppable);
        self.exchanges.push(before);
        let (start, mut first) = (Instant::now(), None);
        loop {
            match self.surely(Conversation::next_event) {
                Ok(Some(Event::Thought(text))) => eprint!("{text}"),
                Ok(Some(Event::End { finish_reason, usage })) => {
                    common::print("\n")?;
                    report(finish_reason, usage, start, first);
                }
                Ok(Some(Event::Prompt { done, total })) if done == total => first = Some(Instant::now()),
                Ok(Some(event)) => common::print(&event.to_string())?,
                Ok(None) => break,
                Err(error) => {
                    eprintln!("\n{error}");
                    break;
                }
            }
        }
        *lock(under_way) = None;
        Ok(())
    }

    /// Does something with the conversation; where the device is lost, once more when the model is loaded again.
    fn surely<T>(&mut self, act: impl Fn(&mut Conversation) -> gemmaflow::Result<T>) -> Result<T> {
        match act(&mut self.conversation) {
            Err(lost @ Error::Device(DeviceError::Lost(_))) => {
                eprintln!("\n{lost}; loading the model again");
                self.model.recover(self.arguments.source.device.clone())?;
                Ok(act(&mut self.conversation)?)
            }
            outcome => Ok(outcome?),
        }
    }
}

fn answers(arguments: &Arguments, sampling: SampleOpts) -> AnswerOptions {
    let max_tokens = Some(arguments.max_tokens);
    AnswerOptions { sampling, max_tokens, overflow: Overflow::Forget, ..AnswerOptions::default() }
}

/// What the answer took, in a line on stderr.
fn report(ending: FinishReason, usage: Usage, start: Instant, first: Option<Instant>) {
    let Usage { prompt_tokens: prompt, cached_tokens: cached, completion_tokens: answer, .. } = usage;
    let first = first.unwrap_or_else(Instant::now);
    let rate = common::rate(answer.saturating_sub(1), first.elapsed()).map_or("-".into(), |rate| format!("{rate:.1}"));
    let waited = first.duration_since(start).as_secs_f64();
    let why = match ending {
        FinishReason::Cancelled => "; stopped",
        FinishReason::Length => "; cut at --max-tokens",
        _ => "",
    };
    eprintln!("[{answer} tokens, {rate} tokens/s; {prompt} before, {cached} of them cached, {waited:.2} s{why}]");
}
