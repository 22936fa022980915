//! The tensors of sounds.

use anyhow::Result;
use gemmaflow::{
    audio::{Audio, Features, gemma3n_encoder_frames, gemma4_soft_tokens},
    gemma::{AudioConfig, ConformerConfig, ConformerKind, GemmaConfig},
    hearing::AudioEncoder,
    ir::Value,
};

use crate::tensors::{Tensors, batch, output};

/// What the tower is given and makes of all clips, a batch, and the states between of the first.
pub fn of(clips: &[Audio], encoder: &AudioEncoder, config: &GemmaConfig) -> Result<Tensors> {
    let longest = clips.iter().map(|clip| clip.samples().len()).max().unwrap_or(0);
    let features = clips.iter().map(|clip| encoder.features(clip, longest)).collect::<Result<Vec<_>, _>>()?;
    let mut tensors = given(&features);
    let soft = encoder.encode_together(clips)?;
    let soft = soft.iter().map(|soft| soft.values().to_vec()).collect::<Vec<_>>();
    match &config.multimodal.audio_tower {
        Some(AudioConfig::Conformer(tower)) => tensors.extend(made(tower, encoder, &features, soft, config.hidden_size)?),
        _ => tensors.push(("audio.soft".into(), batch(soft, config.hidden_size))),
    }
    Ok(tensors)
}

/// `input_features` and which of their rows are of the clip.
fn given(features: &[Features]) -> Tensors {
    let frames = features.iter().map(|features| features.frames).max().unwrap_or(0);
    let width = features.first().map_or(1, |features| features.width);
    let values = batch(features.iter().map(|features| features.values.clone()).collect(), width);
    let valid = features
        .iter()
        .flat_map(|features| (0..frames).map(|frame| u32::from(features.valid.get(frame).copied().unwrap_or(false))));
    let valid = Value::u32([features.len(), frames], valid.collect::<Vec<_>>());
    vec![("input_features".into(), values), ("input_features_mask".into(), valid)]
}

/// The states of a Conformer, and its soft tokens before Gemma 3n's padding.
fn made(
    config: &ConformerConfig,
    encoder: &AudioEncoder,
    features: &[Features],
    mut soft: Vec<Vec<f32>>,
    hidden: usize,
) -> Result<Tensors> {
    let is_3n = matches!(config.kind, ConformerKind::Gemma3n { .. });
    let tokens = |frames: usize| if is_3n { gemma3n_encoder_frames(frames) } else { gemma4_soft_tokens(frames) };
    let mut tensors = Vec::new();
    let mut tower = Vec::new();
    let mut width = 1;
    let mut masks: Vec<u32> = Vec::new();
    for (clip, features) in features.iter().enumerate() {
        let between = if clip == 0 { between(config) } else { Vec::new() };
        let mut labels = vec!["audio.tower"];
        labels.extend(between.iter().map(|(_, ours)| ours.as_str()));
        let outputs = encoder.run(features, &labels)?;
        for (theirs, ours) in &between {
            let (mut values, width) = output(&outputs, ours)?;
            values.truncate(gemma4_soft_tokens(features.frames) * width);
            tensors.push((theirs.clone(), batch(vec![values], width)));
        }
        let rows = tokens(features.frames);
        let (mut states, columns) = output(&outputs, "audio.tower")?;
        width = columns;
        states.truncate(rows * width);
        tower.push(states);
        let valid = tokens(features.valid.iter().filter(|valid| **valid).count());
        masks.extend((0..rows).map(|row| u32::from(row < valid)));
        // Behind the clip there is padding, which the text model does not see. Gemma 3n's is zeros.
        soft[clip].truncate(valid * hidden);
        if is_3n {
            tower[clip][valid * width..].fill(0.0);
            soft[clip].resize(rows * hidden, 0.0);
        } else {
            soft[clip].extend(&output(&outputs, "soft_tokens")?.0[valid * hidden..rows * hidden]);
        }
    }
    if !is_3n {
        let shape = [features.len(), masks.len() / features.len().max(1)];
        tensors.push(("audio.tower_mask".into(), Value::u32(shape, masks)));
    }
    tensors.push(("audio.tower".into(), batch(tower, width)));
    tensors.push(("audio.soft".into(), batch(soft, hidden)));
    Ok(tensors)
}

/// Transformers' names of states between, and ours.
fn between(config: &ConformerConfig) -> Vec<(String, String)> {
    let layers = (0..config.num_hidden_layers).map(|n| (format!("audio.layer_out.{n}"), format!("audio.layer.{n}.output")));
    [("audio.subsampled".into(), "audio.subsampled".into())].into_iter().chain(layers).collect()
}
