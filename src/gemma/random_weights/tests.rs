//! Random weights are complete for every released shape, and a seed is the whole recipe.

use super::*;
use crate::{
    gemma::{AudioConfig, GemmaFlow, VisionConfig},
    weights::WeightLoader,
};

#[test]
fn every_released_shape_is_complete() {
    for name in GemmaConfig::preset_names() {
        let mut config = GemmaConfig::preset(name).unwrap();
        config.effective_num_layers = Some(2);
        let mut weights = random_weights(&config, DType::BF16, 1).unwrap();
        let flow = GemmaFlow::new(&config);
        let flow = if config.use_bidirectional_attention { flow.sentence_vectors() } else { flow.lm_head() };
        flow.build(&mut weights).unwrap();
        assert!(weights.is_empty(), "{name}: {:?}", weights.remaining_keys());
    }
}

#[test]
fn tensors_differ_and_a_seed_is_the_whole_recipe() {
    let config = GemmaConfig::tiny_test();
    let first =
        |seed, key: &str| random_weights(&config, DType::F32, seed).unwrap().take(key).unwrap().to_f32().unwrap()[..8].to_vec();
    let query = "layers.0.self_attn.q_proj.weight";
    assert_eq!(first(1, query), first(1, query));
    assert_ne!(first(1, query), first(2, query));
    assert_ne!(first(1, query), first(1, "layers.1.self_attn.q_proj.weight"));
    assert!(random_weights(&config, DType::U32, 0).is_err());
}

/// The weights are those that the towers of released models ask for, and no more.
#[test]
fn towers_take_all_their_weights() {
    for name in ["gemma-3-4b", "gemma-3n-e2b", "gemma-4-e2b", "gemma-4-31b"] {
        let text = GemmaConfig::preset(name).unwrap();
        let mut vision = VisionConfig::preset(name).unwrap();
        match &mut vision {
            VisionConfig::Siglip(config) => config.num_hidden_layers = 2,
            VisionConfig::Gemma4(config) => config.num_hidden_layers = 2,
            VisionConfig::MobileNet(_) => {}
            _ => panic!("{name} has another tower"),
        }
        let mut weights = random_vision_weights(&vision, text.hidden_size, DType::BF16, 1).unwrap();
        vision.flow(&text, 280).unwrap().build(&mut weights).unwrap();
        assert!(weights.is_empty(), "{name}: {:?}", weights.remaining_keys());
    }
    for name in ["gemma-3n-e2b", "gemma-4-e2b"] {
        let text = GemmaConfig::preset(name).unwrap();
        let mut audio = AudioConfig::preset(name).unwrap();
        let AudioConfig::Conformer(config) = &mut audio else { panic!("{name} has another tower") };
        config.num_hidden_layers = 2;
        let mut weights = random_audio_weights(&audio, text.hidden_size, DType::BF16, 1).unwrap();
        audio.flow(text.hidden_size, 64).unwrap().build(&mut weights).unwrap();
        assert!(weights.is_empty(), "{name}: {:?}", weights.remaining_keys());
    }
    let other = VisionConfig::Unsupported("another".into());
    assert!(matches!(random_vision_weights(&other, 64, DType::BF16, 1), Err(Error::Unsupported(_))));
}
