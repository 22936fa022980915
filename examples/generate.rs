//! Streams text from a Gemma model.

mod common;

use std::{
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use gemmaflow::{
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    text::{ChatEvent, ChatParser, ChatTemplate, Instructions, Message, TextStream, Tokenizer},
};

/// Tokens between two moves of the progress bar of a long prompt.
const PREFILL_PART: usize = 256;

/// Continues a prompt with a Gemma model. The text goes to stdout, all else to stderr.
///
/// Tokens are chosen as the model's maker recommends (generation_config.json, or the sampling keys of a GGUF file);
/// where that says nothing, with temperature 0.8 of the 40 likeliest.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// Text to continue, or with --chat the user's message [default: a line that opens a scene]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: common::Sampling,
    /// Lay the prompt out as a turn of a conversation (instruction-tuned models)
    #[arg(long)]
    chat: bool,
    /// Let the model think before it answers; its thoughts go to stderr (Gemma 4)
    #[arg(long, requires = "chat")]
    thinking: bool,
    /// Most tokens of prompt and text together [default: what the model was made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Pack 16-bit and f32 matrices as they are loaded
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<common::Packing>,
    /// Try several tokens in a run: those of a drafter (DIR or a .gguf file), or with `lookup` those that followed
    /// earlier in the text
    #[arg(long, value_name = "DIR")]
    draft: Option<PathBuf>,
    /// List the GPU adapters and exit
    #[arg(long)]
    list_devices: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.list_devices {
        return common::list_devices();
    }
    arguments.sampling.validate()?;
    let model = common::local(&arguments.source.model)?;
    let (config, mut weights) = common::open(&model)?;
    let opts = arguments.sampling.over(SampleOpts::recommended(&model)?, SampleOpts::temperature(0.8, 0).with_top_k(40))?;
    let tokenizer = common::tokenizer(&model)?;
    let chat = if arguments.chat { Some(ChatTemplate::near_weights(&config, &tokenizer, &model)?) } else { None };
    let prompt = encode(&arguments, chat.as_ref(), &tokenizer)?;
    let stop = chat.as_ref().map_or(Vec::new(), |chat| chat.stop_tokens(&tokenizer));
    let reader = match &chat {
        Some(chat) => Reader::Chat(chat.parser(&tokenizer)?),
        None => Reader::Plain(tokenizer.stream()),
    };

    let (context, quantise) = (arguments.context, arguments.quantize.map(Into::into));
    let options = GeneratorOptions { context, quantise, ..GeneratorOptions::near_weights(&model)? };
    let (generator, load) = common::load(config, weights.as_mut(), arguments.source.device, options)?;
    let generator = generator.with_stop_tokens(&stop);
    let mut generator = match &arguments.draft {
        Some(drafter) => generator.with_drafter(common::drafter(drafter)?)?,
        None => generator,
    };
    let start = Instant::now();
    // One step compiles the shaders; its row stays in the cache, as every prompt begins with this token.
    generator.prefill_get_last_logits(&prompt[..1])?;
    let compile = start.elapsed();

    let times = stream(&mut generator, &prompt, arguments.max_tokens, &opts, reader)?;
    if times.tokens < arguments.max_tokens && generator.tokens().len() == generator.max_context() {
        eprintln!("the context of {} tokens is full; --context sets its size", generator.max_context());
    }
    report(&generator, [load, compile], prompt.len(), &times);
    Ok(())
}

/// The prompt in tokens.
fn encode(arguments: &Arguments, chat: Option<&ChatTemplate>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let Some(chat) = chat else {
        let prompt = arguments.prompt.as_deref().unwrap_or("ROMEO:\n");
        eprintln!("prompt: {prompt:?}");
        return Ok(tokenizer.encode(prompt, true)?);
    };
    let message = arguments.prompt.as_deref().unwrap_or("Who goes there?");
    eprintln!("user: {message:?}");
    let thinking = Message::System(Instructions { thinking: true, ..Instructions::default() });
    let messages = if arguments.thinking { vec![thinking, Message::user(message)] } else { vec![Message::user(message)] };
    Ok(chat.encode(tokenizer, &messages, true)?)
}

/// What makes events of tokens.
enum Reader {
    Plain(TextStream),
    Chat(ChatParser),
}

impl Reader {
    fn push(&mut self, token: u32) -> Vec<ChatEvent> {
        match self {
            Reader::Plain(text) => text.push(token).map(ChatEvent::Text).into_iter().collect(),
            Reader::Chat(parser) => parser.push(token),
        }
    }

    fn finish(&mut self) -> Vec<ChatEvent> {
        match self {
            Reader::Plain(text) => vec![ChatEvent::Text(text.finish())],
            Reader::Chat(parser) => parser.finish(),
        }
    }
}

/// Where the output stands: text on stdout, all else on stderr.
#[derive(Default)]
struct Writer {
    /// Text has been written that does not end a line.
    in_line: bool,
    /// The last that was written is a thought.
    thinking: bool,
}

impl Writer {
    fn write(&mut self, events: Vec<ChatEvent>) -> std::io::Result<()> {
        for event in events {
            let thinking = matches!(event, ChatEvent::Thought(_));
            if thinking != self.thinking {
                eprint!("{}", if thinking { "thought: " } else { "\n" });
                self.thinking = thinking;
            }
            match event {
                ChatEvent::Text(text) => {
                    self.in_line = if text.is_empty() { self.in_line } else { !text.ends_with('\n') };
                    common::print(&text)?;
                }
                ChatEvent::Thought(text) => eprint!("{text}"),
                ChatEvent::ToolCall(call) => eprintln!("calls {} with {}", call.name, serde_json::Value::Object(call.arguments)),
                ChatEvent::BrokenToolCall { text, problem } => eprintln!("a tool call that cannot be read: {problem}: {text:?}"),
                _ => {}
            }
        }
        Ok(())
    }
}

struct Times {
    tokens: usize,
    first: Duration,
    rest: Duration,
}

/// Generates, writing text as it becomes certain.
fn stream(generator: &mut GemmaGenerator, prompt: &[u32], wanted: usize, opts: &SampleOpts, mut reader: Reader) -> Result<Times> {
    let start = Instant::now();
    prefill(generator, prompt)?;
    let mut first = None;
    let mut tokens = 0;
    let mut writer = Writer::default();
    let mut written = Ok(());
    let outcome = generator.generate_cached_with(wanted, opts, |token| {
        first.get_or_insert_with(|| start.elapsed());
        tokens += 1;
        written = writer.write(reader.push(token));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let total = start.elapsed();
    written?;
    writer.write(reader.finish())?;
    if writer.in_line {
        common::print("\n")?;
    }
    outcome?;
    let first = first.unwrap_or(total);
    Ok(Times { tokens, first, rest: total - first })
}

/// Computes all but the last part of a long prompt, with a progress bar.
fn prefill(generator: &mut GemmaGenerator, prompt: &[u32]) -> Result<()> {
    let bar = common::bar(prompt.len() as u64, "reading the prompt {bar:30} {pos}/{len} tokens");
    let ends = (1..).map(|i| i * PREFILL_PART).take_while(|end| *end < prompt.len());
    // A prompt that does not fit is refused before any of it is computed.
    generator.prefill(prompt)?;
    for end in ends {
        generator.prefill_get_last_logits(&prompt[..end])?;
        bar.set_position(end as u64);
    }
    bar.finish_and_clear();
    Ok(generator.prefill(prompt)?)
}

fn report(generator: &GemmaGenerator, [load, compile]: [Duration; 2], prompt: usize, times: &Times) {
    let rate = |count, time| common::rate(count, time).map_or("-".into(), |r| format!("{r:.1} tokens/s"));
    eprintln!("adapter:     {}", generator.stats().device);
    eprintln!("load:        {:.2} s, and {:.2} s for the first step", load.as_secs_f64(), compile.as_secs_f64());
    eprintln!("first token: {:.3} s", times.first.as_secs_f64());
    eprintln!("prefill:     {} ({prompt} tokens)", rate(prompt, times.first));
    eprintln!("decode:      {} ({} tokens)", rate(times.tokens.saturating_sub(1), times.rest), times.tokens);
    let drafted = generator.draft_stats();
    if drafted.runs > 0 {
        eprintln!(
            "drafts:      {:.0} % of {} tokens taken, in {} runs",
            drafted.acceptance() * 100.0,
            drafted.drafted,
            drafted.runs
        );
    }
}
