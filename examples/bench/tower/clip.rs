//! A clip of noise through an audio tower.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    gemma::{AudioConfig, GemmaConfig, MediaTokens, random_audio_weights},
    hearing::{AudioEncoder, TowerOptions},
    internals::tower::{clip_graph, clip_inputs, clip_profile},
    ir::DType,
    runtime::GpuContext,
};

use super::{Graph, Tower};

const RATE: u32 = 16_000;

pub struct Clip {
    encoder: AudioEncoder,
    seconds: u32,
}

impl Clip {
    /// The first `layers` layers of the tower of `shape`.
    pub fn new(
        shape: &str,
        layers: Option<usize>,
        mut config: GemmaConfig,
        dtype: DType,
        seconds: u32,
        gpu: Arc<GpuContext>,
    ) -> Result<Self> {
        let Some(AudioConfig::Conformer(mut tower)) = AudioConfig::preset(shape) else {
            return Err(anyhow!("--audio: '{shape}' has no tower whose shape is known; try gemma-4-e2b or gemma-3n-e2b"));
        };
        tower.num_hidden_layers = layers.map_or(tower.num_hidden_layers, |layers| layers.min(tower.num_hidden_layers));
        let audio = AudioConfig::Conformer(tower);
        let mut weights = random_audio_weights(&audio, config.hidden_size, dtype, 1)?;
        config.multimodal.audio_tower = Some(audio);
        // No text is made, so that any ids do.
        config.multimodal.audio = Some(MediaTokens { begin: 0, soft: 1, end: 2 });
        let encoder = AudioEncoder::from_loader(&config, &mut weights, Some(gpu), TowerOptions::default())?;
        Ok(Self { encoder, seconds })
    }

    fn audio(&self, seed: u32) -> Result<Audio> {
        let noise = |at: u32| {
            let bits = (at ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            f32::from(bits.to_le_bytes()[3]) / 128.0 - 1.0
        };
        let samples: Vec<f32> = (0..self.seconds * RATE).map(noise).collect();
        Ok(Audio::from_samples(&samples, RATE, 1, &AudioLimits::default())?)
    }
}

impl Tower for Clip {
    fn subject(&self) -> &'static str {
        "clip"
    }

    fn encode(&self, seed: u32) -> Result<()> {
        self.encoder.encode(&self.audio(seed)?)?;
        Ok(())
    }

    fn graph(&self) -> Result<Graph> {
        let audio = self.audio(0)?;
        let features = self.encoder.features(&audio, audio.samples().len())?;
        let built = clip_graph(&self.encoder, features.frames)?;
        let inputs = clip_inputs(&self.encoder, &features)?;
        let heading = format!("a clip of {} s as {} frames", self.seconds, features.frames);
        let profile = clip_profile(&self.encoder).clone();
        Ok(Graph { built, inputs, profile, tokens: features.frames, heading })
    }
}
