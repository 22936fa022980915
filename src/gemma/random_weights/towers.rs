//! Random weights of vision towers.

use std::sync::Arc;

use super::{GAIN_SCALE, RandomSource, element_bytes, mobilenet, pcg};
use crate::{
    Error, Result,
    gemma::{Gemma4VisionConfig, SiglipConfig, VisionConfig},
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
        VisionConfig::MobileNet(_) => filled(mobilenet::shapes(width), dtype, seed),
        _ => Err(Error::Unsupported(
            "random weights of this vision tower; those of SigLIP, MobileNet-V5 and Gemma 4 can be made".into(),
        )),
    }
}

/// Names and shapes of a tower's weights; one without dimensions is a bound.
pub(super) type TowerShapes = Vec<(String, Vec<usize>)>;

/// Tensors of these names and shapes.
pub(super) fn filled(shapes: TowerShapes, dtype: DType, seed: u32) -> Result<WeightMap> {
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
fn siglip(config: &SiglipConfig, width: usize) -> TowerShapes {
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
fn gemma4(config: &Gemma4VisionConfig, width: usize) -> TowerShapes {
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
pub(super) fn clipped(shapes: &mut TowerShapes, name: String, shape: [usize; 2], has_bounds: bool) {
    shapes.push((format!("{name}.linear.weight"), shape.to_vec()));
    if has_bounds {
        let bounds = ["input_min", "input_max", "output_min", "output_max"];
        shapes.extend(bounds.map(|bound| (format!("{name}.{bound}"), Vec::new())));
    }
}
