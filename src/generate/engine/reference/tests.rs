use std::path::Path;

use safetensors::SafeTensors;

use super::*;
use crate::{checkpoint::load_from_path, gemma::GemmaConfig, generate::Drafter, profile::CompileProfile};

/// A drafter's logits and hidden states, step by step over the target's keys and values, as transformers has them.
#[test]
fn a_drafter_computes_what_transformers_does() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints");
    let target = data.join("gemma4-target");
    let config = GemmaConfig::from_file(&target).unwrap();
    let model = ModelGraphs::new(config.clone(), load_from_path(&target).unwrap().as_mut(), None).unwrap();
    let mut engine = ReferenceEngine::new(
        model.into(),
        Profiles::new(CompileProfile::gemma_prefill(), CompileProfile::gemma_decode()).unwrap(),
        Some(64),
    )
    .unwrap();
    for name in ["gemma4-assistant", "gemma4-assistant-ordered"] {
        check_drafter(&mut engine, &config, &data.join(name));
    }
}

fn check_drafter(engine: &mut ReferenceEngine, config: &GemmaConfig, folder: &Path) {
    let drafter = Drafter::from_path(folder).unwrap().model().unwrap().clone();
    engine.set_drafter(&drafter).unwrap();
    let bytes = std::fs::read(folder.join("oracle.safetensors")).unwrap();
    let oracle = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(oracle.tensor(name).unwrap().data()) };
    let tokens = |name: &str| -> Vec<u32> { bytemuck::pod_collect_to_vec(oracle.tensor(name).unwrap().data()) };
    for prompt in ["p2", "p7", "p33"] {
        let of = |what: &str| format!("{prompt}.{what}");
        let text = tokens(&of("input_ids"));
        let logits = engine.execute(RunTokens::text(&text, 0), true, Outputs::Last).unwrap();
        assert!(worst(&logits, numbers(&of("target_logits")).rchunks(config.vocab_size).next().unwrap()) < 1e-3);
        assert!(worst(&engine.hidden.values, &numbers(&of("target_hidden_last"))) < 1e-3, "{prompt}: what it goes on from");
        let built = drafter.built(&engine.model, DType::F32).unwrap();
        let mut token = tokens(&of("first_token"))[0];
        let mut hidden = engine.hidden.values.clone();
        let expected = numbers(&of("draft_logits"));
        let states = numbers(&of("draft_hidden"));
        let drafted = tokens(&of("draft_tokens"));
        for (i, (expected, state)) in expected.chunks(config.vocab_size).zip(states.chunks(config.hidden_size)).enumerate() {
            let outputs = engine.outputs(&built, true, RunTokens::text(&[token], text.len() - 1), &hidden).unwrap();
            assert!(worst(&outputs[0], state) < 1e-3, "{prompt} step {i}: hidden state");
            match &drafter.order {
                None => assert!(worst(&outputs[1], expected) < 1e-3, "{prompt} step {i}: logits"),
                Some(order) => {
                    // transformers has logits of all tokens: others than those of the chosen centroids are all the
                    // least less 1.
                    let least = expected.iter().copied().fold(f32::INFINITY, f32::min);
                    let mut theirs: Vec<f32> = expected.iter().copied().filter(|logit| *logit > least + 0.5).collect();
                    let mut ours = outputs[1].clone();
                    theirs.sort_by(f32::total_cmp);
                    ours.sort_by(f32::total_cmp);
                    assert!(worst(&ours, &theirs) < 1e-3, "{prompt} step {i}: logits of the chosen tokens");
                    assert_eq!(order.likeliest(&outputs[1], &outputs[2]), Some(drafted[i]), "{prompt} step {i}");
                }
            }
            (token, hidden) = (drafted[i], outputs[0].clone());
        }
    }
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
