use serde_json::{Value, json};

use super::MobileNetConfig;
use crate::gemma::{GemmaConfig, VisionConfig};

fn config(top: Value, vision: Value) -> VisionConfig {
    let mut json = json!({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}, "vision_config": vision});
    json.as_object_mut().unwrap().extend(top.as_object().unwrap().clone());
    GemmaConfig::from_json(&json.to_string()).unwrap().multimodal.vision.unwrap()
}

/// The keys that transformers writes, with its defaults.
#[test]
fn the_configuration_of_transformers_gives_the_released_tower() {
    let written = json!({"architecture": "mobilenetv5_300m_enc", "do_pooling": false, "dtype": "bfloat16", "hidden_size": 2048,
        "initializer_range": 0.02, "label_names": ["LABEL_0", "LABEL_1"], "model_args": null, "model_type": "gemma3n_vision",
        "num_classes": 2, "rms_norm_eps": 1e-6, "vocab_offset": 262_144, "vocab_size": 128});
    let expected = MobileNetConfig { image_size: 768, soft_tokens_per_image: 256, rms_norm_eps: 1e-6 };
    let found = config(json!({"vision_soft_tokens_per_image": 256}), written);
    assert_eq!(found, VisionConfig::MobileNet(expected));
    assert_eq!(config(json!({}), json!({"model_type": "gemma3n_vision"})), VisionConfig::MobileNet(expected));
}

#[test]
fn a_tower_that_is_not_computed_says_why() {
    for (top, vision, word) in [
        (json!({}), json!({"architecture": "resnet50"}), "architecture"),
        (json!({}), json!({"depth_multiplier": 2}), "depth_multiplier"),
        (json!({"vision_soft_tokens_per_image": 200}), json!({}), "200 soft tokens"),
        (json!({"vision_soft_tokens_per_image": 25}), json!({}), "expected a multiple of 32, and of 80"),
    ] {
        let mut vision = vision;
        vision["model_type"] = "gemma3n_vision".into();
        let VisionConfig::Unsupported(why) = config(top, vision.clone()) else { panic!("{vision} is computed") };
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn a_picture_has_the_size_that_the_processor_gives_it() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/multimodal/gemma3n-vision");
    let vision = GemmaConfig::from_file(folder).unwrap().multimodal.vision;
    let Some(VisionConfig::MobileNet(found)) = vision else { panic!("a MobileNet: {vision:?}") };
    assert_eq!((found.image_size, found.soft_tokens_per_image), (128, 16));
    let other = MobileNetConfig { image_size: 120, ..found };
    assert!(other.check().unwrap_err().to_string().contains("a picture's side is 120"));
}
