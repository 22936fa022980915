//! Pictures and sounds in every chat format, and in a model's own template.

use gemmaflow::{
    Error,
    gemma::GemmaConfig,
    prompt::{Modality, Prompt, SoftTokens},
    text::{ChatFormat, ChatTemplate, Content, Message, Part},
};

use super::shown::{NEWLINE, tokenizer};

fn soft(modality: Modality, rows: usize) -> SoftTokens {
    SoftTokens::new(modality, 120, 2, vec![rows as f32; 2 * rows]).unwrap()
}

fn picture(rows: usize) -> Part {
    soft(Modality::Image, rows).into()
}

fn sound(rows: usize) -> Part {
    soft(Modality::Audio, rows).into()
}

/// `n` newlines.
fn lines(n: u32) -> u32 {
    NEWLINE + n - 1
}

#[test]
fn newlines_around_a_picture_merge_with_those_beside_them() {
    let tokenizer = tokenizer("gemma3-vision");
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    let show = Content::from([" Look: ".into(), picture(2), picture(3), "\n What is it? \n".into()]);
    let found = ChatFormat::Gemma3.prompt(&tokenizer, &[Message::user(show.clone())], true).unwrap();
    let expected = Prompt::from([2, 105])
        .then(encode("user\nLook:"))
        .then([lines(2), 147])
        .then(soft(Modality::Image, 2))
        .then([148, lines(4), 147])
        .then(soft(Modality::Image, 3))
        .then([148, lines(2)])
        .then(encode("What is it?"))
        .then([106, lines(1), 105])
        .then(encode("model\n"));
    assert_eq!(found, expected);
    let ids = ChatFormat::Gemma3.encode(&tokenizer, &[Message::user(show.clone())], true).unwrap();
    assert_eq!(ids, expected.tokens());
    let shown = ChatFormat::Gemma3.render(&[Message::user(show.clone())], false).unwrap();
    assert_eq!(
        shown,
        "<bos><start_of_turn>user\nLook:\n\n<start_of_image><image: 2 soft tokens><end_of_image>\n\n\n\n<start_of_image>\
         <image: 3 soft tokens><end_of_image>\n\nWhat is it?<end_of_turn>\n"
    );
    // A picture at the beginning of a turn.
    let first = ChatFormat::Gemma3.prompt(&tokenizer, &[Message::user(picture(2))], false).unwrap();
    let user = encode("user");
    assert_eq!(first.tokens()[2..2 + user.len() + 2], [&user[..], &[lines(3), 147]].concat());
    assert!(first.tokens().ends_with(&[148, lines(2), 106, lines(1)]));
}

#[test]
fn sounds_and_pictures_of_the_other_families() {
    let gemma4 = tokenizer("gemma4-vision");
    let user = |tokenizer: &gemmaflow::text::Tokenizer| tokenizer.encode("user", false).unwrap();
    let said = [Message::user([picture(2), sound(1), "x".into()])];
    let found = ChatFormat::Gemma4.prompt(&gemma4, &said, false).unwrap();
    let x = gemma4.encode("x", false).unwrap();
    let expected = Prompt::from([2, 105])
        .then(user(&gemma4))
        .then([lines(3), 145])
        .then(soft(Modality::Image, 2))
        .then([146, lines(2), 148])
        .then(soft(Modality::Audio, 1))
        .then([149])
        .then(x)
        .then([106, lines(1)]);
    assert_eq!(found, expected);
    let gemma3n = tokenizer("gemma3n-vision");
    let found = ChatFormat::Gemma3.prompt(&gemma3n, &[Message::user([sound(1), picture(2)])], false).unwrap();
    let expected = Prompt::from([2, 105])
        .then(user(&gemma3n))
        .then([lines(3), 151])
        .then(soft(Modality::Audio, 1))
        .then([158, lines(4), 150])
        .then(soft(Modality::Image, 2))
        .then([152, lines(2), 106, lines(1)]);
    assert_eq!(found, expected);
}

#[test]
fn what_a_family_does_not_take_is_refused() {
    let tokenizer = tokenizer("gemma3-vision");
    for (format, part, problem) in [
        (ChatFormat::Gemma, picture(1), "message 1 has a picture, and Gemma 1 and 2 take none"),
        (ChatFormat::Gemma, sound(1), "message 1 has a sound, and Gemma 1 and 2 take none"),
        (ChatFormat::Gemma3, Part::Video(Vec::new()), "message 1 has a video, and Gemma 1 to 3 take none"),
        (ChatFormat::Gemma3, sound(1), "no control token '<start_of_audio>'"),
    ] {
        let error = format.prompt(&tokenizer, &[Message::user(part)], true).unwrap_err();
        assert!(matches!(&error, Error::Chat(found) if found.contains(problem)), "{format:?}: {error}");
    }
}

#[test]
fn a_message_goes_through_json_and_back() {
    let messages = [Message::user("text"), Message::user([picture(2), "What is it?".into()]), Message::user(Content::default())];
    let json = serde_json::to_string(&messages).unwrap();
    assert!(json.starts_with(r#"[{"User":"text"},{"User":[{"Soft":{"modality":"Image","placeholder":120,"width":2,"#), "{json}");
    assert_eq!(serde_json::from_str::<[Message; 3]>(&json).unwrap(), messages);
    let broken = json.replace(r#""width":2"#, r#""width":3"#);
    assert!(serde_json::from_str::<[Message; 3]>(&broken).is_err());
    assert_eq!(Content::from(["a ".into(), picture(1), "b".into()]).text(), "a b");
}

/// Turns as no family has them, and pictures as transformers gives them to templates.
const OWN: &str = "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{% if message['content'] is string %}\
    {{ message['content'] }}{% else %}{% for item in message['content'] %}{% if item['type'] == 'image' %}<start_of_image>\
    {% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>{% endfor %}\
    {% if add_generation_prompt %}[model]{% endif %}";

#[test]
fn a_models_own_template_places_pictures_or_refuses_them() {
    let tokenizer = tokenizer("gemma3-vision");
    let config = GemmaConfig::preset("gemma-2-2b").unwrap();
    let template = |source: &str| ChatTemplate::from_source(&config, &tokenizer, source);
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    let own = template(OWN);
    assert!(own.format().is_err());
    // Text that spells what the template writes is no picture.
    let said = [Message::user([picture(2), " <start_of_image>? ".into()]), Message::model("yes")];
    let found = own.prompt(&tokenizer, &said, true).unwrap();
    let expected = Prompt::from([2])
        .then(encode("[user]\n\n"))
        .then([147])
        .then(soft(Modality::Image, 2))
        .then([148, lines(2)])
        .then(encode("<start_of_image>?"))
        .then([106])
        .then(encode("[assistant]yes"))
        .then([106])
        .then(encode("[model]"));
    assert_eq!(found, expected);
    assert_eq!(own.encode(&tokenizer, &said, true).unwrap(), expected.tokens());
    for source in [
        OWN.replace("<start_of_image>", ""),
        OWN.replace("<start_of_image>", "<start_of_image><start_of_image>"),
        OWN.replace("message['content'] is string", "true"),
    ] {
        let own = template(&source);
        let error = own.prompt(&tokenizer, &said, true).unwrap_err();
        assert!(matches!(error, Error::Chat(_)), "{source}: {error}");
        assert!(own.prompt(&tokenizer, &[Message::user("a question")], true).is_ok(), "{source}");
    }
    let error = own.prompt(&tokenizer, &[Message::user(sound(1))], true).unwrap_err();
    assert!(matches!(&error, Error::Chat(problem) if problem.contains("one control token")), "{error}");
}
