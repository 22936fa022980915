use super::{messages::SavedMessage, *};
use crate::{
    prompt::Modality,
    text::{Content, Message, Part},
};

fn picture(value: f32) -> Part {
    SoftTokens::new(Modality::Image, 9, 4, vec![value; 8]).unwrap().into()
}

#[test]
fn messages_refer_to_each_picture_once() {
    let shown = |value: f32| Content::from([picture(value), "What is this?".into()]);
    let messages = [Message::user("Hi"), Message::user(shown(0.5)), Message::user(shown(0.25)), Message::user(shown(0.5))];
    let mut soft = Vec::new();
    let saved: Vec<SavedMessage> = messages.iter().map(|message| SavedMessage::new(message, &mut soft)).collect();
    assert_eq!(soft.len(), 2);
    assert_eq!(saved.iter().map(SavedMessage::is_plain).collect::<Vec<_>>(), [true, false, false, false]);
    let json = serde_json::to_string(&saved).unwrap();
    assert!(json.starts_with(r#"[{"User":"Hi"},{"User":[{"Soft":0},{"Text":"What is this?"}]}"#), "{json}");
    let read: Vec<SavedMessage> = serde_json::from_str(&json).unwrap();
    let read: Vec<Message> = read.into_iter().map(|message| message.with(&soft).unwrap()).collect();
    assert_eq!(read, messages);
    let read: Vec<SavedMessage> = serde_json::from_str(&json).unwrap();
    let outcomes: Vec<_> = read.into_iter().map(|message| message.with(&soft[..1])).collect();
    assert!(matches!(&outcomes[2], Err(Error::Saved(problem)) if problem.contains("number 1 of 1")), "{outcomes:?}");
}

#[test]
fn rows_of_another_width_and_cut_ones_are_refused() {
    let Part::Soft(rows) = picture(0.5) else { panic!("a picture") };
    let mut bytes = Vec::new();
    let mut put = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    rows::write(&rows, &mut put).unwrap();
    rows::write(&rows, &mut put).unwrap();
    assert_eq!(soft_tokens(&bytes, 4).unwrap(), [rows.clone(), rows]);
    assert!(matches!(soft_tokens(&bytes, 5), Err(Error::Saved(_))));
    for len in (1..bytes.len()).filter(|len| *len != bytes.len() / 2) {
        assert!(matches!(soft_tokens(&bytes[..len], 4), Err(Error::Saved(_))), "{len}");
    }
    // A number of rows that the bytes do not have takes no memory.
    bytes[16..24].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(matches!(soft_tokens(&bytes, 4), Err(Error::Saved(_))));
}

#[test]
fn a_length_beyond_the_bytes_is_an_error() {
    let mut bytes = Vec::new();
    let mut put = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    sealed(b"text", &mut put).unwrap();
    assert_eq!(unsealed(&mut &bytes[..]).unwrap(), b"text");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(unsealed(&mut &bytes[..]), Err(Error::Saved(_))));
}
