//! Sounds in a conversation.

use gemmaflow::{
    Error,
    audio::{Audio, AudioLimits},
    conversation::{Model, Towers},
    generate::GeneratorOptions,
    runtime::Device,
    text::{Content, Part},
};

use super::{
    shown,
    talk::{conversation, devices, events, text},
};

fn clip(name: &str, file: &str) -> Audio {
    let bytes = std::fs::read(shown::checkpoint(name).join("inputs").join(file)).unwrap();
    Audio::from_bytes(&bytes, &AudioLimits::default()).unwrap()
}

fn answer(model: &Model, said: impl Into<Content>) -> String {
    let mut conversation = conversation(model, 12);
    conversation.send(said).unwrap();
    text(&events(&mut conversation))
}

#[test]
fn a_clip_is_heard_beside_text_and_pictures() {
    for device in devices() {
        for name in ["gemma3n-audio", "gemma4-audio"] {
            let folder = shown::folder(name);
            let model = Model::open(folder.path(), device.clone(), GeneratorOptions::default()).unwrap();
            let sounds = ["two.0.wav", "two.1.wav"].map(|file| model.sound(&clip(name, file)).unwrap());
            let [first, second] = sounds.clone().map(|sound| answer(&model, [sound, "What is said?".into()]));
            assert_ne!(first, second, "{device} {name}");
            let both = answer(&model, [sounds[0].clone(), "and".into(), sounds[1].clone()]);
            assert!(!both.is_empty());
            // In another conversation, and after the tower is gone.
            model.drop_towers();
            let again = answer(&model, [sounds[0].clone(), "What is said?".into()]);
            assert_eq!(again, first, "{device} {name}");
            assert_eq!(model.sound(&clip(name, "two.0.wav")).unwrap(), sounds[0], "the tower comes again");
        }
    }
}

#[test]
fn clips_of_one_message_are_heard_together() {
    for name in ["gemma3n-audio", "gemma4-audio"] {
        let folder = shown::folder(name);
        let model = Model::open(folder.path(), Device::Gpu, GeneratorOptions::default()).unwrap();
        let clips = ["two.0.wav", "two.1.wav"].map(|file| clip(name, file));
        let alone: Vec<Part> = clips.iter().map(|clip| model.sound(clip).unwrap()).collect();
        let together = model.sounds(&clips).unwrap();
        let expected: Vec<Part> = model.hearing().unwrap().encode_together(&clips).unwrap().into_iter().map(Part::from).collect();
        assert_eq!(together, expected);
        // Gemma 3n hears the silence after the shorter one.
        assert_eq!(together == alone, name == "gemma4-audio", "{name}");
    }
}

#[test]
fn a_saved_conversation_keeps_what_it_heard() {
    let folder = shown::folder("gemma4-audio");
    let model = Model::open(folder.path(), Device::Gpu, GeneratorOptions::default()).unwrap();
    let mut talk = conversation(&model, 6);
    talk.send(["Listen:".into(), model.sound(&clip("gemma4-audio", "one.0.wav")).unwrap()]).unwrap();
    events(&mut talk);
    let mut saved = Vec::new();
    talk.save(&mut saved).unwrap();
    let deaf = Model::open_with_towers(folder.path(), Device::Gpu, GeneratorOptions::default(), Towers::Never).unwrap();
    let mut restored = deaf.restore(&saved[..]).unwrap();
    for talk in [&mut talk, &mut restored] {
        talk.send("Once more.").unwrap();
    }
    assert_eq!(text(&events(&mut restored)), text(&events(&mut talk)));
    let error = deaf.sound(&clip("gemma4-audio", "one.0.wav")).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(problem) if problem.contains("Towers::Never")), "{error}");
}

#[test]
fn models_that_hear_nothing_say_so() {
    let folder = shown::folder("gemma3-vision");
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let sound = clip("gemma4-audio", "one.0.wav");
    assert!(matches!(model.sound(&sound), Err(Error::Unsupported(_))));
    let hearing = shown::folder("gemma4-audio");
    let hearing = Model::open(hearing.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let part: Part = hearing.sound(&sound).unwrap();
    let mut talk = conversation(&model, 4);
    assert!(talk.send([part, "What is said?".into()]).is_err(), "another model's soft tokens");
    assert!(talk.messages().is_empty());
}
