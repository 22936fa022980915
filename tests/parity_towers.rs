//! Vision towers against transformers, stage by stage, on the reference and on the GPU. Pixels are transformers' own.

mod common;

use common::{
    cooperative, half,
    multimodal::{LONGEST_PICTURE, Multimodal},
    open,
    oracle::worst,
};
use gemmaflow::{
    checkpoint::{load_from_path, load_towers_from_path},
    gemma::VisionConfig,
    generate::{GemmaGenerator, GeneratorOptions},
    image::Patches,
    runtime::{Device, GpuContext, GpuOptions},
    vision::{TowerOptions, VisionEncoder},
};
use std::sync::Arc;

/// Checkpoints with a tower that is computed.
const CHECKPOINTS: [&str; 7] = [
    "gemma3-vision",
    "gemma3-vision-bf16",
    "gemma3n-vision",
    "gemma4-audio",
    "gemma4-e-vision-bf16",
    "gemma4-unified",
    "gemma4-vision",
];

/// Most soft tokens of a picture in the checkpoints of Gemma 4.
const BUDGET: usize = 70;

/// Gates on a tower's last states and on soft tokens (docs/gemma.md).
const TOWER: f32 = 2e-4;
const SOFT: f32 = 1e-4;

/// The pictures of a case, as patches, each with its number of soft tokens.
fn pictures(oracle: &Multimodal, case: &str) -> Vec<Patches> {
    let name = format!("{case}.pixel_values");
    if !oracle.has(&name) {
        return Vec::new();
    }
    let shape = oracle.shape(&name);
    let values = oracle.f32(&name);
    let one = shape[1..].iter().product();
    values
        .chunks(one)
        .enumerate()
        .map(|(at, values)| match oracle.config.multimodal.vision.as_ref().unwrap() {
            VisionConfig::Siglip(config) => in_patches(values, config.image_size, config.patch_size),
            VisionConfig::MobileNet(config) => whole(values, config.image_size),
            _ => placed(oracle, case, at, shape[1], values),
        })
        .collect()
}

/// A picture [3, S, S] as patches, each channel, row, column.
fn in_patches(values: &[f32], size: usize, patch: usize) -> Patches {
    let grid = size / patch;
    let mut patches = Vec::new();
    for (row, column) in (0..grid * grid).map(|at| (at / grid, at % grid)) {
        for (channel, y) in (0..3 * patch).map(|at| (at / patch, at % patch)) {
            let start = (channel * size + row * patch + y) * size + column * patch;
            patches.extend(&values[start..start + patch]);
        }
    }
    Patches { values: patches, rows: grid, columns: grid }
}

/// A picture [3, S, S] as one patch, row, column, channel.
fn whole(values: &[f32], size: usize) -> Patches {
    let places = size * size;
    let values = (0..places).flat_map(|at| [0, 1, 2].map(|channel| values[channel * places + at])).collect();
    Patches { values, rows: 1, columns: 1 }
}

/// Patches with the places of transformers, without its padding.
fn placed(oracle: &Multimodal, case: &str, at: usize, most: usize, values: &[f32]) -> Patches {
    let places = oracle.ids(&format!("{case}.image_position_ids"));
    let places: Vec<[i32; 2]> = places.chunks(2).skip(at * most).take(most).map(|p| [p[0] as i32, p[1] as i32]).collect();
    let live = places.iter().filter(|place| place[0] >= 0).count();
    let columns = places.iter().map(|place| place[0] + 1).max().unwrap() as usize;
    let row_major = |at: usize| [(at % columns) as i32, (at / columns) as i32];
    assert!((0..live).all(|at| places[at] == row_major(at)), "patches are row-major");
    Patches { values: values[..live * (values.len() / most)].to_vec(), rows: live / columns, columns }
}

fn encoder(oracle: &Multimodal, gpu: Option<Arc<GpuContext>>, options: TowerOptions) -> VisionEncoder {
    let mut loader = load_towers_from_path(&oracle.folder).unwrap();
    VisionEncoder::from_loader(&oracle.config, loader.as_mut(), gpu, options).unwrap()
}

/// The budget of a picture: the towers of Gemma 3 and 3n have one number of soft tokens.
fn budget(encoder: &VisionEncoder, oracle: &Multimodal) -> usize {
    let fixed = matches!(oracle.config.multimodal.vision, Some(VisionConfig::Siglip(_) | VisionConfig::MobileNet(_)));
    if fixed { encoder.max_soft_tokens() } else { BUDGET }
}

/// Soft tokens of every picture of every case.
#[test]
fn soft_tokens_are_those_of_transformers() {
    for (device, context) in [("reference", None), ("gpu", Some(open(&GpuOptions::default())))] {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let encoder = encoder(&oracle, context.clone(), TowerOptions::exact());
            for case in oracle.cases() {
                let mut soft = Vec::new();
                for picture in pictures(&oracle, &case) {
                    soft.extend(encoder.encode_patches(&picture, budget(&encoder, &oracle)).unwrap().values());
                }
                if soft.is_empty() {
                    continue;
                }
                // Gemma 4 12B's are padded to the budget.
                let expected = oracle.f32(&format!("{case}.vision.soft"));
                let error = worst(&soft, &expected[..soft.len()]);
                println!("{device:10} {name:22} {case:6} {error:.1e}");
                assert!(error < SOFT, "{device} {name} {case}: {error}");
            }
        }
    }
}

/// Towers as they are computed when nobody asks for anything, and logits of what they see. Those of Gemma 4 are not
/// rounded.
#[test]
fn pictures_stay_within_the_gate_of_f16_by_default_where_there_are_cooperative_matrices() {
    let Some(context) = cooperative() else { return };
    for name in CHECKPOINTS {
        let oracle = Multimodal::open(name);
        let gate = half::gate(oracle.config.arch);
        let encoder = encoder(&oracle, Some(context.clone()), TowerOptions::default());
        let rounded = matches!(oracle.config.multimodal.vision, Some(VisionConfig::Siglip(_) | VisionConfig::MobileNet(_)));
        let mut loader = load_from_path(&oracle.folder).unwrap();
        let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..GeneratorOptions::default() };
        let device = Device::Context(context.clone());
        let mut generator = GemmaGenerator::with_options(oracle.config.clone(), loader.as_mut(), device, options).unwrap();
        for case in oracle.cases() {
            let encoded = |picture| encoder.encode_patches(&picture, budget(&encoder, &oracle)).unwrap();
            let soft: Vec<f32> = pictures(&oracle, &case).into_iter().flat_map(|p| encoded(p).values().to_vec()).collect();
            if soft.is_empty() {
                continue;
            }
            let expected = &oracle.f32(&format!("{case}.vision.soft"))[..soft.len()];
            let share = half::share(&soft, expected);
            let largest = worst(&soft, expected);
            println!("{name:22} {case:6} rms {share:.1e} of the soft tokens', largest {largest:.1e}");
            assert!(share < 2e-3, "{name} {case}: {share}");
            assert_eq!(largest > SOFT, rounded, "{name} {case}: {largest}");
            let sounds = oracle.case(&case)["audios"].as_array().is_some_and(|sounds| !sounds.is_empty());
            if !sounds && oracle.has(&format!("{case}.inputs_embeds")) {
                let found = generator.recompute_all_logits(oracle.prompt_with(&case, &soft)).unwrap();
                let expected = oracle.f32(&format!("{case}.logits"));
                half::within(gate, &format!("{name:22} {case:6}"), &found, &expected, oracle.config.vocab_size);
            }
        }
    }
}

/// The first picture of each checkpoint, layer by layer.
#[test]
fn every_stage_is_that_of_transformers() {
    for (device, context) in [("reference", None), ("gpu", Some(open(&GpuOptions::default())))] {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let case = oracle.cases().into_iter().find(|case| oracle.has(&format!("{case}.pixel_values"))).unwrap();
            let encoder = encoder(&oracle, context.clone(), TowerOptions::exact());
            let picture = &pictures(&oracle, &case)[0];
            let budget = budget(&encoder, &oracle);
            let layers = (0..).map(|n| (format!("vision.layer_out.{n}"), format!("vision.layer.{n}.output")));
            let layers = layers.take_while(|(theirs, _)| oracle.has(&format!("{case}.{theirs}")));
            let named =
                ["vision.embeddings", "vision.patch_dense", "vision.tower"].map(|name| (name.to_string(), name.to_string()));
            let stages: Vec<_> =
                named.into_iter().chain(layers).filter(|(theirs, _)| oracle.has(&format!("{case}.{theirs}"))).collect();
            assert!(!stages.is_empty(), "{name} {case} has no stages");
            let labels: Vec<&str> = stages.iter().map(|(_, ours)| ours.as_str()).collect();
            let outputs = encoder.run(picture, budget, &labels).unwrap();
            for (theirs, ours) in &stages {
                let (_, value) = outputs.iter().find(|(name, _)| name == ours).unwrap();
                let expected = oracle.f32(&format!("{case}.{theirs}"));
                let width = *value.shape.last().unwrap();
                let found = in_their_order(&oracle, picture, &value.to_f32().unwrap(), width);
                let rows = found.len().min(expected.len());
                let error = worst(&found[..rows], &expected[..rows]);
                println!("{device:10} {name:22} {case:6} {theirs:22} {error:.1e}");
                assert!(error < TOWER, "{device} {name} {case} {theirs}: {error}");
            }
        }
    }
}

/// Rows of patches in row-major order, without padding; rows of soft tokens as they are.
fn in_their_order(oracle: &Multimodal, picture: &Patches, values: &[f32], width: usize) -> Vec<f32> {
    let patches = picture.rows * picture.columns;
    if let Some(VisionConfig::MobileNet(config)) = oracle.config.multimodal.vision {
        // Theirs is [E, t, t].
        let tokens = config.soft_tokens_per_image;
        return (0..width * tokens).map(|at| values[at % tokens * width + at / tokens]).collect();
    }
    let Some(VisionConfig::Gemma4(config)) = oracle.config.multimodal.vision else { return values[..patches * width].to_vec() };
    let side = config.pooling_kernel_size;
    if values.len() / width < patches {
        return values[..patches / (side * side) * width].to_vec();
    }
    let place = |at: usize| {
        let [row, column] = [at / picture.columns, at % picture.columns];
        let square = row / side * (picture.columns / side) + column / side;
        square * side * side + row % side * side + column % side
    };
    (0..patches).flat_map(|at| values[place(at) * width..(place(at) + 1) * width].to_vec()).collect()
}
