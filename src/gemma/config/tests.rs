use std::path::Path;

use super::*;

use serde_json::{Value, json};

use crate::{Error, ir::MaskKind};

/// A complete small configuration of each family, to which tests add keys.
pub(super) fn with(model_type: &str, extra: Value) -> Result<GemmaConfig> {
    let mut text = json!({
        "model_type": model_type, "vocab_size": 151, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16
    });
    for (key, value) in extra.as_object().unwrap() {
        text[key] = value.clone();
    }
    GemmaConfig::from_json(&text.to_string())
}

fn refusal(model_type: &str, extra: Value) -> String {
    match with(model_type, extra.clone()) {
        Err(Error::Config(problem)) => problem,
        other => panic!("{model_type} {extra}: {other:?}"),
    }
}

use LayerKind::{Full as F, Sliding as S};

#[test]
fn defaults_are_those_of_transformers() {
    let g1 = GemmaConfig::from_json(r#"{"model_type": "gemma"}"#).unwrap();
    assert_eq!(g1, GemmaConfig::preset("gemma-7b").unwrap());
    let g2 = GemmaConfig::from_json(r#"{"model_type": "gemma2"}"#).unwrap();
    assert_eq!(g2, GemmaConfig::preset("gemma-2-2b").unwrap());
    let g3 = GemmaConfig::from_json(r#"{"model_type": "gemma3_text"}"#).unwrap();
    assert_eq!((g3.vocab_size, g3.sliding_window, g3.max_position_embeddings), (262_208, Some(4096), 131_072));
    assert_eq!((g3.hidden_size, g3.num_attention_heads, g3.num_key_value_heads, g3.head_dim), (2304, 8, 4, 256));
    assert_eq!((g3.attn_logit_softcapping, g3.final_logit_softcapping), (None, None));
    assert_eq!((g3.rope_full.theta, g3.rope_sliding.theta), (1e6, 1e4));
    assert_eq!(&g3.layer_types[..7], &[S, S, S, S, S, F, S]);
    let vault = GemmaConfig::from_json(r#"{"model_type": "vaultgemma"}"#).unwrap();
    assert_eq!((vault.attn_logit_softcapping, vault.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!(&vault.layer_types[..3], &[S, F, S]);
}

#[test]
fn the_released_gemma_3_4b_configuration_gives_the_preset() {
    let text = r#"{"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
      "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
      "model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
      "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
      "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "vision_config": {"hidden_size": 1152, "image_size": 896,
      "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27,
      "patch_size": 14, "vision_use_head": false}}"#;
    let preset = GemmaConfig { eos_token_ids: vec![1, 106], ..GemmaConfig::preset("gemma-3-4b").unwrap() };
    let config = GemmaConfig::from_json(text).unwrap();
    assert_eq!(config.multimodal.image, Some(MediaTokens { begin: 255_999, soft: 262_144, end: 256_000 }));
    let Some(VisionConfig::Siglip(siglip)) = config.multimodal.vision else { panic!("a SigLIP") };
    assert_eq!((siglip.hidden_size, siglip.num_hidden_layers, siglip.mm_tokens_per_image), (1152, 27, 256));
    assert_eq!(GemmaConfig { multimodal: MultimodalConfig::default(), ..config }, preset);
}

/// What is wrong with a tower is no reason to refuse the text model.
#[test]
fn a_tower_that_is_not_computed_says_why() {
    for (vision, word) in [
        (json!({"model_type": "some_vision"}), "some_vision"),
        (json!({"model_type": "siglip_vision_model", "hidden_act": "relu"}), "hidden_act"),
        (json!({"model_type": "siglip_vision_model", "image_size": 15, "patch_size": 0}), "mm_tokens_per_image"),
        (json!({"model_type": "gemma4_vision", "head_dim": 6}), "head_dim"),
        (json!({"model_type": "gemma4_vision", "rope_parameters": {"rope_type": "yarn"}}), "rope_type"),
        (json!({"model_type": "gemma4_unified_vision", "mm_embed_dim": 0}), "a size of a tower is 0"),
        (json!({"model_type": "gemma4_vision", "attention_softcap": 3}), "attention_softcap"),
        (json!({"model_type": "gemma4_vision", "attention_bias": true}), "attention_bias"),
        (json!({"model_type": "siglip_vision_model", "num_channels": 1}), "num_channels"),
        (json!(7), "vision_config"),
    ] {
        let text = json!({"model_type": "gemma3", "text_config": {}, "vision_config": vision}).to_string();
        let config = GemmaConfig::from_json(&text).unwrap();
        let Some(VisionConfig::Unsupported(why)) = config.multimodal.vision else { panic!("{text} is computed") };
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn stop_tokens_of_wrapper_text_and_generation_config_are_joined() {
    let wrapper = |top: Value, text: Value| {
        let mut json = json!({"model_type": "gemma3", "text_config": text});
        json.as_object_mut().unwrap().extend(top.as_object().unwrap().clone());
        GemmaConfig::from_json(&json.to_string()).unwrap()
    };
    assert_eq!(wrapper(json!({}), json!({"eos_token_id": 7})).eos_token_ids, [7]);
    assert_eq!(wrapper(json!({"eos_token_id": [1, 106]}), json!({"eos_token_id": 1})).eos_token_ids, [1, 106]);
    assert_eq!(wrapper(json!({}), json!({})).eos_token_ids, [1]);
    assert!(!wrapper(json!({"tie_word_embeddings": false}), json!({"tie_word_embeddings": true})).tie_word_embeddings);

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "gemma3_text", "eos_token_id": 1}"#).unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"top_k": 64, "eos_token_id": [1, 106]}"#).unwrap();
    assert_eq!(GemmaConfig::from_file(folder.path()).unwrap().eos_token_ids, [1, 106]);
    assert_eq!(with("gemma2", json!({"eos_token_id": null})).unwrap().eos_token_ids, [0u32; 0]);
}

#[test]
fn both_spellings_of_rope_agree() {
    let old = json!({"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"type": "linear", "factor": 8}});
    let new = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
    let old = with("gemma3_text", old).unwrap();
    let new = with("gemma3_text", new).unwrap();
    assert_eq!(old, new);
    assert_eq!(old.rope_full, RopeConfig { theta: 5e5, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!(old.rope_sliding, RopeConfig::new(2e4));

    let llama3 =
        json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5});
    let one = with("gemma2", json!({"rope_parameters": llama3, "max_position_embeddings": 777})).unwrap();
    let scaling =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 777 };
    assert_eq!(one.rope_full, RopeConfig { theta: 5e5, scaling });
    assert_eq!(one.rope_sliding, one.rope_full);
    assert_eq!(with("gemma", json!({"rope_theta": 3e4, "rope_scaling": null})).unwrap().rope_full, RopeConfig::new(3e4));
}

#[test]
fn absent_and_null_softcaps_differ() {
    let off = with("gemma2", json!({"attn_logit_softcapping": null, "final_logit_softcapping": null})).unwrap();
    assert_eq!((off.attn_logit_softcapping, off.final_logit_softcapping), (None, None));
    let three = with("gemma3_text", json!({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})).unwrap();
    assert_eq!((three.attn_logit_softcapping, three.final_logit_softcapping), (None, Some(30.0)));
}

#[test]
fn layer_options_follow_the_kinds() {
    let g2 = with("gemma2", json!({"sliding_window": 8, "query_pre_attn_scalar": 64})).unwrap();
    let options: Vec<_> = (0..4).map(|i| g2.layer_attn_options(i)).collect();
    assert_eq!(options[0], LayerAttnOptions { mask: MaskKind::SlidingWindow(8), scale: 0.125, softcap: Some(50.0) });
    assert_eq!(options[1], LayerAttnOptions { mask: MaskKind::Causal, ..options[0] });
    assert_eq!(options[2], options[0]);
    let g1 = with("gemma", json!({})).unwrap();
    assert_eq!(g1.layer_attn_options(0), LayerAttnOptions { mask: MaskKind::Causal, scale: 0.25, softcap: None });
    let explicit = json!({"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]});
    let g3 = with("gemma3_text", explicit).unwrap();
    assert_eq!(g3.layer_types, [F, S, F, F]);
    assert_eq!((g3.layer_rope(0).theta, g3.layer_rope(1).theta), (1e6, 1e4));
    assert_eq!(with("gemma3_text", json!({"sliding_window_pattern": 3})).unwrap().layer_types, [S, S, F, S]);
    let fewer = GemmaConfig { effective_num_layers: Some(3), ..g3 };
    assert_eq!(fewer.active_num_layers(), 3);
    fewer.validate().unwrap();
    assert!(GemmaConfig { effective_num_layers: Some(5), ..fewer }.validate().is_err());
}

#[test]
fn what_would_change_the_mathematics_is_refused_by_name() {
    for (model_type, key, value) in [
        ("gemma2", "attention_bias", json!(true)),
        ("gemma2", "use_bidirectional_attention", json!(true)),
        ("gemma3_text", "use_bidirectional_attention", json!("all")),
        ("embedding_gemma2_text", "use_bidirectional_attention", json!(false)),
        ("embedding_gemma2_text", "embedding_dim", json!(0)),
        ("embedding_gemma2_text", "hidden_size_per_layer_input", json!(0)),
        ("embedding_gemma2_text", "vocab_size_per_layer_input", json!(151)),
        ("gemma3_text", "embedding_dim", json!(24)),
        ("gemma2", "hidden_activation", json!("silu")),
        ("gemma2", "hidden_activation", json!("gelu")),
        ("gemma", "hidden_act", json!("relu")),
        ("gemma", "query_pre_attn_scalar", json!(99)),
        ("gemma", "sliding_window", json!(99)),
        ("gemma2", "rope_local_base_freq", json!(99.0)),
        ("gemma2", "sliding_window_size", json!(77)),
        ("gemma2", "sliding_window_pattern", json!(3)),
        ("gemma3_text", "sliding_window_pattern", json!(0)),
        ("gemma3_text", "num_kv_shared_layers", json!(2)),
        ("gemma3_text", "partial_rotary_factor", json!(0.5)),
        ("gemma3_text", "layer_types", json!(["full_attention"])),
        ("gemma3_text", "layer_types", json!(["chunked_attention", "full_attention", "full_attention", "full_attention"])),
        ("gemma", "layer_types", json!(["sliding_attention", "full_attention", "full_attention", "full_attention"])),
        ("gemma2", "sliding_window", json!(null)),
        ("gemma2", "sliding_window", json!(0)),
        ("gemma2", "hidden_size", json!(0)),
        ("gemma2", "hidden_size", json!(null)),
        ("gemma2", "hidden_size", json!(1u64 << 40)),
        ("gemma2", "hidden_size", json!(-48)),
        ("gemma2", "hidden_size", json!("48")),
        ("gemma2", "num_hidden_layers", json!(1025)),
        ("gemma2", "vocab_size", json!((1 << 20) + 1)),
        ("gemma2", "num_key_value_heads", json!(3)),
        ("gemma2", "head_dim", json!(15)),
        ("gemma2", "rms_norm_eps", json!(1e300)),
        ("gemma2", "rms_norm_eps", json!(-1e-6)),
        ("gemma2", "query_pre_attn_scalar", json!(0)),
        ("gemma2", "final_logit_softcapping", json!(0.0)),
        ("gemma2", "rope_theta", json!(0.0)),
        ("gemma2", "tie_word_embeddings", json!("yes")),
        ("gemma2", "eos_token_id", json!([1, -1])),
        ("gemma2", "bos_token_id", json!(1u64 << 33)),
    ] {
        let mut extra = json!({});
        extra[key] = value.clone();
        let problem = refusal(model_type, extra);
        assert!(problem.contains(key), "{model_type} {key} = {value}: {problem}");
    }
}

#[test]
fn rope_settings_that_are_not_known_are_refused() {
    for scaling in [
        json!({"rope_type": "yarn", "factor": 4.0}),
        json!({"rope_type": "linear"}),
        json!({"rope_type": "linear", "factor": 0.0}),
        json!({"rope_type": "default", "factor": 2.0}),
        json!({"rope_type": "linear", "factor": 2.0, "attention_factor": 0.5}),
        json!({"rope_type": "linear", "type": "llama3", "factor": 2.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
        json!("linear"),
    ] {
        refusal("gemma3_text", json!({"rope_scaling": scaling}));
        refusal("gemma2", json!({"rope_parameters": scaling}));
    }
    refusal("gemma3_text", json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}));
    refusal("gemma2", json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}));
    let both = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"full_attention": {}}});
    refusal("gemma3_text", both);
}

#[test]
fn later_families_are_refused_as_unsupported() {
    for model_type in ["gemma4_assistant", "gemma4_unified_assistant", "recurrent_gemma"] {
        match with(model_type, json!({})) {
            Err(Error::Unsupported(what)) => assert!(what.contains(model_type), "{what}"),
            other => panic!("{model_type}: {other:?}"),
        }
    }
    assert!(refusal("llama", json!({})).contains("llama"));
    assert!(matches!(with("gemma", json!({"architectures": ["GemmaForSequenceClassification"]})), Err(Error::Unsupported(_))));
}

#[test]
fn wrapper_keys_are_checked_too() {
    let wrapper = |extra: Value| {
        let mut json = json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 48}});
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        GemmaConfig::from_json(&json.to_string())
    };
    assert_eq!(wrapper(json!({"hidden_size": 48})).unwrap().hidden_size, 48);
    assert!(wrapper(json!({"hidden_size": 64})).is_err());
    assert!(wrapper(json!({"use_bidirectional_attention": true})).is_err());
    assert!(wrapper(json!({"text_config": {"model_type": "gemma2"}})).is_err());
    assert!(wrapper(json!({"text_config": null})).is_err());
}

#[test]
fn presets_and_the_tiny_model_are_valid() {
    for name in GemmaConfig::preset_names() {
        GemmaConfig::preset(name).unwrap().validate().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(GemmaConfig::preset_names().count(), 19);
    assert_eq!(GemmaConfig::preset("gemma-9"), None);
    let big = GemmaConfig::preset("gemma-3-27b").unwrap();
    assert_eq!(big.query_pre_attn_scalar, Some((big.hidden_size / big.num_attention_heads) as f32));
    assert_eq!((big.kv_group_size(), big.q_proj_dim(), big.kv_proj_dim()), (2, 4096, 2048));
    let tiny = GemmaConfig::tiny_test();
    tiny.validate().unwrap();
    assert_eq!(tiny.layer_types, [S, F]);
}

#[test]
fn text_that_is_no_configuration_is_an_error() {
    for text in ["", "{", "[]", "null", "{\"model_type\": 3}", "{}", "{\"model_type\": \"gemma\", \"rms_norm_eps\": NaN}"] {
        assert!(matches!(GemmaConfig::from_json(text), Err(Error::Config(_))), "{text}");
    }
    assert!(GemmaConfig::from_json(&"[".repeat(100_000)).is_err());
    assert!(matches!(GemmaConfig::from_file("/nowhere/config.json"), Err(Error::Io { .. })));
}

#[test]
fn the_golden_checkpoints_have_the_sizes_their_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints");
    let read = |name: &str| GemmaConfig::from_file(root.join(name)).unwrap();
    let mha = read("gemma1-mha");
    let mqa = read("gemma1-mqa-bf16-sharded");
    assert_eq!((mha.arch, mha.layer_types, mha.sliding_window), (GemmaArch::Gemma, vec![F; 3], None));
    assert_eq!((mqa.kv_group_size(), mqa.q_proj_dim(), mqa.hidden_size), (4, 80, 64));
    let two = read("gemma2");
    let native = read("gemma2-bf16-native");
    assert_eq!(
        (two.query_pre_attn_scalar, two.attn_logit_softcapping, two.final_logit_softcapping),
        (Some(27.0), Some(4.0), Some(7.5))
    );
    assert_eq!((native.layer_types, native.attn_logit_softcapping), (vec![S, F, S, F], Some(50.0)));
    let mm = read("gemma3-mm-bf16");
    let text = read("gemma3-text");
    let untied = read("gemma3-untied-native");
    assert_eq!((mm.layer_types, mm.rope_full.scaling), (vec![S, S, F, S, S, F], RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((text.layer_types, text.rope_sliding), (vec![S, S, S, S, S, F, S], RopeConfig::new(1e4)));
    assert!(!untied.tie_word_embeddings && text.tie_word_embeddings);
    let three = read("gemma3n");
    assert_eq!((three.num_kv_layers(), three.kv_source_layer(9), three.kv_source_layer(8)), (5, Some(4), Some(3)));
    let ple = three.per_layer_input.unwrap();
    assert_eq!((three.altup.unwrap().num_inputs, three.laurel_rank, ple.vocab_size), (4, Some(6), Some(136)));
    let sparse: Vec<Option<f32>> =
        [Some(1.644_853_6), Some(1.281_551_6), Some(0.841_621_2)].into_iter().chain([None; 7]).collect();
    assert_eq!(three.activation_sparsity, sparse);
    let dense = read("gemma4-dense");
    let unified = read("gemma4-unified");
    assert_eq!((dense.layer_types, dense.final_logit_softcapping), (vec![S, S, S, S, S, F], Some(6.0)));
    let wide = LayerOverrides { head_dim: Some(32), num_key_value_heads: Some(1), intermediate_size: None };
    assert_eq!(dense.per_layer_config, BTreeMap::from([(5, wide)]));
    assert_eq!((unified.per_layer_config, unified.attention_k_eq_v), (dense.per_layer_config, true));
    let e2b = read("gemma4-e2b");
    assert_eq!((e2b.num_kv_layers(), (5..10).map(|i| e2b.kv_source_layer(i).unwrap()).collect()), (5, vec![3, 3, 3, 3, 4]));
    assert_eq!((e2b.layer_intermediate_size(4), e2b.layer_intermediate_size(5)), (56, 112));
    assert_eq!(e2b.per_layer_input, Some(PerLayerInput { hidden_size: 12, vocab_size: Some(155) }));
    let vault = read("vaultgemma");
    assert_eq!((vault.layer_style(), vault.layer_types), (GemmaLayerStyle::VaultGemma, vec![S, F, S]));
}

#[test]
fn no_value_of_any_key_brings_a_panic() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints");
    let odd = json!([null, true, 0, 1, -1, 7, 1e300, u64::MAX, i64::MIN, 0.5, "", "full_attention", [], [0], [[]], {},
        {"rope_type": "linear"},
        {"full_attention": 3}, {"factor": -0.0, "rope_type": "linear"}, ["full_attention"]]);
    let mut read = 0;
    for name in [
        "gemma1-mha",
        "gemma2",
        "gemma3-text",
        "gemma3-mm-bf16",
        "gemma3-untied-native",
        "gemma3n",
        "gemma4-e2b",
        "gemma4-unified",
        "vaultgemma",
        "embeddinggemma",
        "embeddinggemma2-text",
    ] {
        let whole: Value = serde_json::from_str(&std::fs::read_to_string(root.join(name).join("config.json")).unwrap()).unwrap();
        let pointers =
            |at: &str| whole.pointer(at).unwrap().as_object().unwrap().keys().map(|k| format!("{at}/{k}")).collect::<Vec<_>>();
        let mut keys = pointers("");
        for nested in ["/text_config", "/rope_parameters", "/rope_scaling", "/text_config/rope_scaling"] {
            if whole.pointer(nested).is_some_and(Value::is_object) {
                keys.extend(pointers(nested));
            }
        }
        for (key, value) in keys.iter().flat_map(|k| odd.as_array().unwrap().iter().map(move |v| (k, v))) {
            let mut changed = whole.clone();
            *changed.pointer_mut(key).unwrap() = value.clone();
            if let Ok(config) = GemmaConfig::from_json(&changed.to_string()) {
                config.validate().unwrap();
                for layer in 0..config.num_hidden_layers {
                    assert!(config.kv_source_layer(layer).is_some() && config.layer_q_dim(layer) > 0);
                    assert!(config.layer_attn_options(layer).scale.is_finite() && config.layer_rope(layer).theta > 0.0);
                }
                read += 1;
            }
        }
    }
    assert!(read > 500, "{read}");
}
