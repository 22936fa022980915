use super::{
    keys::{self, Role},
    patterns::{Numbers, Targets},
};

/// Names as PEFT, torch.compile, FSDP and tools that save whole state dictionaries write them.
#[test]
fn names_of_tensors_are_read_in_every_spelling() {
    let module = "model.layers.0.self_attn.q_proj";
    for (name, role, adapter) in [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Role::A, None),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", Role::B, Some("default")),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", Role::Bias, None),
        ("_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Role::A, None),
        ("base_model.model._fsdp_wrapped_module.model.layers.0.self_attn.q_proj.lora_A.a.b.weight", Role::A, Some("a.b")),
        ("module.model.layers.0.self_attn.q_proj.lora_magnitude_vector", Role::Magnitude, None),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
            Role::Magnitude,
            Some("default"),
        ),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_embedding_A", Role::TableA, None),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_embedding_B.default", Role::TableB, Some("default")),
        ("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", Role::Copy, None),
    ] {
        let found = keys::peft(name).unwrap();
        assert_eq!((found.module.as_str(), found.role, found.adapter.as_deref()), (module, role, adapter), "{name}");
    }
    for (name, word) in [
        ("base_model.model.lm_head.weight", "whole weight"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "trainable_token_indices"),
        ("base_model.model.model.layers.0.self_attn.q_proj.bias", "bias"),
        ("prompt_embeddings", "prompt"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_diag", "KaSA"),
    ] {
        assert!(keys::peft(name).unwrap_err().contains(word), "{name}");
    }
}

/// `re.match(rf"(.*\.)?({key})$", name)`, the first key that matches in the order of the file.
#[test]
fn patterns_match_as_pythons_re_does() {
    let numbers: Numbers = serde_json::from_str(
        r#"{"layers.1.self_attn.q_proj": 2, "q_proj": 3, "^model\\.layers\\.[0-9]+\\.mlp.*": 5, "proj": 9}"#,
    )
    .unwrap();
    let pattern = numbers.compile("rank_pattern").unwrap();
    for (name, expected) in [
        ("model.layers.1.self_attn.q_proj", Some(2.0)),
        ("model.layers.11.self_attn.q_proj", Some(3.0)),
        ("model.layers.0.mlp.up_proj", Some(5.0)),
        ("model.layers.0.self_attn.k_proj", None),
        ("proj", Some(9.0)),
    ] {
        assert_eq!(pattern.of(name).unwrap(), expected, "{name}");
    }
    let broken: Numbers = serde_json::from_str(r#"{"(": 1}"#).unwrap();
    assert!(broken.compile("alpha_pattern").err().unwrap().contains("alpha_pattern"));
}

#[test]
fn modules_are_left_out_as_peft_leaves_them_out() {
    let check = |json: &str, module: &str| {
        let fields = serde_json::from_str(json).unwrap();
        Targets::of(&fields).unwrap().leave_out(module).unwrap()
    };
    let q = "model.layers.3.self_attn.q_proj";
    assert_eq!(check(r#"{"target_modules": ["q_proj"]}"#, q), None);
    assert_eq!(check(r#"{"target_modules": ["proj"]}"#, q), Some("target_modules"));
    assert_eq!(check(r#"{"target_modules": "all-linear"}"#, q), None);
    assert_eq!(check(r#"{"target_modules": "^(?!.*vision).*(?:q_proj|v_proj)"}"#, q), None);
    assert_eq!(check(r#"{"target_modules": ".*self_attn"}"#, q), Some("target_modules"));
    assert_eq!(check(r#"{"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]}"#, q), Some("exclude_modules"));
    assert_eq!(check(r#"{"target_modules": ["q_proj"], "exclude_modules": ""}"#, q), None);
    assert_eq!(check(r#"{"target_modules": ["q_proj"], "layers_to_transform": [1, 3]}"#, q), None);
    assert_eq!(check(r#"{"target_modules": ["q_proj"], "layers_to_transform": 2}"#, q), Some("layers_to_transform"));
    let pattern = r#"{"target_modules": ["q_proj"], "layers_to_transform": [3], "layers_pattern": "layers"}"#;
    assert_eq!(check(pattern, q), None);
    assert_eq!(check(r#"{"target_modules": [], "target_parameters": ["q_proj.weight"]}"#, q), None);
}
