//! llama.cpp's projector files (`mmproj`): towers that are those of the safetensors checkpoint, beside text in GGUF.

#[path = "mmproj/beside.rs"]
mod beside;
mod common;
#[path = "common/shown.rs"]
mod shown;
#[path = "common/talk.rs"]
mod talk;
#[path = "mmproj/text.rs"]
mod text;
#[path = "mmproj/wrong.rs"]
mod wrong;

use std::{path::PathBuf, sync::Arc};

use common::{
    files::read_gguf,
    gguf::Writer,
    multimodal::{CHECKPOINTS, LONGEST_PICTURE, Multimodal},
    open,
    oracle::worst,
};
use gemmaflow::{
    audio::{Audio, AudioLimits},
    checkpoint::{load_from_path, load_towers_from_path},
    gemma::{AudioConfig, ConformerKind, GemmaConfig, VisionConfig},
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    hearing::AudioEncoder,
    image::{Image, ImageLimits},
    prompt::{Modality, Prompt, SoftTokens},
    runtime::{Device, GpuContext, GpuOptions},
    vision::{TowerOptions, VisionEncoder},
};

/// The gate on soft tokens (docs/gemma.md).
const SOFT: f32 = 1e-4;

fn mmproj(oracle: &Multimodal) -> PathBuf {
    oracle.folder.join("mmproj.gguf")
}

/// The configuration as a text model's GGUF file has it: with ids, without towers.
fn text_alone(oracle: &Multimodal) -> GemmaConfig {
    let mut config = oracle.config.clone();
    config.multimodal.vision = None;
    config.multimodal.audio_tower = None;
    config.multimodal.hard_tokens.clear();
    config
}

/// The one tensor that a converter rounds, to f16, where it is f32 in the checkpoint.
const PROJECTION: &str = "multi_modal_projector.mm_input_projection_weight";

fn is_rounded(oracle: &Multimodal) -> bool {
    oracle.name == "gemma3-vision"
}

/// The checkpoint's tower with the projection as the converter rounds it, where it does.
fn as_converted(oracle: &Multimodal, gpu: Option<Arc<GpuContext>>) -> Option<VisionEncoder> {
    let mut weights = is_rounded(oracle).then(|| {
        oracle.towers(|key, _, values| {
            if key == PROJECTION {
                values.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
            }
        })
    })?;
    Some(VisionEncoder::from_loader(&oracle.config, &mut weights, gpu, TowerOptions::default()).unwrap())
}

/// The soft tokens of a case's pictures as they are expected: transformers', or where the converter rounds a tensor
/// those of the checkpoint with that tensor, whose tower is held against transformers elsewhere (`parity_towers`).
fn expected_pictures(oracle: &Multimodal, converted: Option<&VisionEncoder>, case: &str) -> Vec<f32> {
    match converted {
        Some(encoder) => pictures(oracle, encoder, case).iter().flat_map(|soft| soft.values().to_vec()).collect(),
        None => oracle.f32(&format!("{case}.vision.soft")),
    }
}

#[test]
fn every_weight_is_that_of_the_checkpoint() {
    for name in CHECKPOINTS {
        let oracle = Multimodal::open(name);
        let mut expected = load_towers_from_path(&oracle.folder).unwrap();
        let mut found = load_towers_from_path(mmproj(&oracle)).unwrap();
        assert_eq!(found.remaining_keys(), expected.remaining_keys(), "{name}");
        let mut largest = (0.0, String::new());
        for key in expected.remaining_keys() {
            let expected = expected.take(&key).unwrap();
            let found = found.take(&key).unwrap();
            assert_eq!(found.shape(), expected.shape(), "{name} {key}");
            let expected = expected.to_f32().unwrap();
            let error = worst(&found.to_f32().unwrap(), &expected);
            let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let allowed = match key.as_str() {
                // f16 has 11 bits, softplus and its inverse a few roundings of f32.
                key if is_rounded(&oracle) && key == PROJECTION => size / 2048.0,
                key if key.ends_with("per_dim_scale") => 4e-7 * size.max(1.0),
                // A bf16 gain less than 2⁻⁷ of 1 loses bits under it.
                key if key.ends_with("mm_soft_emb_norm.weight") => 2.0f32.powi(-24),
                // The converter's F16 of a bf16 checkpoint has no numbers below 6e-8.
                key if key.contains("input_proj") => 2.0f32.powi(-25),
                _ => 0.0,
            };
            assert!(error <= allowed, "{name} {key}: {error} of {size}, expected {allowed} at most");
            largest = if error > largest.0 { (error, key) } else { largest };
        }
        println!("{name:22} largest {:.1e} {}", largest.0, largest.1);
    }
}

/// The configuration is that of `config.json`, but for what no file says.
#[test]
fn the_towers_configuration_is_that_of_the_checkpoint() {
    for name in CHECKPOINTS {
        let oracle = Multimodal::open(name);
        let mut found = text_alone(&oracle).with_projector(mmproj(&oracle)).unwrap().multimodal;
        if let Some(VisionConfig::Gemma4(config)) = &mut found.vision {
            assert_eq!(std::mem::replace(&mut config.max_soft_tokens, LONGEST_PICTURE), 280, "{name}");
        }
        if let Some(VisionConfig::Unified(config)) = &mut found.vision {
            assert_eq!(std::mem::replace(&mut config.max_soft_tokens, LONGEST_PICTURE), 280, "{name}");
        }
        if let Some(AudioConfig::Conformer(config)) = &mut found.audio_tower
            && let ConformerKind::Gemma3n { soft_tokens, .. } = &mut config.kind
        {
            let theirs = if name == "gemma3n-audio" { 9 } else { 7 };
            assert_eq!(std::mem::replace(soft_tokens, theirs), 188, "{name}");
        }
        assert_eq!(found, oracle.config.multimodal, "{name}");
    }
}

fn image(oracle: &Multimodal, file: &str) -> Image {
    Image::from_bytes(&std::fs::read(oracle.folder.join(file)).unwrap(), &ImageLimits::default()).unwrap()
}

fn audio(oracle: &Multimodal, file: &str) -> Audio {
    Audio::from_bytes(&std::fs::read(oracle.folder.join(file)).unwrap(), &AudioLimits::default()).unwrap()
}

/// A case's files, none where a picture of it is cut in several.
fn files(oracle: &Multimodal, case: &str, kind: &str) -> Vec<String> {
    let case = oracle.case(case);
    let whole = case["image_options"]["do_pan_and_scan"] != true;
    let files = case[kind].as_array().into_iter().flatten().filter(|_| whole);
    files.map(|file| file.as_str().unwrap().to_string()).collect()
}

/// The soft tokens of a case's pictures, from their files.
fn pictures(oracle: &Multimodal, encoder: &VisionEncoder, case: &str) -> Vec<SoftTokens> {
    let fixed = matches!(oracle.config.multimodal.vision, Some(VisionConfig::Siglip(_) | VisionConfig::MobileNet(_)));
    let budget = oracle.case(case)["image_options"]["max_soft_tokens"].as_u64().unwrap_or(0) as usize;
    let encode = |file: &String| {
        let image = image(oracle, file);
        if fixed { encoder.encode(&image) } else { encoder.encode_within(&image, budget) }
    };
    files(oracle, case, "images").iter().map(|file| encode(file).unwrap()).collect()
}

/// The soft tokens of a case's clips, from their files.
fn sounds(oracle: &Multimodal, encoder: &AudioEncoder, case: &str) -> Vec<SoftTokens> {
    let clips: Vec<Audio> = files(oracle, case, "audios").iter().map(|file| audio(oracle, file)).collect();
    if clips.is_empty() { Vec::new() } else { encoder.encode_together(&clips).unwrap() }
}

/// The largest error of the soft tokens of pictures, behind which padding may be expected.
fn picture_error(found: &[SoftTokens], expected: &[f32]) -> f32 {
    let joined: Vec<f32> = found.iter().flat_map(|soft| soft.values().to_vec()).collect();
    worst(&joined, &expected[..joined.len()])
}

/// The largest error of a case's soft tokens of sounds against transformers', which are padded.
fn sound_error(oracle: &Multimodal, case: &str, found: &[SoftTokens]) -> f32 {
    let name = format!("{case}.audio.soft");
    let expected = oracle.f32(&name);
    let one: usize = oracle.shape(&name)[1..].iter().product();
    let masks = oracle.ids(&format!("{case}.input_features_mask"));
    let frames = masks.len() / found.len();
    // Frames of features, or rows of samples, that one soft token is of.
    let frames_a_token = match oracle.name {
        "gemma3n-audio" | "gemma3n-vision" => 16,
        "gemma4-audio" => 4,
        _ => 1,
    };
    let of_clip = |(at, soft): (usize, &SoftTokens)| {
        let valid = masks[at * frames..][..frames].iter().filter(|valid| **valid != 0).count();
        let compared = valid.div_ceil(frames_a_token) * soft.width();
        worst(&soft.values()[..compared], &expected[at * one..][..compared])
    };
    found.iter().enumerate().map(of_clip).fold(0.0, f32::max)
}

/// From pictures and clips to soft tokens, with towers of the projector's file alone.
#[test]
fn soft_tokens_are_those_of_transformers() {
    let devices: [(&str, Option<Arc<GpuContext>>); 2] = [("reference", None), ("gpu", Some(open(&GpuOptions::default())))];
    for (device, gpu) in devices {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let config = text_alone(&oracle);
            let converted = as_converted(&oracle, gpu.clone());
            let vision = VisionEncoder::from_path(&config, mmproj(&oracle), gpu.clone()).unwrap();
            let hearing = oracle.config.multimodal.audio_tower.is_some();
            let hearing = hearing.then(|| AudioEncoder::from_path(&config, mmproj(&oracle), gpu.clone()).unwrap());
            let mut compared = 0;
            // The kernels are shown elsewhere (parity_towers, parity_audio): on a device one case shows the weights.
            let cases = if gpu.is_some() { oracle.cases().into_iter().take(1).collect() } else { oracle.cases() };
            for case in cases {
                let mut check = |kind: &str, error: f32| {
                    println!("{device:10} {name:22} {case:6} {kind:6} {error:.1e}");
                    assert!(error < SOFT, "{device} {name} {case} {kind}: {error}");
                    compared += 1;
                };
                let seen = pictures(&oracle, &vision, &case);
                if !seen.is_empty() {
                    check("vision", picture_error(&seen, &expected_pictures(&oracle, converted.as_ref(), &case)));
                }
                let heard = hearing.as_ref().map(|hearing| sounds(&oracle, hearing, &case)).unwrap_or_default();
                if !heard.is_empty() {
                    check("audio", sound_error(&oracle, &case, &heard));
                }
            }
            assert!(compared > 0, "{name}");
        }
    }
}

/// The prompt of a case with soft tokens of one's own in the place of transformers' merged rows.
fn with_soft(prompt: &Prompt, pictures: &[SoftTokens], sounds: &[SoftTokens]) -> Prompt {
    let mut pictures = pictures.iter();
    let mut sounds = sounds.iter();
    let mut made = Prompt::new();
    let mut at = 0;
    for (start, soft) in prompt.soft_tokens() {
        made.push(&prompt.tokens()[at..start]);
        let own = if soft.modality() == Modality::Image { pictures.next() } else { sounds.next() }.unwrap();
        let width = soft.width();
        let rows = own.values()[..soft.len() * width].to_vec();
        made.push(SoftTokens::new(soft.modality(), soft.placeholder(), width, rows).unwrap());
        at = start + soft.len();
    }
    made.push(&prompt.tokens()[at..]);
    made
}

/// Text, picture and sound from two GGUF files, to logits at every position and to greedy text.
#[test]
fn text_and_towers_of_two_files_give_the_logits_of_transformers() {
    for name in ["gemma3-vision", "gemma4-vision", "gemma4-audio", "gemma3n-vision", "gemma3n-audio"] {
        let oracle = Multimodal::open(name);
        let folder = text::folder(&oracle);
        let model = folder.path().join("model.gguf");
        let config = GemmaConfig::near_weights(&model).unwrap();
        let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..GeneratorOptions::default() };
        let mut loader = load_from_path(&model).unwrap();
        let mut generator = GemmaGenerator::with_options(config.clone(), loader.as_mut(), Device::Cpu, options).unwrap();
        let vision = VisionEncoder::from_path(&config, &model, None).unwrap();
        let hearing = config.multimodal.audio_tower.is_some().then(|| AudioEncoder::from_path(&config, &model, None).unwrap());
        let converted = as_converted(&oracle, None);
        for case in oracle.cases().into_iter().filter(|case| oracle.has(&format!("{case}.inputs_embeds"))) {
            let seen = pictures(&oracle, &vision, &case);
            let heard = hearing.as_ref().map(|hearing| sounds(&oracle, hearing, &case)).unwrap_or_default();
            if seen.is_empty() && heard.is_empty() {
                continue;
            }
            let merged = oracle.merged_prompt(&case);
            // Before, so that the cache is that of the files' own prompt when text is generated.
            let expected = match &converted {
                Some(encoder) => {
                    let soft = pictures(&oracle, encoder, &case);
                    generator.recompute_all_logits(with_soft(&merged, &soft, &heard)).unwrap()
                }
                None => oracle.f32(&format!("{case}.logits")),
            };
            let logits = generator.all_logits(with_soft(&merged, &seen, &heard)).unwrap();
            let error = worst(&logits, &expected);
            println!("{name:22} {case:6} logits {error:.1e}");
            assert!(error < oracle.gate(), "{name} {case}: {error}");
            let expected = oracle.ids(&format!("{case}.gen_tokens"));
            let found: Vec<u32> = expected.iter().map(|_| generator.step_cached(&SampleOpts::greedy()).unwrap()).collect();
            assert_eq!(found, expected, "{name} {case}");
        }
    }
}

/// The projector's file of a checkpoint, to be changed.
fn stored(oracle: &Multimodal) -> Writer {
    read_gguf(&mmproj(oracle))
}
