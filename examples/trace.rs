//! Runs the reference and a device side by side and names the first node that differs.

mod common;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use gemmaflow::{
    audio::{Audio, AudioLimits},
    checkpoint::load_from_path,
    flow::BuiltModel,
    gemma::{GemmaConfig, GemmaFlow},
    hearing::AudioEncoder,
    image::{Image, ImageLimits, ImageProcessor},
    internals::{
        tower::{clip_graph, clip_inputs, picture_graph, picture_inputs},
        trace::first_difference,
    },
    ir::{DimBinding, Value, sym},
    runtime::{Device, GpuOptions, KernelTier, Session},
    vision::VisionEncoder,
};

/// Compares every layer of a model, or of its tower for pictures or sounds, on a device with the CPU reference and
/// names the first node that differs.
#[derive(Parser)]
struct Args {
    /// Model folder, weights file, or OWNER/NAME[/FILE.gguf] on the Hugging Face Hub.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))]
    model: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "2,470,375,267,603,391")]
    tokens: Vec<u32>,
    /// Trace the vision tower instead, with this picture.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "audio"])]
    image: Option<PathBuf>,
    /// Trace the audio tower instead, with this clip.
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    audio: Option<PathBuf>,
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
    let Traced { built, binding, inputs } = match (&args.image, &args.audio) {
        (Some(file), _) => picture(&args, &config, file)?,
        (None, Some(file)) => clip(&args, &config, file)?,
        (None, None) => text(&args, &config)?,
    };
    let kernels = if args.portable { KernelTier::Portable } else { KernelTier::Auto };
    let session = Session::with_options(&args.device, &GpuOptions { kernels, ..GpuOptions::default() })?;
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

/// A graph and its inputs.
struct Traced {
    built: BuiltModel,
    binding: DimBinding,
    inputs: Vec<(&'static str, Value)>,
}

fn text(args: &Args, config: &GemmaConfig) -> Result<Traced> {
    if let Some(token) = args.tokens.iter().find(|t| **t as usize >= config.vocab_size) {
        bail!("token {token} is outside the vocabulary of {}", config.vocab_size);
    }
    let mut loader = load_from_path(&args.model)?;
    let built = GemmaFlow::new(config).dynamic_seq().lm_head().build(loader.as_mut())?;
    let binding = DimBinding::new().with(sym::SEQ, args.tokens.len());
    let inputs = vec![("input_ids", Value::u32([1, args.tokens.len()], args.tokens.clone()))];
    Ok(Traced { built, binding, inputs })
}

fn picture(args: &Args, config: &GemmaConfig, file: &Path) -> Result<Traced> {
    let bytes = std::fs::read(file).with_context(|| format!("--image: {}", file.display()))?;
    let image = Image::from_bytes(&bytes, &ImageLimits::default())?;
    let encoder = VisionEncoder::from_path(config, &args.model, None)?;
    let budget = encoder.max_soft_tokens();
    let vision = config.multimodal.vision.as_ref();
    let processor = vision.and_then(|vision| ImageProcessor::new(vision, budget)).context("the model sees no pictures")?;
    let inputs = picture_inputs(&encoder, &processor.patches(&image)?, budget)?;
    Ok(Traced { built: picture_graph(&encoder, budget)?, binding: DimBinding::new(), inputs })
}

fn clip(args: &Args, config: &GemmaConfig, file: &Path) -> Result<Traced> {
    let bytes = std::fs::read(file).with_context(|| format!("--audio: {}", file.display()))?;
    let audio = Audio::from_bytes(&bytes, &AudioLimits::default())?;
    let encoder = AudioEncoder::from_path(config, &args.model, None)?;
    let features = encoder.features(&audio, 0)?;
    let inputs = clip_inputs(&encoder, &features)?;
    Ok(Traced { built: clip_graph(&encoder, features.frames)?, binding: DimBinding::new(), inputs })
}
