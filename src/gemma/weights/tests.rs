//! The tables of foreign names.

use super::*;
use crate::gemma::Projector;

const ARCHS: [GemmaArch; 7] = [
    GemmaArch::Gemma,
    GemmaArch::Gemma2,
    GemmaArch::VaultGemma,
    GemmaArch::Gemma3,
    GemmaArch::Gemma3n,
    GemmaArch::Gemma4,
    GemmaArch::EmbeddingGemma2,
];

#[test]
fn names_go_both_ways() {
    for arch in ARCHS {
        for position in WeightPosition::known(arch, 12) {
            let name = position.hugging_face(arch).unwrap();
            assert_eq!(WeightPosition::from_hugging_face(arch, &name), Some(position), "{arch:?} {name}");
            match position.gguf(arch) {
                Some(name) => assert_eq!(WeightPosition::from_gguf(arch, &name), Some(position), "{arch:?} {name}"),
                None => {
                    let stacked = matches!(position, WeightPosition::AltUpProjection(_) | WeightPosition::AltUpUnembed(_));
                    let unknown = matches!(arch, GemmaArch::VaultGemma | GemmaArch::EmbeddingGemma2);
                    assert!(stacked || unknown, "{arch:?} {position}");
                }
            }
        }
    }
    let counts = ARCHS.map(|arch| WeightPosition::known(arch, 1).count());
    assert_eq!(counts, [3 + 9, 3 + 11, 3 + 9, 5 + 13, 6 + 2 * 15 + 24, 9 + 25, 5 + 25]);
}

#[test]
fn one_foreign_name_has_two_positions() {
    let name = "layers.3.post_attention_layernorm.weight";
    let position = |arch| WeightPosition::from_hugging_face(arch, name);
    assert_eq!(position(GemmaArch::Gemma), Some(WeightPosition::Layer(3, LayerWeight::PreFfwNorm)));
    assert_eq!(position(GemmaArch::Gemma2), Some(WeightPosition::Layer(3, LayerWeight::PostAttentionNorm)));
    assert_eq!(position(GemmaArch::VaultGemma), None);
    assert_eq!(
        WeightPosition::Layer(3, LayerWeight::PreFfwNorm).gguf(GemmaArch::Gemma).as_deref(),
        Some("blk.3.ffn_norm.weight")
    );
    assert_eq!(WeightPosition::Layer(3, LayerWeight::PreFfwNorm).to_string(), "layer.3.pre_ffw_norm");
}

#[test]
fn prefixes_come_off_and_other_modalities_are_left_out() {
    for prefix in ["model.", "language_model.model.", "model.language_model.", "language_model.", ""] {
        let name = format!("{prefix}layers.0.mlp.up_proj.weight");
        assert_eq!(text_weight(&name).as_deref(), Some("layers.0.mlp.up_proj.weight"));
    }
    assert_eq!(text_weight("lm_head.weight").as_deref(), Some("lm_head.weight"));
    assert_eq!(text_weight("language_model.lm_head.weight").as_deref(), Some("lm_head.weight"));
    for name in
        ["model.vision_tower.x", "multi_modal_projector.mm_soft_emb_norm.weight", "model.embed_audio.x", "vision_tower.layers.0"]
    {
        assert_eq!(text_weight(name), None, "{name}");
    }
    // Gemma 3n embeds ids of the text by them.
    for name in ["embed_vision.embedding.weight", "embed_audio.hard_embedding_norm.weight"] {
        assert_eq!(text_weight(&format!("model.{name}")).as_deref(), Some(name));
    }
    assert_eq!(text_weight("model.embed_vision.soft_embedding_norm.weight"), None);
}

#[test]
fn every_layout_of_a_tower_gives_the_names_of_the_released_models() {
    for (name, expected) in [
        ("vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.vision_tower.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.vision_tower.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("vision_tower.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ("model.multi_modal_projector.mm_soft_emb_norm.weight", "multi_modal_projector.mm_soft_emb_norm.weight"),
        ("model.embed_vision.patch_ln1.weight", "vision_embedder.patch_ln1.weight"),
        ("model.embed_vision.pos_embedding", "vision_embedder.pos_embedding"),
        ("model.vision_embedder.pos_embedding", "vision_embedder.pos_embedding"),
        ("model.embed_vision.multimodal_embedder.embedding_projection.weight", "embed_vision.embedding_projection.weight"),
        ("model.embed_vision.embedding_projection.weight", "embed_vision.embedding_projection.weight"),
        ("model.audio_tower.output_proj.bias", "audio_tower.output_proj.bias"),
    ] {
        assert_eq!(tower_weight(name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(tower_weight("model.language_model.layers.0.mlp.up_proj.weight"), None);
}

#[test]
fn names_that_are_not_ours_have_no_position() {
    for name in ["layers.x.mlp.up_proj.weight", "layers.03.mlp.up_proj.weight", "layers.3.mlp.up_proj", "layers.3", "", "norm"] {
        assert_eq!(WeightPosition::from_hugging_face(GemmaArch::Gemma3, name), None, "{name}");
    }
    assert_eq!(WeightPosition::Layer(0, LayerWeight::QueryNorm).hugging_face(GemmaArch::Gemma2), None);
}

#[test]
fn stacked_matrices_have_a_name_each() {
    let keys = gguf_stack("gemma3n", "altup_proj.weight", 3).unwrap();
    assert_eq!(keys, ["altup_projections.0.weight", "altup_projections.1.weight", "altup_projections.2.weight"]);
    assert_eq!(gguf_stack("gemma3n", "blk.0.altup_router.weight", 3), None);
    assert_eq!(gguf_stack("gemma4", "altup_proj.weight", 3), None);
}

#[test]
fn tensors_of_projectors_are_the_weights_of_towers() {
    for (projector, name, key) in [
        (Projector::Siglip, "v.blk.26.attn_out.bias", "vision_tower.encoder.layers.26.self_attn.out_proj.bias"),
        (Projector::Siglip, "mm.input_projection.weight", "multi_modal_projector.mm_input_projection_weight"),
        (Projector::Vision4, "v.blk.3.attn_q.weight", "vision_tower.encoder.layers.3.self_attn.q_proj.linear.weight"),
        (Projector::Vision4, "v.blk.3.attn_q.input_max", "vision_tower.encoder.layers.3.self_attn.q_proj.input_max"),
        (Projector::Vision4, "v.std_bias", "vision_tower.std_bias"),
        (Projector::UnifiedVision, "v.patch_norm.3.bias", "vision_embedder.pos_norm.bias"),
        (Projector::UnifiedVision, "v.patch_embd.bias", "vision_embedder.patch_dense.bias"),
        (Projector::MobileNet, "v.blk.0.1.bn1.weight", "vision_tower.timm_model.blocks.0.1.bn1.weight"),
        (Projector::MobileNet, "mm.hard_emb_norm.weight", "embed_vision.hard_embedding_norm.weight"),
        (Projector::Audio4, "a.conv1d.1.norm.weight", "audio_tower.subsample_conv_projection.layer1.norm.weight"),
        (Projector::Audio4, "a.blk.0.conv_norm.weight", "audio_tower.layers.0.lconv1d.pre_layer_norm.weight"),
        (Projector::Audio3n, "a.pre_encode.out.weight", "audio_tower.subsample_conv_projection.input_proj_linear.weight"),
        (Projector::Audio3n, "a.blk.0.per_dim_scale", "audio_tower.conformer.0.attention.attn.per_dim_scale"),
        (Projector::UnifiedAudio, "mm.a.input_projection.weight", "embed_audio.embedding_projection.weight"),
    ] {
        assert_eq!(projector_weight(projector, name).map(|weight| weight.key).as_deref(), Some(key), "{name}");
    }
    for (projector, name) in [
        (Projector::Siglip, "v.blk.03.ln1.weight"),
        (Projector::Siglip, "v.blk.+3.ln1.weight"),
        (Projector::Siglip, "v.blk..ln1.weight"),
        (Projector::Siglip, "v.blk.3.ln1"),
        (Projector::Siglip, "mm.input_projection.bias"),
        (Projector::Vision4, "mm.a.input_projection.weight"),
        (Projector::Audio4, "a.blk.0.conv_dw.input_max"),
        (Projector::Audio4, "v.patch_embd.weight"),
        (Projector::MobileNet, "v.patch_embd.weight"),
    ] {
        assert_eq!(projector_weight(projector, name), None, "{name}");
    }
}
