//! Streams JSON that fulfils a schema, whatever the model would rather say.

mod common;

use std::{ops::ControlFlow, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Parser;
use gemmaflow::{
    generate::{GeneratorOptions, SampleHooks, SampleOpts},
    guide::Guides,
    text::{ChatTemplate, Message},
};

/// A schema for a person of the play.
const PERSON: &str = r#"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "pattern": "^[A-Z][a-z]{2,11}( [A-Z][a-z]{2,11})?$" },
        "mood": { "enum": ["merry", "grave", "wroth"] },
        "age": { "type": "integer", "minimum": 1, "maximum": 99 },
        "friends": { "type": "array", "items": { "type": "string", "pattern": "^[A-Z][a-z]{2,11}$" }, "maxItems": 3 }
    },
    "required": ["name", "mood", "age", "friends"],
    "additionalProperties": false
}"#;

/// Answers a prompt in JSON that fulfils a schema. The JSON goes to stdout, all else to stderr.
///
/// Tokens are chosen as the model's maker recommends (generation_config.json, or the sampling keys of a GGUF file);
/// where that says nothing, with temperature 0.8 of the 40 likeliest.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    source: common::Source,
    /// Text to continue, or with --chat the user's message
    #[arg(long, value_name = "TEXT", default_value = "ROMEO:\n", hide_default_value = true)]
    prompt: String,
    /// File with a JSON schema [default: one for a person of a play]
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Most tokens to generate; JSON that is longer is an error
    #[arg(long, value_name = "N", default_value_t = 500)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: common::Sampling,
    /// Lay the prompt out as a turn of a conversation (instruction-tuned models)
    #[arg(long)]
    chat: bool,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(arguments: Arguments) -> Result<()> {
    arguments.sampling.validate()?;
    let schema = match &arguments.schema {
        Some(path) => common::text::read_text(path)?,
        None => PERSON.to_string(),
    };
    let model = common::local(&arguments.source.model)?;
    let (config, mut weights) = common::open(&model)?;
    let opts = arguments.sampling.over(SampleOpts::recommended(&model)?, SampleOpts::temperature(0.8, 0).with_top_k(40))?;
    let tokenizer = common::tokenizer(&model)?;
    let chat = if arguments.chat { Some(ChatTemplate::near_weights(&config, &tokenizer, &model)?) } else { None };
    let prompt = match &chat {
        Some(chat) => chat.encode(&tokenizer, &[Message::user(&arguments.prompt)], true)?,
        None => tokenizer.encode(&arguments.prompt, true)?,
    };
    // An answer ends with the model's own token or with that of a turn.
    let mut ends = config.eos_token_ids.clone();
    ends.extend(chat.map_or(Vec::new(), |chat| chat.stop_tokens(&tokenizer)));
    ends.sort_unstable();
    ends.dedup();
    let guide = Guides::new(&tokenizer, &ends)?.json_schema(&schema)?.starting_at(prompt.len());

    let options = GeneratorOptions::near_weights(&model)?;
    let (generator, _) = common::load(config, weights.as_mut(), arguments.source.device, options)?;
    let mut generator = generator.with_stop_tokens(&ends);
    generator.prefill(&prompt)?;
    let (mut hooks, mut text) = (SampleHooks::new().with_processor(guide), tokenizer.stream());
    let mut written = Ok(());
    let new = generator.generate_hooked(arguments.max_tokens, &opts, &mut hooks, |chosen| {
        written = text.push(chosen.token).map_or(Ok(()), |piece| common::print(&piece));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    common::print("\n")?;
    if !new.last().is_some_and(|token| generator.is_stop(*token)) {
        if generator.tokens().len() == generator.max_context() {
            bail!("the JSON is not complete, and the context of {} tokens is full", generator.max_context());
        }
        bail!("the JSON is not complete after {} tokens; give --max-tokens, or a schema that bounds its strings", new.len());
    }
    Ok(())
}
