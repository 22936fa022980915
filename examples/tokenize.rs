//! Token ids of texts, and what they decode to: one JSON string a line in, one JSON object a line out.
//!
//! ```sh
//! echo '"Why is the sky blue?"' | cargo run --release --example tokenize --features tokenizer -- model.gguf
//! ```

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Parser;
use gemmaflow::{text::Tokenizer, weights::is_gguf};
use serde_json::json;

/// Token ids of texts, and what they decode to.
#[derive(Parser)]
struct Args {
    /// A GGUF file, a tokenizer.json, or the folder of one.
    model: PathBuf,
    /// Decode every single id instead of reading texts.
    #[arg(long)]
    vocabulary: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tokenizer = if is_gguf(&args.model) { Tokenizer::from_gguf(&args.model)? } else { Tokenizer::from_file(&args.model)? };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.vocabulary {
        for id in 0..tokenizer.vocab_size() as u32 {
            writeln!(out, "{}", json!(tokenizer.decode(&[id])?))?;
        }
        return Ok(());
    }
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let text: String = serde_json::from_str(&line?).with_context(|| format!("line {} is no JSON string", number + 1))?;
        let line = match tokenizer.encode(&text, false) {
            Ok(ids) => json!({ "ids": ids, "text": tokenizer.decode(&ids)? }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}
