use serde_json::{Value, json};

use super::{Embedder, HardTokens};
use crate::{Result, gemma::GemmaConfig};

fn read(towers: Value) -> Result<Vec<HardTokens>> {
    let mut json = json!({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}});
    json.as_object_mut().unwrap().extend(towers.as_object().unwrap().clone());
    Ok(GemmaConfig::from_json(&json.to_string())?.multimodal.hard_tokens)
}

#[test]
fn absent_numbers_are_those_of_transformers_classes() {
    let found = read(json!({"vision_config": {"model_type": "gemma3n_vision"}, "audio_config": {"model_type": "gemma3n_audio"}}));
    let expected = [(Embedder::Vision, 262_144, 2048), (Embedder::Audio, 262_272, 1536)]
        .map(|(embedder, first, width)| HardTokens { embedder, first, count: 128, width, rms_norm_eps: 1e-6 });
    assert_eq!(found.unwrap(), expected);
    let sound = read(json!({"vision_config": null, "audio_config": {"model_type": "gemma3n_audio", "vocab_offset": 7}}));
    assert_eq!(sound.unwrap(), [HardTokens { first: 7, ..expected[1] }]);
    assert_eq!(read(json!({"vision_config": {"model_type": "gemma4_vision"}})).unwrap(), []);
}

#[test]
fn ids_that_make_no_sense_are_refused() {
    let both = |first: Value| {
        json!({"vision_config": {"model_type": "gemma3n_vision"},
            "audio_config": {"model_type": "gemma3n_audio", "vocab_offset": first}})
    };
    let apart = read(both(262_273.into())).unwrap_err().to_string();
    assert!(apart.contains("262273") && apart.contains("262272"), "{apart}");
    for first in [json!(-1), json!("x"), json!(1.5)] {
        assert!(read(both(first)).unwrap_err().to_string().contains("audio_config.vocab_offset"));
    }
}
