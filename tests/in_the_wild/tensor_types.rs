//! Element types and quantised checkpoints that are not computed: each refused by what it is, with the nearest that
//! works.

use std::path::Path;

use gemmaflow::{
    Error, Result,
    error::WeightError,
    gemma::{GemmaConfig, GemmaDrafterConfig},
    generate::GemmaGenerator,
    runtime::Device,
};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::common::{
    files::{Checkpoint, Stored, read_gguf},
    gguf::GgufOracle,
    oracle::{Oracle, data, gate, worst},
};

const MATRIX: &str = "layers.0.mlp.up_proj.weight";

fn load(path: &Path) -> Result<GemmaGenerator> {
    GemmaGenerator::from_path(GemmaConfig::near_weights(path)?, path, Device::Cpu)
}

fn refused(path: &Path) -> Error {
    load(path).expect_err("refused")
}

#[test]
fn numbers_of_64_bits_are_computed() {
    for name in ["gemma2", "gemma3-text", "gemma3-mm-bf16", "gemma4-moe"] {
        let oracle = Oracle::open(name);
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        let tensors = std::mem::take(&mut checkpoint.tensors).into_iter();
        checkpoint.tensors =
            tensors.map(|t| if matches!(t.dtype, Dtype::F32 | Dtype::BF16) { t.into_f64() } else { t }).collect();
        let mut generator = load(checkpoint.write().path()).unwrap();
        let logits = generator.recompute_all_logits(oracle.tokens("p7.input_ids")).unwrap();
        assert!(worst(&logits, &oracle.f32("p7.logits")) < oracle.gate(), "{name}");
    }
    // Those tensors of a GGUF file that are f32: norms, with their 1 added, and more.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for oracle in GgufOracle::runnable() {
        let mut file = read_gguf(&oracle.path);
        for (_, dims, ty, bytes) in file.tensors.iter_mut().filter(|tensor| tensor.2 == 0) {
            let count = dims.iter().product::<u64>() as usize;
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..4 * count]);
            (*ty, *bytes) = (28, values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect());
        }
        // The divisors of rotary frequencies are read with the configuration.
        if file.tensors.iter().any(|(name, ..)| name == "rope_freqs.weight") {
            continue;
        }
        file.write(&path);
        let mut generator = load(&path).unwrap();
        let logits = generator.recompute_all_logits(oracle.tokens("p7.input_ids")).unwrap();
        let error = worst(&logits, &oracle.f32("exact.p7.logits"));
        assert!(error < gate(generator.config().arch), "{}: {error}", oracle.name);
    }
}

#[test]
fn foreign_types_of_safetensors_are_named() {
    let oracle = Oracle::open("gemma3-text");
    for (dtype, bits, nearest) in [
        (Dtype::F8_E4M3, 8, "Q8_0"),
        (Dtype::F8_E5M2, 8, "Q8_0"),
        (Dtype::F8_E8M0, 8, "Q8_0"),
        (Dtype::F8_E4M3FNUZ, 8, "Q8_0"),
        (Dtype::F8_E5M2FNUZ, 8, "Q8_0"),
        (Dtype::F4, 4, "Q4_K"),
        (Dtype::U8, 8, "Q8_0"),
        (Dtype::I8, 8, "Q8_0"),
        (Dtype::I64, 64, "whole numbers"),
        (Dtype::BOOL, 8, "whole numbers"),
    ] {
        for end in [MATRIX, "embed_tokens.weight", "model.norm.weight"] {
            let mut checkpoint = Checkpoint::read(&oracle.folder);
            let at = checkpoint.find(end);
            let tensor = &mut checkpoint.tensors[at];
            tensor.bytes = vec![0; tensor.shape.iter().product::<usize>() * bits / 8];
            tensor.dtype = dtype;
            let error = refused(checkpoint.write().path());
            let text = error.to_string();
            assert!(!text.contains("missing") && text.contains(end.trim_start_matches("model.")), "{text}");
            assert!(text.contains(&format!("{dtype:?}")) && text.contains(nearest), "{text}");
        }
    }
}

#[test]
fn foreign_types_of_gguf_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let oracle = GgufOracle::open("gemma2-s-q4_0-pure");
    for (number, name, nearest) in [
        (15, "Q8_K", "Q8_0"),
        (16, "IQ2_XXS", "Q2_K"),
        (17, "IQ2_XS", "Q2_K"),
        (18, "IQ3_XXS", "Q3_K"),
        (19, "IQ1_S", "Q2_K"),
        (21, "IQ3_S", "Q3_K"),
        (22, "IQ2_S", "Q2_K"),
        (29, "IQ1_M", "Q2_K"),
        (31, "Q4_0_4_4", "Q4_0"),
        (34, "TQ1_0", "Q2_K"),
        (35, "TQ2_0", "Q2_K"),
        (40, "NVFP4", "MXFP4"),
        (99, "number 99", "Q8_0"),
        (u32::MAX, "unknown", "Q8_0"),
    ] {
        for tensor in ["blk.0.ffn_up.weight", "token_embd.weight"] {
            let mut file = read_gguf(&oracle.path);
            file.tensors.iter_mut().filter(|(name, ..)| name == tensor).for_each(|entry| entry.2 = number);
            file.write(&path);
            let text = refused(&path).to_string();
            assert!(!text.contains("missing") && text.contains(name) && text.contains(nearest), "{tensor}: {text}");
        }
    }
    // In matrices that a file holds as one, too.
    let mut file = read_gguf(&GgufOracle::open("gemma3n-k-q3_k_m").path);
    file.tensors.iter_mut().filter(|(name, ..)| name == "altup_proj.weight").for_each(|entry| entry.2 = 16);
    file.write(&path);
    let text = refused(&path).to_string();
    assert!(text.contains("IQ2_XXS") && !text.contains("missing"), "{text}");
}

#[test]
fn quantised_checkpoints_are_known_by_their_configuration() {
    let oracle = Oracle::open("gemma3-text");
    for (key, value, says) in [
        ("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), ["bitsandbytes (4 bits)", "Q4_K"]),
        ("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), ["bitsandbytes (8 bits)", "Q8_0"]),
        ("quantization_config", json!({"load_in_8bit": true}), ["bitsandbytes (8 bits)", "Q8_0"]),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), ["GPTQ", "Q4_K"]),
        ("quantization_config", json!({"quant_method": "awq", "bits": 4}), ["AWQ", "Q4_K"]),
        ("quantization_config", json!({"quant_method": "compressed-tensors"}), ["compressed-tensors", "Q4_0"]),
        ("compression_config", json!({"format": "pack-quantized"}), ["compressed-tensors", "Q4_0"]),
        ("quantization_config", json!({"quant_method": "torchao", "quant_type": {}}), ["torchao", "Q8_0"]),
        ("quantization_config", json!({"quant_method": "fp8"}), ["FP8", "Q8_0"]),
        ("quantization_config", json!({"quant_method": "gemma", "num_bits": 4}), ["Gemma's own format", "Q4_0"]),
        ("quantization_config", json!({"quant_algo": "NVFP4"}), ["ModelOpt", "Q4_K"]),
        ("quantization_config", json!({"quant_method": "a new one"}), ["a new one", "Q8_0"]),
        ("quantization", json!({"group_size": 64, "bits": 4}), ["MLX", "Q4_K"]),
    ] {
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        checkpoint.config[key] = value.clone();
        let error = refused(checkpoint.write().path());
        let text = error.to_string();
        assert!(matches!(error, Error::Weight(WeightError::Quantised { .. })) && text.contains(key), "{text}");
        assert!(says.iter().all(|says| text.contains(says)), "{text}, expected {says:?}");
        // In a wrapper at the top or within, and in a drafter's.
        for (name, inner) in [("gemma3-mm-bf16", false), ("gemma3-mm-bf16", true), ("gemma4-assistant", false)] {
            let mut config = Checkpoint::read(&data("checkpoints").join(name)).config;
            let place = if inner { &mut config["text_config"] } else { &mut config };
            place[key] = value.clone();
            let read = if name.contains("assistant") {
                GemmaDrafterConfig::from_json(&config.to_string()).map(drop)
            } else {
                GemmaConfig::from_json(&config.to_string()).map(drop)
            };
            assert!(matches!(read, Err(Error::Weight(WeightError::Quantised { .. }))), "{name} {read:?}");
        }
    }
    for nothing in [Value::Null, json!({})] {
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        checkpoint.config["quantization_config"] = nothing;
        assert!(load(checkpoint.write().path()).is_ok());
    }
}

#[test]
fn quantised_checkpoints_are_known_by_their_tensors() {
    let oracle = Oracle::open("gemma3-text");
    for (ends, says) in [
        (&["weight", "SCB", "weight_format"][..], "bitsandbytes (8 bits)"),
        (&["weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"], "bitsandbytes (4 bits)"),
        (&["weight", "weight.absmax"], "bitsandbytes (4 bits)"),
        (&["qweight", "qzeros", "scales", "g_idx"], "GPTQ"),
        (&["qweight", "qzeros", "scales"], "AWQ"),
        (&["weight_packed", "weight_scale", "weight_shape"], "compressed-tensors"),
        (&["weight", "weight_scale"], "compressed-tensors"),
        (&["weight", "weight_scale_inv"], "FP8"),
        (&["weight", "weight_scale", "weight_scale_2"], "ModelOpt"),
        (&["_weight_qdata", "_weight_scale"], "torchao"),
        (&["weight", "scales", "biases"], "MLX"),
        (&["weight", "weight_scale", "input_activation_scale"], "Gemma's own format"),
    ] {
        let mut checkpoint = Checkpoint::read(&oracle.folder);
        let at = checkpoint.find(MATRIX);
        let stem = checkpoint.tensors.remove(at).name.trim_end_matches("weight").to_string();
        let bytes = |end: &&str| Stored::new(&format!("{stem}{end}"), Dtype::U8, &[8], vec![0; 8]);
        checkpoint.tensors.extend(ends.iter().map(bytes));
        let error = refused(checkpoint.write().path());
        let text = error.to_string();
        assert!(
            matches!(error, Error::Weight(WeightError::Quantised { .. })) && text.contains(says) && text.contains(&stem[6..]),
            "{text}, expected {says}"
        );
    }
}
