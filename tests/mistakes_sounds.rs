//! Known mistakes of programs that let Gemma hear, planted one by one and noticed in the soft tokens.

mod common;

use common::{multimodal::Multimodal, oracle::worst};
use gemmaflow::{
    audio::{Audio, AudioFeatureExtractor, AudioLimits, Features, FloorRule},
    gemma::{AudioConfig, ConformerConfig, ConformerKind},
    hearing::{AudioEncoder, TowerOptions},
};

/// What may go wrong between a clip and its soft tokens.
struct Mistake {
    name: &'static str,
    checkpoints: &'static [&'static str],
    config: fn(&mut ConformerConfig),
    extractor: fn(&mut AudioFeatureExtractor),
    features: fn(&mut Features),
    /// Of the towers' weights, by their names.
    weight: fn(&str, &[usize], &mut [f32]),
}

const NONE: Mistake = Mistake {
    name: "none",
    checkpoints: &["gemma3n-audio", "gemma4-audio"],
    config: |_| (),
    extractor: |_| (),
    features: |_| (),
    weight: |_, _, _| (),
};

const MISTAKES: [Mistake; 14] = [
    Mistake { name: "full FFW steps", config: |config| config.residual_weight = 1.0, ..NONE },
    Mistake { name: "one more key", config: |config| config.attention_context += 1, ..NONE },
    Mistake { name: "one key less", config: |config| config.attention_context -= 1, ..NONE },
    Mistake { name: "no cap", config: |config| config.attention_logit_cap = 1e6, ..NONE },
    Mistake {
        name: "no relative positions",
        weight: |name, _, values| {
            if name.contains("relative_k_proj") || name.contains("pos_proj") {
                values.fill(0.0);
            }
        },
        ..NONE
    },
    Mistake {
        name: "k scaled otherwise",
        weight: |name, _, values| {
            if name.contains("k_proj") && !name.contains("relative") {
                values.iter_mut().for_each(|value| *value *= 1.9);
            }
        },
        ..NONE
    },
    Mistake {
        name: "convolution over later frames",
        weight: |name, _, values| {
            if name.contains("depthwise_conv1d") {
                values.chunks_mut(5).for_each(|taps| taps.reverse());
            }
        },
        ..NONE
    },
    Mistake {
        name: "convolutions' axes exchanged",
        weight: |name, _, values| {
            if name.contains("subsample_conv_projection") && name.ends_with("conv.weight") {
                values.chunks_mut(9).for_each(|taps| [(1, 3), (2, 6), (5, 7)].iter().for_each(|(a, b)| taps.swap(*a, *b)));
            }
        },
        ..NONE
    },
    Mistake {
        name: "GLU's halves exchanged",
        weight: |name, _, values| {
            if name.contains("linear_start") && name.ends_with("weight") {
                let half = values.len() / 2;
                values.rotate_left(half);
            }
        },
        ..NONE
    },
    Mistake {
        name: "no clips",
        checkpoints: &["gemma4-audio"],
        config: |config| {
            if let ConformerKind::Gemma4 { clipped_linears, .. } = &mut config.kind {
                *clipped_linears = false;
            }
        },
        ..NONE
    },
    Mistake {
        name: "power",
        checkpoints: &["gemma4-audio"],
        features: |features| {
            let power = |value: f32| ((value.exp() - 1e-3).powi(2) + 1e-3).ln();
            features.values.iter_mut().for_each(|value| *value = power(*value));
        },
        ..NONE
    },
    Mistake {
        name: "the other floor",
        checkpoints: &["gemma4-audio"],
        extractor: |extractor| extractor.floor_rule = FloorRule::Max,
        ..NONE
    },
    Mistake {
        name: "no preemphasis",
        checkpoints: &["gemma3n-audio"],
        extractor: |extractor| extractor.preemphasis = 0.0,
        ..NONE
    },
    Mistake {
        name: "no zeros before the clip",
        checkpoints: &["gemma4-audio"],
        extractor: |extractor| extractor.pad_left = 0,
        ..NONE
    },
];

/// The largest error of the soft tokens of a checkpoint's cases with one clip.
fn error(mistake: &Mistake, name: &'static str) -> f32 {
    let oracle = Multimodal::open(name);
    let mut config = oracle.config.clone();
    match config.multimodal.audio_tower.as_mut() {
        Some(AudioConfig::Conformer(conformer)) => (mistake.config)(conformer),
        other => panic!("{other:?}"),
    }
    let mut weights = oracle.towers(mistake.weight);
    let encoder = AudioEncoder::from_loader(&config, &mut weights, None, TowerOptions::default()).unwrap();
    let is_3n = name == "gemma3n-audio";
    let mut extractor = if is_3n { AudioFeatureExtractor::gemma3n() } else { AudioFeatureExtractor::gemma4() };
    (mistake.extractor)(&mut extractor);
    let file = oracle.case("one")["audios"][0].as_str().unwrap();
    let clip = Audio::from_bytes(&std::fs::read(oracle.folder.join(file)).unwrap(), &AudioLimits::default()).unwrap();
    let mut features = extractor.extract(clip.samples()).unwrap();
    (mistake.features)(&mut features);
    let valid = features.valid.iter().filter(|valid| **valid).count();
    let soft = encoder.encode_features(&features).unwrap();
    let expected = oracle.f32("one.audio.soft");
    let compared = (valid.div_ceil(if is_3n { 16 } else { 4 }) * soft.width()).min(expected.len());
    worst(&soft.values()[..compared], &expected[..compared])
}

#[test]
fn every_mistake_is_noticed() {
    // The gate of `parity_audio.rs`.
    const GATE: f32 = 1e-4;
    for name in NONE.checkpoints {
        let error = error(&NONE, name);
        assert!(error < GATE, "{name}: {error}");
    }
    for mistake in MISTAKES {
        for name in mistake.checkpoints {
            let error = error(&mistake, name);
            println!("{:32} {name:16} {error:.1e}", mistake.name);
            assert!(error > 10.0 * GATE, "{} {name}: {error}", mistake.name);
        }
    }
}
