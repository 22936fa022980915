//! The text model of a checkpoint as a GGUF file, with the names and keys of llama.cpp's converter.

use std::path::Path;

use gemmaflow::{
    checkpoint::load_from_path,
    gemma::{GemmaArch, GemmaConfig, LayerKind, RopeScaling, WeightPosition},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    common::{
        gguf::{Writer, string},
        multimodal::Multimodal,
    },
    mmproj, shown,
};

/// A folder with the text model, `model.gguf`, and the projector of a checkpoint beside it.
pub fn folder(oracle: &Multimodal) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(oracle, &folder.path().join("model.gguf"));
    std::fs::copy(mmproj(oracle), folder.path().join("mmproj-model-f16.gguf")).unwrap();
    folder
}

pub fn write(oracle: &Multimodal, path: &Path) {
    vocabulary(tensors(keys(&oracle.config), oracle), oracle).write(path);
}

fn architecture(config: &GemmaConfig) -> &'static str {
    match config.arch {
        GemmaArch::Gemma3 => "gemma3",
        GemmaArch::Gemma3n => "gemma3n",
        GemmaArch::Gemma4 => "gemma4",
        other => panic!("{other:?}"),
    }
}

fn keys(config: &GemmaConfig) -> Writer {
    let arch = architecture(config);
    let key = |key: &str| format!("{arch}.{key}");
    let layers = 0..config.num_hidden_layers;
    let sizes =
        |of: &dyn Fn(usize) -> usize| layers.clone().map(|layer| (of(layer) as u32).to_le_bytes().to_vec()).collect::<Vec<_>>();
    let is_sliding = |layer: usize| config.layer_types[layer] == LayerKind::Sliding;
    let full = layers.clone().find(|layer| !is_sliding(*layer)).unwrap();
    let mut writer = Writer::new(arch)
        .u32(&key("block_count"), config.num_hidden_layers as u32)
        .u32(&key("context_length"), config.max_position_embeddings as u32)
        .u32(&key("embedding_length"), config.hidden_size as u32)
        .array(&key("feed_forward_length"), 4, &sizes(&|layer| config.layer_intermediate_size(layer)))
        .u32(&key("attention.head_count"), config.num_attention_heads as u32)
        .array(&key("attention.head_count_kv"), 4, &sizes(&|layer| config.layer_kv_heads(layer)))
        .u32(&key("attention.key_length"), config.layer_head_dim(full) as u32)
        .u32(&key("attention.value_length"), config.layer_head_dim(full) as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps)
        .u32(&key("attention.sliding_window"), config.sliding_window.unwrap() as u32)
        .array(
            &key("attention.sliding_window_pattern"),
            7,
            &layers.clone().map(|layer| vec![u8::from(is_sliding(layer))]).collect::<Vec<_>>(),
        )
        .f32(&key("rope.freq_base"), config.rope_full.theta)
        .f32(&key("rope.freq_base_swa"), config.rope_sliding.theta);
    if let RopeScaling::Linear { factor } = config.rope_full.scaling {
        writer = writer.text(&key("rope.scaling.type"), "linear").f32(&key("rope.scaling.factor"), factor);
    }
    if let Some(cap) = config.final_logit_softcapping {
        writer = writer.f32(&key("final_logit_softcapping"), cap);
    }
    if config.arch != GemmaArch::Gemma3 {
        let width = config.per_layer_input.map_or(0, |input| input.hidden_size);
        writer = writer
            .u32(&key("attention.key_length_swa"), config.head_dim as u32)
            .u32(&key("attention.value_length_swa"), config.head_dim as u32)
            .u32(&key("embedding_length_per_layer_input"), width as u32)
            .u32(&key("attention.shared_kv_layers"), config.num_kv_shared_layers as u32);
    }
    if let Some(streams) = config.altup {
        let sparse = config.activation_sparsity.iter().map(|x| x.unwrap_or(f32::NEG_INFINITY).to_le_bytes().to_vec());
        writer = writer
            .u32(&key("altup.active_idx"), streams.active_idx as u32)
            .u32(&key("altup.num_inputs"), streams.num_inputs as u32)
            .array(&key("activation_sparsity_scale"), 6, &sparse.collect::<Vec<_>>());
    }
    if let RopeScaling::Proportional { partial_rotary_factor, .. } = config.rope_full.scaling {
        let pairs = config.layer_head_dim(full) / 2;
        let rotated = (pairs as f32 * partial_rotary_factor) as usize;
        let divisors = (0..pairs).map(|pair| if pair < rotated { 1.0f32 } else { 1e30 });
        let bytes: Vec<u8> = divisors.flat_map(|x| x.to_le_bytes()).collect();
        writer = writer.tensor("rope_freqs.weight", &[pairs as u64], 0, &bytes);
    }
    writer
}

/// Every weight in f32; the matrices of streams are one tensor.
fn tensors(mut writer: Writer, oracle: &Multimodal) -> Writer {
    let arch = oracle.config.arch;
    let mut loader = load_from_path(&oracle.folder).unwrap();
    for key in loader.remaining_keys() {
        let tensor = loader.take(&key).unwrap();
        let Some(position) = WeightPosition::from_hugging_face(arch, &key) else { continue };
        let stack = match position {
            WeightPosition::AltUpProjection(at) => Some(("altup_proj.weight", at)),
            WeightPosition::AltUpUnembed(at) => Some(("altup_unembd_proj.weight", at)),
            _ => None,
        };
        let mut dims: Vec<u64> = tensor.shape().iter().rev().map(|size| *size as u64).collect();
        let mut values = tensor.to_f32().unwrap();
        if let Some((name, at)) = stack {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            match writer.tensors.iter_mut().find(|(other, ..)| other == name) {
                Some((_, dims, _, all)) => {
                    assert_eq!(dims[2], at as u64);
                    dims[2] += 1;
                    all.extend(bytes);
                }
                None => {
                    dims.push(1);
                    writer = writer.tensor(name, &dims, 0, &bytes);
                }
            }
            continue;
        }
        let name = position.gguf(arch).unwrap_or_else(|| panic!("{key} has no name"));
        if arch == GemmaArch::Gemma3 && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        if arch == GemmaArch::Gemma3n && name == "per_layer_token_embd.weight" {
            // Zeros for the ids of embedders.
            dims[1] = oracle.config.vocab_size as u64;
            values.resize((dims[0] * dims[1]) as usize, 0.0);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer = writer.tensor(&name, &dims, 0, &bytes);
    }
    writer
}

/// The tokenizer of [`shown`], whose tokens are listed with their merges.
fn vocabulary(writer: Writer, oracle: &Multimodal) -> Writer {
    let json = shown::tokenizer_json(oracle.name);
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(&String, u64)> = vocab.iter().map(|(text, id)| (text, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let added: Vec<&str> =
        json["added_tokens"].as_array().unwrap().iter().map(|token| token["content"].as_str().unwrap()).collect();
    let text = |value: &str| string(value.as_bytes());
    let kind = |token: &str| if added.contains(&token) { 3i32 } else { 1 }.to_le_bytes().to_vec();
    let merge = |pair: &Value| text(&format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    let merges = json["model"]["merges"].as_array().unwrap();
    writer
        .text("tokenizer.ggml.model", "gemma4")
        .array("tokenizer.ggml.tokens", 8, &tokens.iter().map(|(token, _)| text(token)).collect::<Vec<_>>())
        .array("tokenizer.ggml.token_type", 5, &tokens.iter().map(|(token, _)| kind(token)).collect::<Vec<_>>())
        .array("tokenizer.ggml.merges", 8, &merges.iter().map(merge).collect::<Vec<_>>())
        .u32("tokenizer.ggml.bos_token_id", 2)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .u32("tokenizer.ggml.unknown_token_id", 3)
        .u32("tokenizer.ggml.padding_token_id", 0)
}
