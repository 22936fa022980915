use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::gemma::{GemmaConfig, VisionConfig};

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/multimodal").join(name)
}

/// The tower of a checkpoint whose processor has these keys, in `file`.
fn with(name: &str, file: &str, keys: Value) -> VisionConfig {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(checkpoint(name).join("config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join(file), keys.to_string()).unwrap();
    GemmaConfig::from_file(folder.path()).unwrap().multimodal.vision.unwrap()
}

#[test]
fn the_budget_is_that_of_the_processor() {
    let stock = GemmaConfig::from_file(checkpoint("gemma4-vision")).unwrap().multimodal.vision.unwrap();
    assert_eq!(stock.max_soft_tokens(), 70);
    let file = "preprocessor_config.json";
    for name in ["gemma4-vision", "gemma4-unified"] {
        assert_eq!(with(name, file, json!({"max_soft_tokens": 140})).max_soft_tokens(), 140);
        assert_eq!(with(name, file, json!({})).max_soft_tokens(), 280, "that of the released processors");
        let nested = json!({"image_processor": {"max_soft_tokens": 560}});
        assert_eq!(with(name, "processor_config.json", nested).max_soft_tokens(), 560);
    }
}

#[test]
fn pixels_that_are_not_computed_are_refused() {
    for (name, keys, word) in [
        ("gemma4-vision", json!({"max_soft_tokens": 0}), "max_soft_tokens"),
        ("gemma4-vision", json!({"max_soft_tokens": 5000}), "max_soft_tokens"),
        ("gemma4-vision", json!({"resample": 2}), "resample"),
        ("gemma4-vision", json!({"patch_size": 14}), "patch_size"),
        ("gemma4-vision", json!({"do_normalize": true, "image_mean": [0.5, 0.5, 0.5]}), "image_mean"),
        ("gemma4-unified", json!({"pooling_kernel_size": 2}), "pooling_kernel_size"),
        ("gemma4-unified", json!({"do_resize": false}), "do_resize"),
        ("gemma3-vision", json!({"do_normalize": false}), "do_normalize"),
        ("gemma3-vision", json!({"image_std": [0.2, 0.2, 0.2]}), "image_std"),
        ("gemma3-vision", json!({"rescale_factor": 1.0}), "rescale_factor"),
        ("gemma3-vision", json!({"size": {"height": 224, "width": 224}}), "size"),
        ("gemma3n-vision", json!({"size": {"height": 64, "width": 128}}), "square"),
        ("gemma3n-vision", json!({"do_normalize": true, "image_mean": [0.5, 0.5, 0.5]}), "image_mean"),
    ] {
        let VisionConfig::Unsupported(why) = with(name, "preprocessor_config.json", keys.clone()) else {
            panic!("{name} computes {keys}")
        };
        assert!(why.contains(word) && why.contains("preprocessor_config.json"), "{why}");
    }
}
