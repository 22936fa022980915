//! Random weights of audio towers.

use super::towers::{TowerShapes, clipped, filled};
use crate::{
    Error, Result,
    gemma::{
        AudioConfig, ConformerConfig, ConformerKind,
        audio::{Names, SUBSAMPLING, convolution},
    },
    ir::DType,
    weights::WeightMap,
};

/// As [`random_vision_weights`](super::random_vision_weights), of an audio tower.
///
/// # Errors
/// As [`random_vision_weights`](super::random_vision_weights).
pub fn random_audio_weights(audio: &AudioConfig, width: usize, dtype: DType, seed: u32) -> Result<WeightMap> {
    match audio {
        AudioConfig::Conformer(config) => filled(conformer(config, width), dtype, seed),
        _ => Err(Error::Unsupported("random weights of this audio tower; those of Conformers can be made".into())),
    }
}

/// Names and shapes, as `ConformerStage` asks for them.
fn conformer(config: &ConformerConfig, width: usize) -> TowerShapes {
    let ConformerConfig { kind, hidden_size: e, conv_channels, input_feat_size, .. } = *config;
    let mut shapes = Vec::new();
    let mut taken = 1;
    for (index, channels) in conv_channels.into_iter().enumerate() {
        let name = convolution(kind, index);
        shapes.push((format!("{name}.conv.weight"), vec![channels, taken, 3, 3]));
        shapes.push((format!("{name}.norm.weight"), vec![channels]));
        taken = channels;
    }
    shapes.push((format!("{SUBSAMPLING}.input_proj_linear.weight"), vec![e, input_feat_size / 4 * taken]));
    for layer in 0..config.num_hidden_layers {
        conformer_layer(&mut shapes, config, layer);
    }
    let mut embedder = |part: &str, shape: Vec<usize>| shapes.push((format!("embed_audio.{part}.weight"), shape));
    match kind {
        ConformerKind::Gemma4 { output_proj_dims: out, .. } => {
            embedder("embedding_projection", vec![width, out]);
            shapes.push(("audio_tower.output_proj.weight".into(), vec![out, e]));
            shapes.push(("audio_tower.output_proj.bias".into(), vec![out]));
        }
        ConformerKind::Gemma3n { vocab_size, .. } => {
            embedder("embedding", vec![vocab_size, e]);
            embedder("soft_embedding_norm", vec![e]);
            embedder("hard_embedding_norm", vec![e]);
            embedder("embedding_projection", vec![width, e]);
        }
    }
    shapes
}

fn conformer_layer(shapes: &mut TowerShapes, config: &ConformerConfig, layer: usize) {
    let e = config.hidden_size;
    let names = Names::of(config.kind);
    let name = format!("{}.{layer}", names.layers);
    let [before, after] = names.attention_norms;
    let [first, last] = [names.first_feed_forward, names.last_feed_forward]
        .map(|part| [(format!("{part}.ffw_layer_1"), [4 * e, e]), (format!("{part}.ffw_layer_2"), [e, 4 * e])]);
    let attention = ["q", "k", "v"].map(|part| (format!("{}.{part}_proj", names.attention), [e, e]));
    let others = [
        (names.post.to_string(), [e, e]),
        ("lconv1d.linear_start".to_string(), [2 * e, e]),
        ("lconv1d.linear_end".to_string(), [e, e]),
    ];
    for (part, shape) in first.into_iter().chain(last).chain(attention).chain(others) {
        match config.kind {
            ConformerKind::Gemma4 { clipped_linears, .. } => {
                clipped(shapes, format!("{name}.{part}"), shape, clipped_linears);
            }
            ConformerKind::Gemma3n { .. } => shapes.push((format!("{name}.{part}.weight"), shape.to_vec())),
        }
    }
    let feed_forwards = [names.first_feed_forward, names.last_feed_forward];
    let norms = feed_forwards.iter().flat_map(|part| ["pre", "post"].map(|place| format!("{part}.{place}_layer_norm")));
    let own = [before, after, names.norm, "lconv1d.pre_layer_norm", "lconv1d.conv_norm"].map(String::from);
    shapes.extend(norms.chain(own).map(|norm| (format!("{name}.{norm}.weight"), vec![e])));
    shapes.push((format!("{name}.{}.weight", names.distances), vec![e, e]));
    shapes.push((format!("{name}.{}.per_dim_scale", names.attention), vec![e / config.num_attention_heads]));
    shapes.push((format!("{name}.lconv1d.depthwise_conv1d.weight"), vec![e, 1, config.conv_kernel_size]));
}
