//! Videos in a conversation: frames with their times, as the processor of transformers lays them out
//! (`processing_gemma4.py`, `replace_video_token`).

use std::time::Duration;

use gemmaflow::{
    Error,
    conversation::Model,
    error::PromptError,
    gemma::GemmaConfig,
    generate::GeneratorOptions,
    image::Image,
    prompt::{Modality, Prompt, SoftTokens},
    runtime::Device,
    text::{ChatFormat, ChatTemplate, Message, Part, VideoFrame},
};

use super::{
    shown,
    talk::{conversation, devices, events, text},
};

const NAME: &str = "gemma4-vision";

/// Two frames, the second after a minute and more.
fn frames() -> [(Duration, Image); 2] {
    let image = |number: usize| shown::image("gemma3-vision", &format!("two.{number}.png"));
    [(Duration::from_millis(900), image(0)), (Duration::from_millis(61_999), image(1))]
}

fn video(rows: [usize; 2]) -> (Part, [SoftTokens; 2]) {
    let soft = rows.map(|rows| SoftTokens::new(Modality::Image, 144, 2, vec![rows as f32; 2 * rows]).unwrap());
    let times = [Duration::ZERO, Duration::from_secs(6_005)];
    let frames = times.into_iter().zip(soft.clone()).map(|(at, soft)| VideoFrame { at, soft });
    (Part::Video(frames.collect()), soft)
}

#[test]
fn each_frame_stands_behind_its_time() {
    let tokenizer = shown::tokenizer(NAME);
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    let (video, soft) = video([2, 3]);
    let [first, second] = soft;
    let messages = [Message::user(["Look:".into(), video, "What happens?".into()])];
    let expected = Prompt::from([2, 105])
        .then(encode("user\nLook:\n\n00:00 "))
        .then([145])
        .then(first)
        .then([146])
        .then(encode(" 100:05 "))
        .then([145])
        .then(second)
        .then([146])
        .then(encode("\n\nWhat happens?"))
        .then([106, shown::NEWLINE]);
    assert_eq!(ChatFormat::Gemma4.prompt(&tokenizer, &messages, false).unwrap(), expected);
    // The model's own template writes one token, which the processor replaces.
    let source = "{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}\n{% if message.content is string %}\
                  {{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'text' %}\
                  {{ part.text }}{% elif part.type == 'video' %}{{ '\n\n<|video|>\n\n' }}{% endif %}{% endfor %}{% endif %}\
                  <turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n<|channel>{% endif %}";
    let config = GemmaConfig::from_file(shown::checkpoint(NAME)).unwrap();
    let own = ChatTemplate::from_source(&config, &tokenizer, source);
    assert!(own.format().is_err(), "no format of this crate opens turns like this");
    assert_eq!(own.prompt(&tokenizer, &messages, false).unwrap(), expected);
    let json = serde_json::to_string(&messages).unwrap();
    assert_eq!(serde_json::from_str::<[Message; 1]>(&json).unwrap(), messages);
}

#[test]
fn a_model_is_shown_frames() {
    for device in devices() {
        let folder = shown::folder(NAME);
        let model = Model::open(folder.path(), device.clone(), GeneratorOptions::default()).unwrap();
        let video = model.video(&frames()).unwrap();
        let Part::Video(shown) = &video else { panic!("{video:?}") };
        for (frame, (at, image)) in shown.iter().zip(frames()) {
            let Part::Soft(picture) = model.picture_within(&image, 70).unwrap() else { panic!("a picture") };
            assert_eq!((frame.at, frame.soft.placeholder()), (at, model.config().multimodal.video.unwrap()));
            assert_eq!(frame.soft.values().as_ptr(), picture.values().as_ptr(), "the rows that the tower keeps, not a copy");
        }
        let ask = |part: Part| {
            let mut conversation = conversation(&model, 8);
            conversation.send([part, "What happens?".into()]).unwrap();
            (text(&events(&mut conversation)), conversation)
        };
        let (answer, mut asked) = ask(video.clone());
        let [first, second] = frames();
        let (turned, _) = ask(model.video(&[(first.0, second.1), (second.0, first.1)]).unwrap());
        assert_ne!(answer, turned, "{device}: the order of frames is seen");
        let mut saved = Vec::new();
        asked.save(&mut saved).unwrap();
        let restored = model.restore(&saved[..]).unwrap();
        assert_eq!(restored.messages(), asked.messages());
        assert_eq!(restored.tokens(), asked.tokens());
    }
}

#[test]
fn what_is_no_video_is_refused() {
    let folder = shown::folder(NAME);
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let error = model.video(&[]).unwrap_err();
    assert!(matches!(&error, Error::Prompt(PromptError::SoftTokens(_))), "{error}");
    let folder = shown::folder("gemma3-vision");
    let model = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let error = model.video(&frames()).unwrap_err();
    assert!(error.to_string().contains("show frames as pictures by Model::picture"), "{error}");
}
