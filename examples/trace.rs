//! Runs the reference and a device side by side and names the first node that differs.

mod common;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use gemmaflow::{
    checkpoint::load_from_path,
    gemma::{GemmaConfig, GemmaFlow},
    internals::trace::first_difference,
    ir::{DimBinding, Value, sym},
    runtime::{Device, GpuOptions, KernelTier, Session},
};

/// Compares every layer of a model on a device with the CPU reference and names the first node that differs.
#[derive(Parser)]
struct Args {
    /// Model folder, weights file, or OWNER/NAME[/FILE.gguf] on the Hugging Face Hub.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))]
    model: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "2,470,375,267,603,391")]
    tokens: Vec<u32>,
    /// gpu, or a part of an adapter's name.
    #[arg(long, default_value = "gpu")]
    device: Device,
    /// Largest difference allowed, relative to the largest magnitude of a node's values.
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f32,
    /// Use only the kernels that need no optional feature.
    #[arg(long)]
    portable: bool,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    args.model = common::local(&args.model)?;
    let config = GemmaConfig::near_weights(&args.model)?;
    if let Some(token) = args.tokens.iter().find(|t| **t as usize >= config.vocab_size) {
        bail!("token {token} is outside the vocabulary of {}", config.vocab_size);
    }
    let mut loader = load_from_path(&args.model)?;
    let built = GemmaFlow::new(&config).dynamic_seq().lm_head().build(loader.as_mut())?;
    let kernels = if args.portable { KernelTier::Portable } else { KernelTier::Auto };
    let session = Session::with_options(&args.device, &GpuOptions { kernels, ..GpuOptions::default() })?;
    let binding = DimBinding::new().with(sym::SEQ, args.tokens.len());
    let inputs = [("input_ids", Value::u32([1, args.tokens.len()], args.tokens.clone()))];
    let found = first_difference(&session, &built.graph, &built.graph, &built.params, &binding, &inputs, args.tolerance)?;
    match found {
        None => println!("no node differs by more than {} of its magnitude", args.tolerance),
        Some(d) => {
            println!("first difference: {} ({})", d.label, d.node);
            println!("largest error {:.3e}, largest magnitude {:.3e}", d.error, d.magnitude);
            println!("  {}", built.graph.node(d.node).op.name());
            std::process::exit(1);
        }
    }
    Ok(())
}
