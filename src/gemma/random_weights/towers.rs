//! Random weights of towers.

use std::sync::Arc;

use super::{GAIN_SCALE, RandomSource, element_bytes, pcg};
use crate::{
    Error, Result,
    gemma::{
        AudioConfig, ConformerConfig, ConformerKind, Gemma4VisionConfig, SiglipConfig, VisionConfig,
        audio::{Names, SUBSAMPLING, convolution},
    },
    ir::DType,
    weights::{RandomFill, Tensor, WeightMap},
};

/// The weights of a vision tower for a text model of `width`, by the names and in the distribution of
/// [`random_weights`](super::random_weights); bounds of clipped products leave numbers as they are.
///
/// # Errors
/// [`Error::Unsupported`] for a tower whose weights no configuration tells of, and as
/// [`random_weights`](super::random_weights).
pub fn random_vision_weights(vision: &VisionConfig, width: usize, dtype: DType, seed: u32) -> Result<WeightMap> {
    match vision {
        VisionConfig::Siglip(config) => filled(siglip(config, width), dtype, seed),
        VisionConfig::Gemma4(config) => filled(gemma4(config, width), dtype, seed),
        _ => Err(Error::Unsupported("random weights of this vision tower; those of SigLIP and Gemma 4 can be made".into())),
    }
}

/// As [`random_vision_weights`], of an audio tower.
///
/// # Errors
/// As [`random_vision_weights`].
pub fn random_audio_weights(audio: &AudioConfig, width: usize, dtype: DType, seed: u32) -> Result<WeightMap> {
    match audio {
        AudioConfig::Conformer(config) => filled(conformer(config, width), dtype, seed),
        _ => Err(Error::Unsupported("random weights of this audio tower; those of Conformers can be made".into())),
    }
}

/// Tensors of these names and shapes.
fn filled(shapes: Vec<(String, Vec<usize>)>, dtype: DType, seed: u32) -> Result<WeightMap> {
    let size = element_bytes(dtype)?;
    let tensor = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        if shape.is_empty() {
            let bound = if name.ends_with("_min") { f32::MIN } else { f32::MAX };
            return Tensor::from_f32(name, shape, &[bound]);
        }
        let inputs: usize = shape[1..].iter().product();
        let scale = match shape.len() {
            1 => GAIN_SCALE,
            _ => (3.0 / inputs as f32).sqrt(),
        };
        let fill = RandomFill { seed: pcg(pcg(seed).wrapping_add(index as u32)), scale };
        Tensor::new(name, dtype, shape, Arc::new(RandomSource { fill, dtype, size }), 0)
    };
    Ok(WeightMap::from_tensors(shapes.into_iter().enumerate().map(tensor).collect()))
}

/// Names and shapes, as `SiglipStage` asks for them.
fn siglip(config: &SiglipConfig, width: usize) -> Vec<(String, Vec<usize>)> {
    let SiglipConfig { hidden_size: e, intermediate_size: i, num_hidden_layers, image_size, patch_size: p, .. } = *config;
    let grid = image_size / p;
    let mut shapes = vec![
        ("multi_modal_projector.mm_input_projection_weight".to_string(), vec![e, width]),
        ("multi_modal_projector.mm_soft_emb_norm.weight".to_string(), vec![e]),
        ("vision_tower.embeddings.patch_embedding.weight".to_string(), vec![e, 3, p, p]),
        ("vision_tower.embeddings.patch_embedding.bias".to_string(), vec![e]),
        ("vision_tower.embeddings.position_embedding.weight".to_string(), vec![grid * grid, e]),
    ];
    let mut with_bias = |name: String, shape: &[usize]| {
        shapes.push((format!("{name}.bias"), vec![shape[0]]));
        shapes.push((format!("{name}.weight"), shape.to_vec()));
    };
    with_bias("vision_tower.post_layernorm".into(), &[e]);
    for layer in 0..num_hidden_layers {
        let name = format!("vision_tower.encoder.layers.{layer}");
        for part in ["layer_norm1", "layer_norm2"] {
            with_bias(format!("{name}.{part}"), &[e]);
        }
        for part in ["q", "k", "v", "out"] {
            with_bias(format!("{name}.self_attn.{part}_proj"), &[e, e]);
        }
        with_bias(format!("{name}.mlp.fc1"), &[i, e]);
        with_bias(format!("{name}.mlp.fc2"), &[e, i]);
    }
    shapes
}

/// Names and shapes, as `Gemma4VisionStage` asks for them.
fn gemma4(config: &Gemma4VisionConfig, width: usize) -> Vec<(String, Vec<usize>)> {
    let Gemma4VisionConfig { hidden_size: e, intermediate_size: i, head_dim: d, patch_size: p, .. } = *config;
    let mut shapes = vec![
        ("embed_vision.embedding_projection.weight".to_string(), vec![width, e]),
        ("vision_tower.patch_embedder.input_proj.weight".to_string(), vec![e, 3 * p * p]),
        ("vision_tower.patch_embedder.position_embedding_table".to_string(), vec![2, config.position_embedding_size, e]),
    ];
    if config.standardize {
        shapes.extend(["bias", "scale"].map(|part| (format!("vision_tower.std_{part}"), vec![e])));
    }
    let [q, kv] = [config.num_attention_heads * d, config.num_key_value_heads * d];
    for layer in 0..config.num_hidden_layers {
        let name = format!("vision_tower.encoder.layers.{layer}");
        let norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"];
        shapes.extend(norms.map(|norm| (format!("{name}.{norm}_layernorm.weight"), vec![e])));
        shapes.extend(["q", "k"].map(|part| (format!("{name}.self_attn.{part}_norm.weight"), vec![d])));
        let products = [
            ("self_attn.q", [q, e]),
            ("self_attn.k", [kv, e]),
            ("self_attn.v", [kv, e]),
            ("self_attn.o", [e, q]),
            ("mlp.gate", [i, e]),
            ("mlp.up", [i, e]),
            ("mlp.down", [e, i]),
        ];
        for (part, shape) in products {
            clipped(&mut shapes, format!("{name}.{part}_proj"), shape, config.clipped_linears);
        }
    }
    shapes
}

/// A product of Gemma 4's towers, with its bounds where it has any.
fn clipped(shapes: &mut Vec<(String, Vec<usize>)>, name: String, shape: [usize; 2], has_bounds: bool) {
    shapes.push((format!("{name}.linear.weight"), shape.to_vec()));
    if has_bounds {
        let bounds = ["input_min", "input_max", "output_min", "output_max"];
        shapes.extend(bounds.map(|bound| (format!("{name}.{bound}"), Vec::new())));
    }
}

/// Names and shapes, as `ConformerStage` asks for them.
fn conformer(config: &ConformerConfig, width: usize) -> Vec<(String, Vec<usize>)> {
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

fn conformer_layer(shapes: &mut Vec<(String, Vec<usize>)>, config: &ConformerConfig, layer: usize) {
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
