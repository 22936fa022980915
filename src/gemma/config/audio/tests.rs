use serde_json::{Value, json};

use crate::gemma::{AudioConfig, ConformerKind, GemmaConfig};

fn with(model_type: &str, audio: Value) -> Option<AudioConfig> {
    let wrapper = json!({"model_type": model_type, "text_config": {}, "audio_config": audio});
    GemmaConfig::from_json(&wrapper.to_string()).unwrap().multimodal.audio_tower
}

#[test]
fn defaults_are_those_of_transformers() {
    let Some(AudioConfig::Conformer(gemma4)) = with("gemma4", json!({"model_type": "gemma4_audio"})) else {
        panic!("Gemma 4 hears")
    };
    assert_eq!((gemma4.hidden_size, gemma4.num_hidden_layers, gemma4.num_attention_heads), (1024, 12, 8));
    assert_eq!((gemma4.conv_channels, gemma4.attention_context, gemma4.conv_kernel_size), ([128, 32], 12, 5));
    assert_eq!(gemma4.kind, ConformerKind::Gemma4 { clipped_linears: true, output_proj_dims: 1536, attention_chunk_size: 12 });
    let Some(AudioConfig::Conformer(gemma3n)) = with("gemma3n", json!({"model_type": "gemma3n_audio"})) else {
        panic!("Gemma 3n hears")
    };
    assert_eq!((gemma3n.hidden_size, gemma3n.attention_context), (1536, 13));
    let kind = ConformerKind::Gemma3n { group_norm_eps: 1e-3, reduction_factor: 4, soft_tokens: 188, vocab_size: 128 };
    assert_eq!(gemma3n.kind, kind);
    assert_eq!(with("gemma4", Value::Null), None);
}

#[test]
fn a_tower_that_is_not_computed_says_why_and_leaves_the_text_model() {
    for (model_type, audio, word) in [
        ("gemma4", json!({"model_type": "some_audio"}), "some_audio"),
        ("gemma4", json!({"model_type": "gemma4_audio", "attention_context_right": 4}), "attention_context_right"),
        ("gemma4", json!({"model_type": "gemma4_audio", "hidden_act": "relu"}), "hidden_act"),
        ("gemma4", json!({"model_type": "gemma4_audio", "num_attention_heads": 7}), "7 heads"),
        ("gemma4", json!({"model_type": "gemma4_audio", "attention_context_left": 0}), "a size of a tower is 0"),
        ("gemma4", json!({"model_type": "gemma4_audio", "subsampling_conv_channels": [1, 2, 3]}), "subsampling_conv_channels"),
        ("gemma3n", json!({"model_type": "gemma3n_audio", "sscp_conv_kernel_size": [[5, 5], [3, 3]]}), "sscp_conv_kernel_size"),
        ("gemma3n", json!({"model_type": "gemma3n_audio", "attention_window": 3}), "attention_window"),
        ("gemma4", json!(7), "audio_config"),
    ] {
        let Some(AudioConfig::Unsupported(why)) = with(model_type, audio.clone()) else { panic!("{audio} is computed") };
        assert!(why.contains(word), "{why}");
    }
}
