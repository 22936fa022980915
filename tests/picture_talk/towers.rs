//! When a model's tower comes and goes.

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    conversation::{Model, Towers},
    gemma::GemmaConfig,
    generate::GeneratorOptions,
    runtime::Device,
    vision::VisionEncoder,
};

use super::{
    Seeing, shown,
    talk::{conversation, devices, events, events_of, text},
};

pub fn live(model: &Model) -> u64 {
    let gpu = model.gpu().unwrap();
    gpu.wait_idle("a test").unwrap();
    gpu.release_staging();
    model.counters().unwrap().bytes_live
}

#[test]
fn a_tower_comes_with_the_first_picture_or_the_model_or_never() {
    let folder = shown::folder("gemma3-vision");
    let image = shown::image("gemma3-vision", "two.0.png");
    let open = |towers| Model::open_with_towers(folder.path(), Device::Gpu, GeneratorOptions::default(), towers).unwrap();
    let lazy = open(Towers::Lazy);
    let before = live(&lazy);
    let first = lazy.picture(&image).unwrap();
    assert!(live(&lazy) > before, "its weights are on the device");
    let submits = lazy.counters().unwrap().submits;
    assert_eq!(lazy.picture(&image).unwrap(), first);
    assert_eq!(lazy.counters().unwrap().submits, submits, "it is kept by its content");
    lazy.drop_towers();
    assert_eq!(live(&lazy), before);
    assert_eq!(lazy.picture(&image).unwrap(), first, "it comes again");

    let eager = open(Towers::AtLoad);
    assert!(live(&eager) > before);
    let never = open(Towers::Never);
    let error = never.picture(&image).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(problem) if problem.contains("Towers::Never")), "{error}");
    // Nor is there room for one.
    let mut blind = conversation(&never, 4);
    assert!(blind.send(first).unwrap_err().to_string().contains("longest_picture"));
}

#[test]
fn under_a_budget_of_memory_a_model_from_parts_has_room_for_a_picture_that_is_asked_for() {
    let folder = shown::checkpoint("gemma3-vision");
    let image = shown::image("gemma3-vision", "two.0.png");
    let config = GemmaConfig::from_file(&folder).unwrap();
    let open = |longest_picture| {
        let options = GeneratorOptions { longest_picture, memory_budget: Some(1 << 30), ..GeneratorOptions::default() };
        let mut loader = load_from_path(&folder).unwrap();
        let tokenizer = shown::tokenizer("gemma3-vision");
        let model = Model::from_loader(config.clone(), loader.as_mut(), tokenizer, Device::Gpu, options).unwrap();
        model.set_vision(VisionEncoder::from_path(&config, &folder, model.gpu()).unwrap());
        model
    };
    let planned = open(None);
    let mut talk = conversation(&planned, 4);
    let refused = talk.send([planned.picture(&image).unwrap(), "What is this?".into()]).unwrap_err();
    assert!(refused.to_string().contains("longest_picture"), "{refused}");
    talk.send("What is this?").unwrap();
    let roomy = open(Some(16));
    let mut talk = conversation(&roomy, 4);
    talk.send([roomy.picture(&image).unwrap(), "What is this?".into()]).unwrap();
    assert!(!events(&mut talk).is_empty());
}

#[test]
fn a_conversation_with_a_picture_follows_its_model_and_the_tower_is_loaded_anew() {
    let seeing = Seeing::new("gemma3-vision", &Device::Gpu, GeneratorOptions::default());
    let asked = seeing.shown(0, "What is this?");
    let expected = seeing.answer(asked.clone());
    let mut talk = conversation(&seeing.model, 12);
    talk.send(asked.clone()).unwrap();
    let mut told = text(&events_of(&mut talk, 4));
    for device in [Device::Cpu, Device::Gpu] {
        seeing.model.recover(device).unwrap();
        told += &text(&events_of(&mut talk, 3));
        let before = seeing.model.counters().map(|counters| counters.submits);
        let again = seeing.picture(1);
        assert_ne!(again, seeing.picture(0));
        assert!(before.is_none_or(|submits| seeing.model.counters().unwrap().submits > submits), "on the new device");
    }
    told += &text(&events(&mut talk));
    assert_eq!(told, expected);
    assert_eq!(seeing.answer(asked), expected, "soft tokens in a message need no tower");
}

#[test]
fn a_model_from_parts_is_given_its_tower() {
    for device in devices() {
        let folder = shown::checkpoint("gemma3-vision");
        let config = GemmaConfig::from_file(&folder).unwrap();
        let tokenizer = shown::tokenizer("gemma3-vision");
        let mut loader = load_from_path(&folder).unwrap();
        let options = GeneratorOptions::default();
        let model = Model::from_loader(config.clone(), loader.as_mut(), tokenizer, device, options).unwrap();
        let image = shown::image("gemma3-vision", "two.0.png");
        let refused = |model: &Model| match model.picture(&image) {
            Err(Error::Unsupported(problem)) => assert!(problem.contains("set_vision"), "{problem}"),
            other => panic!("{other:?}"),
        };
        refused(&model);
        model.set_vision(VisionEncoder::from_path(&config, &folder, model.gpu()).unwrap());
        let mut talk = conversation(&model, 4);
        talk.send([model.picture(&image).unwrap(), "What is this?".into()]).unwrap();
        assert!(!events(&mut talk).is_empty());
        model.recover(Device::Cpu).unwrap();
        refused(&model);
    }
    let text = Model::open(super::talk::DEMO, Device::Cpu, GeneratorOptions::default()).unwrap();
    assert!(matches!(text.picture(&shown::image("gemma3-vision", "two.0.png")), Err(Error::Unsupported(_))));
}
