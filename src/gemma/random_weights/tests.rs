//! Random weights are complete for every released shape, and a seed is the whole recipe.

use super::*;
use crate::{gemma::GemmaFlow, weights::WeightLoader};

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
