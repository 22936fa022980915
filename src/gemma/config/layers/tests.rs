//! Families whose layers differ.

use serde_json::{Value, json};

use crate::{
    Result,
    gemma::{
        AltUp, GemmaConfig,
        LayerKind::{Full as F, Sliding as S},
        PerLayerInput, RopeConfig, RopeScaling,
        config::tests::with,
    },
    ir::MaskKind,
};

#[test]
fn gemma_3n_has_streams_and_layers_of_several_widths() {
    let bare = GemmaConfig::from_json(r#"{"model_type": "gemma3n_text"}"#).unwrap();
    assert_eq!((bare.num_hidden_layers, bare.num_kv_layers(), bare.vocab_size), (35, 20, 262_400));
    assert_eq!(bare.altup, Some(AltUp { num_inputs: 4, active_idx: 0, correct_scale: true }));
    assert_eq!(bare.laurel_rank, Some(64));
    assert_eq!((bare.final_logit_softcapping, bare.attn_score_scale(), bare.sliding_window), (Some(30.0), 1.0, Some(512)));
    assert_eq!((bare.layer_sparsity(9), bare.layer_sparsity(10)), (Some(1.644_853_6), None));
    assert_eq!((&bare.layer_types[3..6], bare.rope_full), (&[S, F, S][..], RopeConfig::new(1e6)));
    let three = |extra: Value| {
        let mut small = json!({"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "layer_types": [
            "sliding_attention", "full_attention", "sliding_attention", "full_attention"]});
        small.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        with("gemma3n_text", small)
    };
    let widths = three(json!({"intermediate_size": [96, 96, 128, 96], "vocab_size_per_layer_input": 100})).unwrap();
    assert_eq!((0..4).map(|i| widths.layer_intermediate_size(i)).collect::<Vec<_>>(), [96, 96, 128, 96]);
    assert_eq!(three(json!({"activation_sparsity_pattern": 0.0})).unwrap().activation_sparsity, []);
    for (extra, word) in [
        (json!({"intermediate_size": [96, 96]}), "intermediate_size"),
        (json!({"activation_sparsity_pattern": [0.5]}), "activation_sparsity_pattern"),
        (json!({"activation_sparsity_pattern": [1.0, 0.0, 0.0, 0.0]}), "activation_sparsity_pattern"),
        (json!({"activation_sparsity_pattern": ["a", 0, 0, 0]}), "activation_sparsity_pattern"),
        (json!({"altup_num_inputs": 1}), "altup_num_inputs"),
        (json!({"altup_num_inputs": 99}), "altup_num_inputs"),
        (json!({"altup_active_idx": 4}), "altup_active_idx"),
        (json!({"laurel_rank": 0}), "laurel_rank"),
        (json!({"hidden_size_per_layer_input": 0}), "hidden_size_per_layer_input"),
        (json!({"attention_k_eq_v": true}), "attention_k_eq_v"),
    ] {
        let problem = three(extra).unwrap_err().to_string();
        assert!(problem.contains(word), "{word}: {problem}");
    }
    assert!(with("gemma2", json!({"laurel_rank": 8})).is_err());
}

#[test]
fn gemma_4_has_layers_of_two_sizes() {
    let bare = GemmaConfig::from_json(r#"{"model_type": "gemma4_text"}"#).unwrap();
    assert_eq!((bare.num_hidden_layers, bare.vocab_size, bare.sliding_window), (30, 262_144, Some(512)));
    assert_eq!((bare.layer_head_dim(0), bare.layer_head_dim(5), bare.layer_kv_heads(5)), (256, 512, 4));
    assert_eq!(bare.per_layer_input, Some(PerLayerInput { hidden_size: 256, vocab_size: Some(262_144) }));
    let proportional = RopeScaling::Proportional { partial_rotary_factor: 0.25, factor: 1.0 };
    assert_eq!((bare.rope_full, bare.rope_sliding), (RopeConfig { theta: 1e6, scaling: proportional }, RopeConfig::new(1e4)));
    assert_eq!((bare.attn_score_scale(), bare.final_logit_softcapping), (1.0, None));
    let unified = GemmaConfig::from_json(r#"{"model_type": "gemma4_unified_text"}"#).unwrap();
    assert_eq!((unified.sliding_window, unified.per_layer_input), (Some(1024), None));
}

/// A small Gemma 4 whose first layer alone is listed as a full one.
fn small_gemma_4(mut extra: Value) -> Result<GemmaConfig> {
    extra["layer_types"] = json!(["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]);
    extra["hidden_size_per_layer_input"] = json!(0);
    with("gemma4_text", extra)
}

#[test]
fn gemma_4_spells_the_heads_of_full_layers_in_two_ways() {
    // The number of KV heads of full layers counts where keys are values.
    let global = json!({"global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": true});
    let own = json!({"head_dim": 32, "num_key_value_heads": 1});
    let listed = json!({"attention_k_eq_v": true, "per_layer_config": {"0": own, "3": own}});
    let config = small_gemma_4(global).unwrap();
    assert_eq!(config, small_gemma_4(listed).unwrap());
    assert_eq!(config.layer_types, [F, S, S, F], "the last layer is full, whatever the list says");
    assert_eq!(
        (config.layer_k_eq_v(0), config.layer_k_eq_v(1), config.layer_kv_dim(0), config.layer_kv_dim(1)),
        (true, false, 32, 32)
    );
    let projected = small_gemma_4(json!({"global_head_dim": 32, "num_global_key_value_heads": 1})).unwrap();
    assert_eq!((projected.layer_kv_heads(0), projected.layer_head_dim(0)), (2, 32));
    let none = small_gemma_4(json!({"per_layer_config": {}})).unwrap();
    assert_eq!((none.layer_head_dim(0), none.per_layer_config.len()), (16, 0));
}

#[test]
fn gemma_4_configurations_that_make_no_sense_are_refused() {
    let own = json!({"head_dim": 32, "num_key_value_heads": 1});
    for (extra, word) in [
        (json!({"per_layer_config": {"0": own}, "global_head_dim": 32}), "global_head_dim"),
        (json!({"per_layer_config": {"4": own}}), "\"4\""),
        (json!({"per_layer_config": {"x": own}}), "\"x\""),
        (json!({"per_layer_config": {"0": 7}}), "per_layer_config.0."),
        (json!({"per_layer_config": {"0": {"window": 7}}}), "per_layer_config.0.window"),
        (json!({"per_layer_config": {"0": {"head_dim": 32}}}), "layer 3"),
        (json!({"per_layer_config": {"0": {"head_dim": 0}}}), "head_dim is 0"),
        (json!({"per_layer_config": {"1": {"num_key_value_heads": 3}}}), "num_key_value_heads 3"),
        (json!({"num_kv_shared_layers": 4}), "num_kv_shared_layers"),
        (json!({"num_kv_shared_layers": 3}), "num_kv_shared_layers"),
        (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (json!({"enable_moe_block": true}), "num_experts is None"),
        (
            json!({"enable_moe_block": true, "num_experts": 8, "top_k_experts": 9, "moe_intermediate_size": 4}),
            "top_k_experts is 9",
        ),
        (
            json!({"enable_moe_block": true, "num_experts": 8, "top_k_experts": 0, "moe_intermediate_size": 4}),
            "top_k_experts is Some(0)",
        ),
        (
            json!({"enable_moe_block": true, "num_experts": 2000, "top_k_experts": 2, "moe_intermediate_size": 4}),
            "num_experts is 2000",
        ),
        (json!({"query_pre_attn_scalar": 256}), "query_pre_attn_scalar"),
    ] {
        let problem = small_gemma_4(extra).unwrap_err().to_string();
        assert!(problem.contains(word), "{word}: {problem}");
    }
}

#[test]
fn gemma_4_has_masks_both_ways_experts_and_wide_layers() {
    let both = small_gemma_4(json!({"use_bidirectional_attention": "all", "sliding_window": 9})).unwrap();
    assert_eq!([0, 1].map(|layer| both.layer_attn_options(layer).mask), [MaskKind::None, MaskKind::SymmetricWindow(4)]);
    let dense =
        small_gemma_4(json!({"use_bidirectional_attention": "vision", "num_experts": 8, "enable_moe_block": false})).unwrap();
    assert!(!dense.is_moe() && dense.expert_ffn_dim().is_none());
    let experts = json!({"enable_moe_block": true, "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 20});
    let mixture = small_gemma_4(experts.clone()).unwrap();
    assert_eq!((mixture.is_moe(), mixture.expert_ffn_dim(), mixture.moe.unwrap().top_k_experts), (true, Some(20), 3));
    assert!(with("gemma4_unified_text", experts).unwrap_err().to_string().contains("enable_moe_block"));
    assert!(with("gemma4_text", json!({"vocab_size_per_layer_input": 100})).unwrap_err().to_string().contains("have no row"));
    let wide = with(
        "gemma4_text",
        json!({"use_double_wide_mlp": true, "num_kv_shared_layers": 1, "layer_types": ["full_attention",
        "sliding_attention", "full_attention", "full_attention"]}),
    )
    .unwrap();
    assert_eq!([2, 3].map(|i| (wide.layer_intermediate_size(i), wide.kv_source_layer(i))), [(96, Some(2)), (192, Some(2))]);
}
