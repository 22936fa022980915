//! The example `logits` with `--stages`: every tensor that transformers' oracle has, by its name and in its shape.

use std::process::Command;

use gemmaflow::gemma::GemmaArch;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{
    common::{
        multimodal::{CHECKPOINTS, Multimodal},
        oracle::worst,
    },
    program::program,
};

/// What the example does not write: what the model generates, and what one release of transformers makes of it.
fn is_left_out(name: &str) -> bool {
    ["gen_", "hf_forward"].iter().any(|part| name.contains(part))
}

/// The largest difference allowed in a tensor.
fn gate(oracle: &Multimodal, name: &str) -> f32 {
    let level = if oracle.config.arch == GemmaArch::Gemma3 { 2.0 / 255.0 } else { 1.0 / 255.0 };
    let gates = [
        ("pixel_values", 1.001 * level),
        ("features_mask", 0.0),
        ("tower_mask", 0.0),
        ("input_features", 1e-3),
        ("tower", 2e-4),
        ("soft", 1e-4),
        ("inputs_embeds", 1e-4),
        ("hidden", oracle.gate()),
        ("logits", oracle.gate()),
        ("embeddings", 1e-4),
        ("layer_out", 2e-4),
        ("pooled", 2e-3),
        ("subsampled", 2e-4),
        ("patch_dense", 1e-4),
    ];
    gates.iter().find(|(part, _)| name.contains(part)).map_or(0.0, |(_, gate)| *gate)
}

/// A case as the file of `--parts`. Words stand before Gemma 3's picture and its crops.
fn parts(oracle: &Multimodal, case: &Value) -> Value {
    let file = |kind: &str, at: &Value| oracle.folder.join(case[kind][at.as_u64().unwrap() as usize].as_str().unwrap());
    let part = |part: &Value| {
        if !part["audio"].is_null() {
            return json!({"audio": file("audios", &part["audio"])});
        }
        if part["image"].is_null() {
            return part.clone();
        }
        let mut picture = case["image_options"].clone();
        picture["image"] = json!(file("images", &part["image"]));
        if picture["do_pan_and_scan"] == true {
            picture["words"] = words(oracle, part["tokens"].as_array().unwrap());
        }
        picture
    };
    case["parts"].as_array().unwrap().iter().map(part).collect()
}

/// The ids before each picture of a layout, without the newlines around it.
fn words(oracle: &Multimodal, ids: &[Value]) -> Value {
    let [begin, end] = ["boi_token_index", "eoi_token_index"].map(|key| oracle.json[key].clone());
    let mut words = Vec::new();
    let mut rest = ids;
    while let Some(at) = rest.iter().position(|id| *id == begin) {
        words.push(rest[..at - 1].to_vec());
        let behind = rest.iter().position(|id| *id == end).unwrap() + 2;
        rest = &rest[behind..];
    }
    json!(words)
}

fn numbers(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::I32 => {
            bytemuck::pod_collect_to_vec::<u8, i32>(tensor.data()).into_iter().map(|id| id as f32).collect()
        }
        _ => bytemuck::pod_collect_to_vec(tensor.data()),
    }
}

#[test]
fn the_example_logits_writes_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let [list, out] = ["parts.json", "out.safetensors"].map(|name| folder.path().join(name));
    for name in CHECKPOINTS {
        let oracle = Multimodal::open(name);
        let bytes = std::fs::read(oracle.folder.join("mm_oracle.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        for case in oracle.cases() {
            std::fs::write(&list, parts(&oracle, oracle.case(&case)).to_string()).unwrap();
            let mut command = Command::new(program("logits"));
            command.args(["--stages", "--device", "cpu", "--case", &case, "--model"]).arg(&oracle.folder);
            let output = command.arg("--parts").arg(&list).arg("--out").arg(&out).output().unwrap();
            assert!(output.status.success(), "{name} {case}: {}", String::from_utf8_lossy(&output.stderr));
            let bytes = std::fs::read(&out).unwrap();
            let found = SafeTensors::deserialize(&bytes).unwrap();
            let of_case = |tensor: &&str| tensor.starts_with(&format!("{case}.")) && !is_left_out(tensor);
            for tensor in expected.names().into_iter().filter(of_case) {
                let error = worst(&numbers(&found, tensor), &numbers(&expected, tensor));
                assert!(error <= gate(&oracle, tensor), "{name} {tensor}: {error}");
            }
        }
    }
}
