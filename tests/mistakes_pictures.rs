//! Known mistakes of programs that show pictures to Gemma, planted one by one and noticed in the logits.

mod common;

use common::{
    multimodal::{LONGEST_PICTURE, Multimodal},
    oracle::worst,
};
use gemmaflow::{
    checkpoint::load_from_path,
    gemma::{BidirectionalPictures, GemmaConfig, VisionConfig},
    generate::{GemmaGenerator, GeneratorOptions},
    image::{Filter, Image, ImageLimits, ImageProcessor, Patches},
    prompt::{Modality, Prompt, SoftTokens},
    runtime::Device,
    vision::{TowerOptions, VisionEncoder},
};

/// What may go wrong between a picture and the logits.
struct Mistake {
    name: &'static str,
    checkpoints: &'static [&'static str],
    config: fn(&mut GemmaConfig),
    processor: fn(&mut ImageProcessor),
    patches: fn(&mut Patches),
    /// Of the towers' weights, by their names and shapes.
    weight: fn(&str, &[usize], &mut [f32]),
    soft: fn(&SoftTokens) -> SoftTokens,
}

const NONE: Mistake = Mistake {
    name: "none",
    checkpoints: &["gemma3-vision", "gemma3n-vision", "gemma4-vision", "gemma4-e-vision-bf16", "gemma4-unified"],
    config: |_| (),
    processor: |_| (),
    patches: |_| (),
    weight: |_, _, _| (),
    soft: SoftTokens::clone,
};

fn changed(soft: &SoftTokens, modality: Modality, change: impl Fn(f32) -> f32) -> SoftTokens {
    let values = soft.values().iter().map(|value| change(*value)).collect();
    SoftTokens::new(modality, soft.placeholder(), soft.width(), values).unwrap()
}

fn gemma4(config: &mut GemmaConfig) -> &mut gemmaflow::gemma::Gemma4VisionConfig {
    match config.multimodal.vision.as_mut() {
        Some(VisionConfig::Gemma4(vision)) => vision,
        other => panic!("{other:?}"),
    }
}

const MISTAKES: [Mistake; 22] = [
    Mistake {
        name: "causal",
        checkpoints: &["gemma3-vision", "gemma4-vision", "gemma4-unified"],
        soft: |soft| changed(soft, Modality::Audio, |value| value),
        ..NONE
    },
    Mistake {
        name: "bidirectional in sliding layers only",
        checkpoints: &["gemma3-vision"],
        config: |config| config.bidirectional_pictures = BidirectionalPictures::SlidingLayers,
        ..NONE
    },
    Mistake {
        name: "bidirectional in full layers too",
        checkpoints: &["gemma4-vision", "gemma4-unified"],
        config: |config| config.bidirectional_pictures = BidirectionalPictures::EveryLayer,
        ..NONE
    },
    Mistake {
        name: "bidirectional in the E-series",
        checkpoints: &["gemma4-e-vision-bf16"],
        config: |config| config.bidirectional_pictures = BidirectionalPictures::SlidingLayers,
        ..NONE
    },
    Mistake {
        name: "soft tokens times sqrt(H)",
        soft: |soft| changed(soft, Modality::Image, |value| value * (soft.width() as f32).sqrt()),
        ..NONE
    },
    Mistake { name: "another filter", processor: |processor| processor.filter = other(processor.filter), ..NONE },
    Mistake {
        name: "x and y swapped",
        checkpoints: &["gemma4-vision", "gemma4-e-vision-bf16", "gemma4-unified"],
        patches: |patches| std::mem::swap(&mut patches.rows, &mut patches.columns),
        ..NONE
    },
    Mistake {
        name: "channels exchanged",
        patches: |patches| patches.values.chunks_mut(3).for_each(|pixel| pixel.swap(0, 2)),
        ..NONE
    },
    Mistake {
        name: "no 2x-1",
        checkpoints: &["gemma4-vision", "gemma4-e-vision-bf16"],
        patches: |patches| patches.values.iter_mut().for_each(|value| *value = 0.5 * *value + 0.5),
        ..NONE
    },
    Mistake {
        name: "no clips",
        checkpoints: &["gemma4-e-vision-bf16"],
        config: |config| gemma4(config).clipped_linears = false,
        ..NONE
    },
    Mistake {
        name: "no standardize",
        checkpoints: &["gemma4-vision"],
        config: |config| gemma4(config).standardize = false,
        ..NONE
    },
    Mistake {
        name: "rope of the text",
        checkpoints: &["gemma4-vision", "gemma4-e-vision-bf16"],
        config: |config| gemma4(config).rope_theta = 10_000.0,
        ..NONE
    },
    Mistake {
        name: "scale D^-1/2",
        checkpoints: &["gemma4-vision", "gemma4-e-vision-bf16"],
        weight: |name, _, values| {
            if name.ends_with("q_norm.weight") {
                let root = (values.len() as f32).sqrt();
                values.iter_mut().for_each(|value| *value /= root);
            }
        },
        ..NONE
    },
    Mistake {
        name: "PLE row of the placeholder",
        checkpoints: &["gemma4-e-vision-bf16"],
        config: |config| config.pad_token_id = config.multimodal.image.map(|ids| ids.soft),
        ..NONE
    },
    Mistake {
        name: "no position embedding",
        checkpoints: &["gemma3-vision", "gemma4-vision", "gemma4-e-vision-bf16", "gemma4-unified"],
        weight: |name, _, values| {
            if name.contains("position_embedding") || name.contains("pos_embedding") {
                values.fill(0.0);
            }
        },
        ..NONE
    },
    Mistake {
        name: "no 1+ in soft norm",
        checkpoints: &["gemma3-vision"],
        weight: |name, _, values| {
            if name.ends_with("mm_soft_emb_norm.weight") {
                values.iter_mut().for_each(|value| *value -= 1.0);
            }
        },
        ..NONE
    },
    Mistake {
        name: "no bias after the tower",
        checkpoints: &["gemma3-vision"],
        weight: |name, _, values| {
            if name.ends_with("post_layernorm.bias") {
                values.fill(0.0);
            }
        },
        ..NONE
    },
    Mistake {
        name: "values from -1 to 1",
        checkpoints: &["gemma3n-vision"],
        patches: |patches| patches.values.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0),
        ..NONE
    },
    // The same as below and to the right of a picture that is turned by half, with kernels that are.
    Mistake {
        name: "padding above and left",
        checkpoints: &["gemma3n-vision"],
        patches: |patches| {
            patches.values.reverse();
            patches.values.chunks_mut(3).for_each(<[f32]>::reverse);
        },
        weight: |_, shape, values| {
            if let [_, _, rows, columns] = shape {
                values.chunks_mut(rows * columns).for_each(<[f32]>::reverse);
            }
        },
        soft: |soft| {
            let rows: Vec<f32> = soft.values().chunks(soft.width()).rev().flatten().copied().collect();
            SoftTokens::new(Modality::Image, soft.placeholder(), soft.width(), rows).unwrap()
        },
        ..NONE
    },
    Mistake {
        name: "no layer scale",
        checkpoints: &["gemma3n-vision"],
        weight: |name, _, values| {
            if name.ends_with("layer_scale.gamma") {
                values.fill(1.0);
            }
        },
        ..NONE
    },
    // The two stages have 24 and 32 channels.
    Mistake {
        name: "msfa order",
        checkpoints: &["gemma3n-vision"],
        weight: |name, _, values| {
            if name.ends_with("msfa.ffn.pw_exp.conv.weight") {
                values.chunks_mut(24 + 32).for_each(|row| row.rotate_left(32));
            }
        },
        ..NONE
    },
    Mistake {
        name: "hard tokens from embed_tokens",
        checkpoints: &["gemma3n-vision"],
        config: |config| config.multimodal.hard_tokens.clear(),
        ..NONE
    },
];

fn other(filter: Filter) -> Filter {
    if filter == Filter::Bilinear { Filter::Bicubic } else { Filter::Bilinear }
}

/// The largest error of the logits of the first case.
fn error(oracle: &Multimodal, mistake: &Mistake) -> f32 {
    let mut config = oracle.config.clone();
    (mistake.config)(&mut config);
    let case = oracle.case("one");
    let budget = case["image_options"]["max_soft_tokens"].as_u64().unwrap_or(0) as usize;
    let bytes = std::fs::read(oracle.folder.join(case["images"][0].as_str().unwrap())).unwrap();
    let image = Image::from_bytes(&bytes, &ImageLimits::default()).unwrap();
    let mut processor = ImageProcessor::new(config.multimodal.vision.as_ref().unwrap(), budget).unwrap();
    (mistake.processor)(&mut processor);
    let mut patches = processor.patches(&image).unwrap();
    (mistake.patches)(&mut patches);
    let mut weights = oracle.towers(mistake.weight);
    let encoder = VisionEncoder::from_loader(&config, &mut weights, None, TowerOptions::default()).unwrap();
    let budget = if budget == 0 { encoder.max_soft_tokens() } else { budget };
    let soft = (mistake.soft)(&encoder.encode_patches(&patches, budget).unwrap());

    let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..GeneratorOptions::default() };
    let mut loader = load_from_path(&oracle.folder).unwrap();
    let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), Device::Cpu, options).unwrap();
    let ids = oracle.ids("one.input_ids");
    let start = ids.iter().position(|id| *id == soft.placeholder()).unwrap();
    let end = start + soft.len();
    let prompt = Prompt::from(&ids[..start]).then(soft).then(&ids[end..]);
    worst(&generator.recompute_all_logits(prompt).unwrap(), &oracle.f32("one.logits"))
}

#[test]
fn every_mistake_is_noticed() {
    for mistake in [NONE].iter().chain(&MISTAKES) {
        for name in mistake.checkpoints.iter().copied() {
            let oracle = Multimodal::open(name);
            let error = error(&oracle, mistake);
            println!("{:38} {name:22} {error:.1e}", mistake.name);
            let noticed = error > 20.0 * oracle.gate();
            assert_eq!(noticed, mistake.name != "none", "{} {name}: {error}", mistake.name);
        }
    }
}
