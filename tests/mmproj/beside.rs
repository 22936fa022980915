//! The projector's file beside a text model's: found, chosen among several, missed, and given by its path.

use std::path::Path;

use gemmaflow::{
    Error,
    audio::AudioLimits,
    checkpoint::load_towers_from_path,
    conversation::{Model, Towers},
    gemma::{GemmaConfig, VisionConfig},
    generate::GeneratorOptions,
    runtime::Device,
    text::Part,
    vision::VisionEncoder,
};

use super::{
    common::multimodal::Multimodal,
    mmproj, shown,
    talk::{conversation, devices, events},
    text,
};

fn open(path: &Path, device: &Device) -> Model {
    Model::open(path, device.clone(), GeneratorOptions::default()).unwrap()
}

/// What is said of a picture, or of a clip, and the tokens of the whole conversation.
fn answer(model: &Model, part: Part) -> (Vec<u32>, String) {
    let mut talk = conversation(model, 10);
    talk.send([part, "What is this?".into()]).unwrap();
    let said = events(&mut talk).iter().map(ToString::to_string).collect();
    (talk.tokens().to_vec(), said)
}

fn picture(model: &Model) -> Part {
    model.picture_within(&shown::image("gemma3-vision", "two.0.png"), 70).unwrap()
}

fn clip(model: &Model) -> Part {
    let bytes = std::fs::read(shown::checkpoint("gemma4-audio").join("inputs/one.0.wav")).unwrap();
    model.sound(&gemmaflow::audio::Audio::from_bytes(&bytes, &AudioLimits::default()).unwrap()).unwrap()
}

#[test]
fn a_model_of_two_files_answers_as_the_checkpoint_does() {
    for device in devices() {
        for (name, part) in
            [("gemma4-vision", picture as fn(&Model) -> Part), ("gemma4-audio", clip), ("gemma3-vision-bf16", picture)]
        {
            let files = text::folder(&Multimodal::open(name));
            let checkpoint = shown::folder(name);
            let [found, expected] = [files.path().join("model.gguf"), checkpoint.path().to_path_buf()].map(|path| {
                let model = open(&path, &device);
                answer(&model, part(&model))
            });
            assert!(found.0.len() > 20, "{device} {name}: {:?}", found.0);
            assert_eq!(found, expected, "{device} {name}");
        }
    }
}

/// Names that files in the wild have.
#[test]
fn a_projector_is_found_by_its_name() {
    let oracle = Multimodal::open("gemma3-vision");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("gemma-3-4b-it-Q4_K_M.gguf");
    text::write(&oracle, &model);
    let vision = || GemmaConfig::near_weights(&model).unwrap().multimodal.vision;
    let names = [
        "mmproj-model-f16.gguf",
        "mmproj-F16.gguf",
        "mmproj-google_gemma-3-4b-it-f16.gguf",
        "mmproj-gemma-3-4b-it-Q8_0.gguf",
        "gemma-3-4b-it.mmproj-f16.gguf",
        "MMPROJ-F16.GGUF",
    ];
    for name in names {
        assert_eq!(vision(), None, "{name}");
        let path = folder.path().join(name);
        std::fs::copy(mmproj(&oracle), &path).unwrap();
        assert!(matches!(vision(), Some(VisionConfig::Siglip(_))), "{name}");
        std::fs::remove_file(path).unwrap();
    }
    for name in ["vision.gguf", "mmproj-F16.gguf.part", "mmproj.json"] {
        std::fs::copy(mmproj(&oracle), folder.path().join(name)).unwrap();
        assert_eq!(vision(), None, "{name}");
    }
    // Another model's lies there too.
    std::fs::copy(mmproj(&Multimodal::open("gemma4-vision")), folder.path().join("mmproj-gemma-4.gguf")).unwrap();
    let others = vision();
    assert!(matches!(&others, Some(VisionConfig::Unsupported(why)) if why.contains("mmproj-gemma-4.gguf")), "{others:?}");
    std::fs::copy(mmproj(&oracle), folder.path().join("mmproj-gemma-3.gguf")).unwrap();
    assert!(matches!(vision(), Some(VisionConfig::Siglip(_))));
}

#[test]
fn of_several_projectors_one_is_named() {
    let oracle = Multimodal::open("gemma3-vision");
    let folder = text::folder(&oracle);
    let other = folder.path().join("mmproj-BF16.gguf");
    std::fs::copy(mmproj(&oracle), &other).unwrap();
    let path = folder.path().join("model.gguf");
    let image = shown::image("gemma3-vision", "two.0.png");

    let model = open(&path, &Device::Cpu);
    let mut talk = conversation(&model, 4);
    talk.send("What is this?").unwrap();
    assert!(!events(&mut talk).is_empty(), "text needs no projector");
    for error in [model.picture(&image).unwrap_err(), load_towers_from_path(&path).err().unwrap()] {
        let told = error.to_string();
        let words = ["mmproj-BF16.gguf", "mmproj-model-f16.gguf", "open_with_projector"];
        assert!(matches!(error, Error::Config(_)) && words.iter().all(|word| told.contains(word)), "{told}");
    }

    let named = Model::open_with_projector(&path, &other, Device::Cpu, GeneratorOptions::default(), Towers::default()).unwrap();
    let expected = answer(&named, named.picture(&image).unwrap());
    let options = GeneratorOptions { longest_picture: Some(70), ..GeneratorOptions::default() };
    let given = Model::open(&path, Device::Cpu, options).unwrap();
    given.set_vision(VisionEncoder::from_path(given.config(), &other, given.gpu()).unwrap());
    assert_eq!(answer(&given, given.picture(&image).unwrap()), expected);
}

#[test]
fn without_a_projector_the_error_says_what_is_needed() {
    let oracle = Multimodal::open("gemma4-audio");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    text::write(&oracle, &path);
    let model = open(&path, &Device::Cpu);
    let image = shown::image("gemma3-vision", "two.0.png");
    let silence = gemmaflow::audio::Audio::from_samples(&[0.1; 16_000], 16_000, 1, &AudioLimits::default()).unwrap();
    for error in
        [model.picture(&image).unwrap_err(), model.sound(&silence).unwrap_err(), load_towers_from_path(&path).err().unwrap()]
    {
        assert!(matches!(&error, Error::Unsupported(what) if what.contains("mmproj")), "{error}");
    }
    // A file with pictures alone.
    let path = text::folder(&Multimodal::open("gemma4-vision"));
    let error = open(&path.path().join("model.gguf"), &Device::Cpu).sound(&silence).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(what) if what.contains("mmproj")), "{error}");
}
