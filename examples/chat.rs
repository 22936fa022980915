//! A conversation in the terminal.

mod common;

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Parser;
use gemmaflow::{
    conversation::{AnswerOptions, Bookmark, Conversation, Ending, Event, Model, Overflow, Usage},
    generate::{CancelToken, GeneratorOptions, SampleOpts},
    runtime::Device,
    text::{Instructions, Message},
};

const HELP: &str = "/save FILE, /load FILE, /undo (the last exchange), /new, /context, /quit; Ctrl-C stops an answer";

/// Talks with a Gemma model. Answers go to stdout, all else to stderr; lines are read from stdin.
#[derive(Parser)]
struct Arguments {
    /// Folder with config.json, tokenizer.json and safetensors weights, a .gguf file, or OWNER/NAME[/FILE.gguf] on the Hugging Face
    /// Hub
    #[arg(long, value_name = "DIR", default_value = common::DEMO, hide_default_value = true)]
    model: PathBuf,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers; its thoughts go to stderr (Gemma 4)
    #[arg(long)]
    thinking: bool,
    /// Divisor of the logits; 0 always takes the likeliest token
    #[arg(long, allow_negative_numbers = true, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// The same seed gives the same answers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_tokens: usize,
    /// Most tokens of the whole conversation; beyond it the oldest messages are forgotten [default: what the model was made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// auto, gpu, cpu (the slow reference), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Device,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let folder = common::local(&arguments.model)?;
    let bar = common::bar(0, "loading {bar:30} {bytes}/{total_bytes}");
    let shown = bar.clone();
    let on_progress = Box::new(move |progress: gemmaflow::runtime::UploadProgress| {
        shown.set_length(progress.total);
        shown.set_position(progress.done);
        true
    });
    let options = GeneratorOptions {
        context: arguments.context,
        on_progress: Some(on_progress),
        ..GeneratorOptions::near_weights(&folder)?
    };
    let model = Model::open(&folder, arguments.device.clone(), options)?;
    bar.finish_and_clear();
    model.format()?;
    eprintln!("{:?} on {}; {HELP}", model.config().arch, model.stats().device);

    let answering = Answering::default();
    let handler = answering.clone();
    ctrlc::set_handler(move || handler.interrupt())?;
    let mut talk = Talk::new(&model, &arguments)?;
    for line in lines() {
        let line = line?;
        match line.trim() {
            "" => {}
            "/quit" => break,
            command if command.starts_with('/') => {
                if let Err(error) = talk.command(&model, &arguments, command) {
                    eprintln!("{error:#}");
                }
            }
            said => talk.say(said, &answering)?,
        }
    }
    Ok(())
}

/// Lines of stdin, asked for where somebody sits there.
fn lines() -> impl Iterator<Item = std::io::Result<String>> {
    let asks = std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    std::iter::from_fn(move || {
        if asks {
            eprint!("> ");
        }
        lines.next()
    })
}

/// What Ctrl-C means at the moment.
#[derive(Clone, Default)]
struct Answering {
    under_way: Arc<AtomicBool>,
    cancel: Arc<std::sync::Mutex<CancelToken>>,
}

impl Answering {
    fn interrupt(&self) {
        match (self.under_way.load(Relaxed), self.cancel.lock()) {
            (true, Ok(cancel)) => cancel.cancel(),
            _ => std::process::exit(130),
        }
    }

    fn begin(&self, conversation: &Conversation) {
        if let Ok(mut cancel) = self.cancel.lock() {
            *cancel = conversation.cancel_token();
        }
        self.under_way.store(true, Relaxed);
    }

    fn end(&self) {
        self.under_way.store(false, Relaxed);
    }
}

/// The conversation, and where its exchanges begin.
struct Talk {
    conversation: Conversation,
    exchanges: Vec<Bookmark>,
}

impl Talk {
    fn new(model: &Model, arguments: &Arguments) -> Result<Self> {
        let mut conversation = model.conversation()?.with_options(answers(arguments));
        if arguments.system.is_some() || arguments.thinking {
            let text = arguments.system.clone().unwrap_or_default();
            let instructions = Instructions { text, thinking: arguments.thinking, ..Instructions::default() };
            conversation.push(Message::System(instructions))?;
        }
        Ok(Self { conversation, exchanges: Vec::new() })
    }

    fn command(&mut self, model: &Model, arguments: &Arguments, command: &str) -> Result<()> {
        match command.split_once(' ').map_or((command, ""), |(name, file)| (name, file.trim())) {
            ("/save", file) if !file.is_empty() => self.save(Path::new(file)),
            ("/load", file) if !file.is_empty() => {
                let reader = BufReader::new(File::open(file).with_context(|| file.to_owned())?);
                let conversation = model.restore(reader)?.with_options(answers(arguments));
                eprintln!("{} messages", conversation.messages().len());
                *self = Self { conversation, exchanges: Vec::new() };
                Ok(())
            }
            ("/undo", "") => {
                match self.exchanges.pop() {
                    Some(before) => self.conversation.rewind(&before),
                    None => eprintln!("there is nothing to undo"),
                }
                Ok(())
            }
            ("/new", "") => {
                *self = Self::new(model, arguments)?;
                Ok(())
            }
            ("/context", "") => {
                let (used, most) = (self.conversation.used(), self.conversation.max_context());
                eprintln!("{used} of {most} tokens");
                Ok(())
            }
            _ => {
                eprintln!("{HELP}");
                Ok(())
            }
        }
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

    fn say(&mut self, said: &str, answering: &Answering) -> Result<()> {
        self.exchanges.push(self.conversation.bookmark());
        if let Err(error) = self.conversation.say(said) {
            self.exchanges.pop();
            eprintln!("{error}");
            return Ok(());
        }
        answering.begin(&self.conversation);
        let (start, mut first) = (Instant::now(), None);
        for event in self.conversation.events() {
            match event {
                Ok(Event::Thought(text)) => eprint!("{text}"),
                Ok(Event::End { ending, usage }) => {
                    common::print("\n")?;
                    report(ending, usage, start, first);
                }
                Ok(Event::Prompt { done, total }) if done == total => first = Some(Instant::now()),
                Ok(event) => common::print(&event.to_string())?,
                Err(error) => eprintln!("\n{error}"),
            }
        }
        answering.end();
        std::io::stderr().flush()?;
        Ok(())
    }
}

fn answers(arguments: &Arguments) -> AnswerOptions {
    let defaults = AnswerOptions::default();
    let sampling = match arguments.temperature {
        0.0 => SampleOpts::greedy(),
        temperature => SampleOpts::temperature(temperature, arguments.seed).with_top_k(64).with_top_p(0.95),
    };
    AnswerOptions { sampling, max_tokens: Some(arguments.max_tokens), overflow: Overflow::Forget, ..defaults }
}

/// What the answer took, in a line on stderr.
fn report(ending: Ending, usage: Usage, start: Instant, first: Option<Instant>) {
    let Usage { prompt, cached, answer, .. } = usage;
    let first = first.unwrap_or_else(Instant::now);
    let rate = common::rate(answer.saturating_sub(1), first.elapsed()).map_or("-".into(), |rate| format!("{rate:.1}"));
    let waited = first.duration_since(start).as_secs_f64();
    let why = match ending {
        Ending::Cancelled => "; stopped",
        Ending::Length => "; cut at --max-tokens",
        _ => "",
    };
    eprintln!("[{answer} tokens, {rate} tokens/s; {prompt} before, {cached} of them cached, {waited:.2} s{why}]");
}
