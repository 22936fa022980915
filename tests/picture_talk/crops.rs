//! Gemma 3's pan and scan: a picture with crops of it, and the words around them.

use gemmaflow::{
    Error,
    conversation::Model,
    generate::GeneratorOptions,
    image::PanAndScan,
    prompt::{Prompt, SoftTokens},
    runtime::Device,
    text::{Content, Message, Part},
};
use safetensors::SafeTensors;
use tempfile::TempDir;

use super::shown;

/// The largest difference from transformers' soft tokens (docs/gemma.md).
const SOFT: f32 = 1e-4;

/// A model, and its folder, from which the tower is loaded later.
fn open(name: &str) -> (TempDir, Model) {
    let folder = shown::folder(name);
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    (folder, model)
}

/// The sizes of the oracle's case, whose picture is small.
fn small() -> PanAndScan {
    PanAndScan { min_crop_size: 32, ..PanAndScan::default() }
}

#[test]
fn crops_are_transformers_and_stand_between_its_words() {
    let name = "gemma3-vision-bf16";
    let (_folder, model) = open(name);
    let parts = model.picture_with_crops(&shown::image(name, "crops.0.png"), &small()).unwrap();
    let content = Content::from([parts, vec![" What is this? ".into()]].concat());
    let soft: Vec<SoftTokens> = content.soft_tokens().cloned().collect();
    let bytes = std::fs::read(shown::checkpoint(name).join("mm_oracle.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let expected = file.tensor("crops.vision.soft").unwrap();
    let expected: Vec<f32> = bytemuck::pod_collect_to_vec(expected.data());
    let found: Vec<f32> = soft.iter().flat_map(|soft| soft.values().to_vec()).collect();
    assert_eq!((soft.len(), found.len()), (5, expected.len()));
    let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < SOFT, "{error}");

    // HF: processing_gemma3.py, with the layout of a picture in the place of `<start_of_image>`.
    let before = ["user\nHere is the original image \n\n", "\n\n and here are some crops to help you see better \n\n"];
    let texts = [before[0], before[1], "\n\n \n\n", "\n\n \n\n", "\n\n \n\n"];
    let encode = |text: &str| model.tokenizer().encode(text, false).unwrap();
    let mut laid_out = Prompt::from([2, 105]);
    for (text, soft) in texts.into_iter().zip(soft) {
        laid_out = laid_out.then(encode(text)).then([141]).then(soft).then([142]);
    }
    let laid_out = laid_out.then(encode("\n\nWhat is this?")).then([106]).then(encode("\n"));
    let template = model.chat_template();
    let found = template.prompt(model.tokenizer(), &[Message::user(content)], false).unwrap();
    assert_eq!(found, laid_out);
}

#[test]
fn a_picture_without_crops_is_one_part() {
    let name = "gemma3-vision-bf16";
    let (_folder, model) = open(name);
    let picture = shown::image(name, "one.0.png");
    let parts = model.picture_with_crops(&picture, &PanAndScan::default()).unwrap();
    assert_eq!(parts, [model.picture(&picture).unwrap()]);
    let none = PanAndScan { max_crops: 0, ..small() };
    let parts = model.picture_with_crops(&shown::image(name, "crops.0.png"), &none).unwrap();
    assert!(matches!(parts.as_slice(), [Part::Soft(_)]));
}

#[test]
fn other_families_refuse_crops() {
    for name in ["gemma3n-vision", "gemma4-vision", "gemma4-unified"] {
        let picture = shown::image("gemma3-vision-bf16", "crops.0.png");
        let error = open(name).1.picture_with_crops(&picture, &small()).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(why) if why.contains("no Gemma 3")), "{name}: {error}");
    }
}
