//! What towers for pictures and sounds are made of.

use std::path::Path;

use anyhow::Result;
use gemmaflow::{
    Error,
    audio::SAMPLE_RATE,
    checkpoint::load_towers_from_path,
    flow::BuiltModel,
    gemma::{AudioConfig, ConformerConfig, ConformerKind, GemmaConfig, VisionConfig},
    hearing::AudioEncoder,
    internals::{
        lower::{Together, lower},
        tower::{clip_graph, clip_profile, picture_graph, picture_profile},
    },
    ir::DimBinding,
    profile::CompileProfile,
    runtime::Capabilities,
    vision::{TowerMemory, TowerOptions, VisionEncoder},
    weights::WeightLoader,
};
use indicatif::HumanBytes;

/// Budgets of a picture in Gemma 4.
const BUDGETS: [usize; 5] = [70, 140, 280, 560, 1120];

/// Seconds of a clip.
const SECONDS: [usize; 3] = [1, 10, 30];

/// Frames of a Conformer's features in a second.
const FRAMES: usize = 100;

/// The towers of the model at `path`, and their plans on `device`. Reads headers only.
pub fn described(config: &GemmaConfig, path: &Path, device: &Capabilities) -> Result<String> {
    let mut text = String::new();
    if let Some(vision) = &config.multimodal.vision {
        let encoder = VisionEncoder::from_path(config, path, None)?;
        let most = encoder.max_soft_tokens();
        text += &format!("vision: {}; at most {most} soft tokens of {}\n", name(vision), config.hidden_size);
        text += &weights(&picture_graph(&encoder, most)?);
        let any_aspect = matches!(vision, VisionConfig::Gemma4(_) | VisionConfig::Unified(_));
        for budget in if any_aspect { BUDGETS.to_vec() } else { vec![most] } {
            let dispatches = dispatches(&picture_graph(&encoder, budget)?, picture_profile(&encoder), device)?;
            text += &format!("  a picture of {budget:4} soft tokens: {dispatches} dispatches\n");
        }
    }
    if let Some(audio) = &config.multimodal.audio_tower {
        let encoder = AudioEncoder::from_path(config, path, None)?;
        text += &format!("audio: {}; soft tokens of {}\n", heard(audio), config.hidden_size);
        let frames = match audio {
            AudioConfig::Unified(config) => (SAMPLE_RATE as usize).div_ceil(config.audio_embed_dim.max(1)),
            _ => FRAMES,
        };
        text += &weights(&clip_graph(&encoder, frames)?);
        for seconds in SECONDS {
            let dispatches = dispatches(&clip_graph(&encoder, seconds * frames)?, clip_profile(&encoder), device)?;
            text += &format!("  a clip of {seconds:2} s: {dispatches} dispatches\n");
        }
    }
    let none = "the model has no tower, for pictures or for sounds\n";
    Ok(if text.is_empty() { none.into() } else { text })
}

/// A tower in a plan of memory.
pub struct Planned {
    pub name: &'static str,
    /// What it is for.
    pub of: &'static str,
    /// What its largest run is of.
    pub largest: String,
    /// Or why it is not counted.
    pub memory: Result<TowerMemory, Error>,
}

/// The memory of the towers of the model at `path`. Reads headers only.
pub fn planned(config: &GemmaConfig, path: &Path, device: &Capabilities) -> Vec<Planned> {
    let options = TowerOptions::default();
    let mut found = Vec::new();
    if let Some(vision) = &config.multimodal.vision {
        let plan =
            |mut loader: Box<dyn WeightLoader>| VisionEncoder::memory_plan(config, loader.as_mut(), device, None, &options);
        let largest = format!("a picture of {} soft tokens", vision.max_soft_tokens());
        let memory = load_towers_from_path(path).and_then(plan);
        found.push(Planned { name: "vision", of: "picture", largest, memory });
    }
    if let Some(audio) = &config.multimodal.audio_tower {
        let plan = |mut loader: Box<dyn WeightLoader>| AudioEncoder::memory_plan(config, loader.as_mut(), device, &options);
        let memory = load_towers_from_path(path).and_then(plan);
        found.push(Planned { name: "audio", of: "clip", largest: longest_clip(audio), memory });
    }
    found
}

/// What the plan of an audio tower counts with.
fn longest_clip(audio: &AudioConfig) -> String {
    match audio {
        AudioConfig::Conformer(ConformerConfig { kind: ConformerKind::Gemma3n { soft_tokens, .. }, .. }) => {
            format!("a clip of {soft_tokens} soft tokens")
        }
        _ => "a clip of 30 s".into(),
    }
}

fn name(vision: &VisionConfig) -> String {
    match vision {
        VisionConfig::Siglip(c) => format!(
            "SigLIP, {} layers of {}, {} heads, pictures of {} × {3}",
            c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.image_size
        ),
        VisionConfig::Gemma4(c) => {
            format!("Gemma 4's, {} layers of {}, {} heads", c.num_hidden_layers, c.hidden_size, c.num_attention_heads)
        }
        VisionConfig::Unified(c) => format!("a projection of patches, width {}", c.mm_embed_dim),
        VisionConfig::MobileNet(c) => format!("MobileNet-V5, pictures of {} × {0}", c.image_size),
        _ => "not computed".into(),
    }
}

fn heard(audio: &AudioConfig) -> String {
    match audio {
        AudioConfig::Conformer(c) => {
            let family = if matches!(c.kind, ConformerKind::Gemma3n { .. }) { "Gemma 3n" } else { "Gemma 4" };
            format!("{family}'s Conformer, {} layers of {}, {} heads", c.num_hidden_layers, c.hidden_size, c.num_attention_heads)
        }
        AudioConfig::Unified(c) => format!("a projection of {} samples", c.audio_embed_dim),
        _ => "not computed".into(),
    }
}

fn weights(built: &BuiltModel) -> String {
    let parameters: usize = built.params().values().map(|tensor| tensor.len()).sum();
    let bytes: usize = built.params().values().map(|tensor| tensor.byte_len()).sum();
    format!("  {parameters} parameters in {} tensors, {bytes} bytes ({})\n", built.params().len(), HumanBytes(bytes as u64))
}

fn dispatches(built: &BuiltModel, profile: &CompileProfile, device: &Capabilities) -> Result<usize> {
    let options = profile.options(&device.backend);
    let plan = lower(&built.graph, &DimBinding::new(), &device.target(), &options, &Together::of(&built.graph))?;
    Ok(plan.dispatches.len())
}
