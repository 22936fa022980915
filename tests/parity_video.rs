//! Videos of Gemma 4 against transformers: pixels, the ids of a turn that shows them, logits at every position, and
//! greedy text. Frames come from their files (tests/data/make_video.py).

mod common;
#[path = "parity_video/parts.rs"]
mod parts;
#[path = "common/program.rs"]
mod program;

use std::{collections::HashMap, fs, path::Path, time::Duration};

use common::{
    multimodal::LONGEST_PICTURE,
    oracle::{WIDE_GATE, data, worst},
};
use gemmaflow::{
    checkpoint::load_from_path,
    conversation::Model,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    image::{Image, ImageLimits, ImageProcessor},
    prompt::{Modality, Prompt},
    runtime::Device,
    text::{ChatFormat, Message, Part, Tokenizer},
};
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// Most soft tokens of a frame.
const BUDGET: usize = 70;

/// The control tokens that the processor replaces.
const MEDIA: [&str; 2] = ["<|image|>", "<|video|>"];

struct Oracle {
    cases: Vec<Value>,
    tensors: HashMap<String, Vec<u8>>,
}

impl Oracle {
    fn open() -> Self {
        let json: Value = serde_json::from_slice(&fs::read(data("video/video.json")).unwrap()).unwrap();
        let bytes = fs::read(data("video/video.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect();
        Self { cases: json["cases"].as_array().unwrap().clone(), tensors }
    }

    fn bytes(&self, case: &Value, name: &str) -> &[u8] {
        &self.tensors[&format!("{}.{name}", case["name"].as_str().unwrap())]
    }

    fn ids(&self, case: &Value, name: &str) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(self.bytes(case, name))
    }

    fn logits(&self, case: &Value) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.bytes(case, "logits"))
    }
}

fn image(file: &Value) -> Image {
    let bytes = fs::read(data("video").join(file.as_str().unwrap())).unwrap();
    Image::from_bytes(&bytes, &ImageLimits::default()).unwrap()
}

fn frames(video: &Value) -> Vec<(Duration, Image)> {
    let frame = |frame: &Value| (Duration::from_secs_f64(frame["seconds"].as_f64().unwrap()), image(&frame["image"]));
    video.as_array().unwrap().iter().map(frame).collect()
}

/// The case's checkpoint with its tokenizer.
fn folder(case: &Value) -> TempDir {
    let name = case["model"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data("multimodal").join(name).join(file), folder.path().join(file)).unwrap();
    }
    fs::copy(data("video").join(format!("{name}.tokenizer.json")), folder.path().join("tokenizer.json")).unwrap();
    folder
}

/// The user's turn, its pictures and videos in the places of the control tokens.
fn message(model: &Model, case: &Value) -> Message {
    let mut pictures = case["images"].as_array().unwrap().iter();
    let mut videos = case["videos"].as_array().unwrap().iter();
    let mut parts: Vec<Part> = Vec::new();
    let mut text = case["text"].as_str().unwrap();
    while let Some(at) = MEDIA.iter().filter_map(|name| text.find(name)).min() {
        parts.push(text[..at].trim().into());
        let is_picture = text[at..].starts_with(MEDIA[0]);
        text = &text[at + MEDIA[usize::from(!is_picture)].len()..];
        parts.push(if is_picture {
            model.picture_within(&image(pictures.next().unwrap()), BUDGET).unwrap()
        } else {
            model.video(&frames(videos.next().unwrap())).unwrap()
        });
    }
    parts.push(text.trim().into());
    Message::user(parts)
}

fn prompt(folder: &Path, device: &Device, case: &Value) -> Prompt {
    let model = Model::open(folder, device.clone(), GeneratorOptions::default()).unwrap();
    // Of this format the model's turn opens bare, as in the cases.
    ChatFormat::Gemma4E.prompt(model.tokenizer(), &[message(&model, case)], true).unwrap()
}

fn generator(folder: &Path, device: &Device, options: GeneratorOptions) -> GemmaGenerator {
    let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..options };
    let config = GemmaConfig::from_file(folder).unwrap();
    GemmaGenerator::with_options(config, load_from_path(folder).unwrap().as_mut(), device.clone(), options).unwrap()
}

/// The first frame of each case's first video: its levels of 0 to 255.
#[test]
fn pixels_are_those_of_transformers() {
    let oracle = Oracle::open();
    for case in &oracle.cases {
        let folder = folder(case);
        let config = GemmaConfig::from_file(folder.path()).unwrap();
        let processor = ImageProcessor::new(config.multimodal.vision.as_ref().unwrap(), BUDGET).unwrap();
        let patches = processor.patches(&frames(&case["videos"][0])[0].1).unwrap();
        let found: Vec<u8> = patches.values.iter().map(|value| (value * 255.0).round() as u8).collect();
        let expected = oracle.bytes(case, "pixel_values_videos");
        assert_eq!(found.len(), expected.len(), "{}", case["name"]);
        let differ = found.iter().zip(expected).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{}: of {} levels", case["name"], found.len());
    }
}

/// Also which of them are soft tokens: transformers' types are 1 of pictures and 2 of videos.
#[test]
fn ids_are_those_of_the_processor() {
    let oracle = Oracle::open();
    for case in &oracle.cases {
        let folder = folder(case);
        let prompt = prompt(folder.path(), &Device::Cpu, case);
        let tokenizer = Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        assert_eq!(prompt.tokens(), oracle.ids(case, "input_ids"), "{}", case["name"]);
        let mut types = vec![0; prompt.len()];
        for (start, soft) in prompt.soft_tokens() {
            assert_eq!(soft.modality(), Modality::Image);
            let is_video = Some(soft.placeholder()) == tokenizer.special_id(MEDIA[1]);
            types[start..start + soft.len()].fill(1 + u32::from(is_video));
        }
        assert_eq!(types, oracle.ids(case, "mm_token_type_ids"), "{}", case["name"]);
    }
}

/// In one pass, and through the cache in chunks that frames widen.
#[test]
fn logits_are_those_of_transformers() {
    let oracle = Oracle::open();
    for device in [Device::Cpu, Device::Gpu] {
        for case in &oracle.cases {
            let folder = folder(case);
            let prompt = prompt(folder.path(), &device, case);
            let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
            let mut generator = generator(folder.path(), &device, options);
            let expected = oracle.logits(case);
            let whole = worst(&generator.recompute_all_logits(&prompt).unwrap(), &expected);
            let chunked = worst(&generator.all_logits(&prompt).unwrap(), &expected);
            println!("{device:10} {:10} whole {whole:.1e} chunked {chunked:.1e}", case["name"].as_str().unwrap());
            assert!(whole < WIDE_GATE && chunked < WIDE_GATE, "{device} {}: {whole} {chunked}", case["name"]);
        }
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let oracle = Oracle::open();
    for device in [Device::Cpu, Device::Gpu] {
        for case in &oracle.cases {
            let folder = folder(case);
            let mut generator = generator(folder.path(), &device, GeneratorOptions::default());
            generator.prefill(prompt(folder.path(), &device, case)).unwrap();
            let expected = oracle.ids(case, "gen_tokens");
            let step = |_| generator.step_cached(&SampleOpts::greedy()).unwrap();
            let found: Vec<u32> = (0..expected.len()).map(step).collect();
            assert_eq!(found, expected, "{device} {}", case["name"]);
        }
    }
}
