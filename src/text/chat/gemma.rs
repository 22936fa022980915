//! The turns of Gemma 1, 2 and 3.

use super::layout::{Frame, Layout, trim};
use super::{Content, Instructions, Medium, Message, Part};
use crate::{Error, Result, prompt::Modality};

pub(super) const TURN: &str = "<start_of_turn>";
pub(super) const TURN_END: &str = "<end_of_turn>";

/// As the processors of Gemma 3 and 3n have a picture.
pub(super) const IMAGE: Frame = Frame { begin: "<start_of_image>", end: "<end_of_image>", around: "\n\n" };

/// As the processor of Gemma 3n has a sound.
pub(super) const AUDIO: Frame = Frame { begin: "<start_of_audio>", end: "<end_of_audio>", around: "\n\n" };

/// `instructed`: the format takes instructions, and pictures and sounds (Gemma 3).
pub(super) fn lay_out(instructed: bool, messages: &[Message], open_turn: bool) -> Result<Layout> {
    let (system, turns) = match messages {
        [Message::System(_), ..] if !instructed => {
            return Err(Error::Chat(
                "System role not supported by Gemma 1 and 2; put the instructions into the first user message".into(),
            ));
        }
        [Message::System(first), turns @ ..] => (Some(plain(first)?), turns),
        _ => (None, messages),
    };
    if turns.is_empty() {
        return Err(Error::Chat("there is no user message; a conversation starts with one".into()));
    }
    let mut layout = Layout::new();
    for (index, message) in turns.iter().enumerate() {
        let number = index + messages.len() - turns.len() + 1;
        let speaker = ["user", "model"][index % 2];
        let said = said_in(message, speaker, number)?;
        layout.control(TURN).text(speaker).text("\n");
        if let (0, Some(system)) = (index, system) {
            layout.text(system).text("\n\n");
        }
        match said {
            Said::Model(text) => _ = layout.text(trim(text)),
            Said::User(content) => {
                if let Some(medium) = content.media().find(|medium| !instructed || *medium == Medium::Video) {
                    return Err(sees_no(medium, number));
                }
                show(&mut layout, content);
            }
        }
        layout.control(TURN_END).text("\n");
    }
    if open_turn {
        layout.control(TURN).text("model\n");
    }
    Ok(layout)
}

/// Instructions that are text alone.
fn plain(instructions: &Instructions) -> Result<&str> {
    let beyond = match instructions {
        Instructions { thinking: true, .. } => "thinking",
        Instructions { tools, .. } if !tools.is_empty() => "tools",
        Instructions { text, .. } => return Ok(text),
    };
    Err(Error::Chat(format!(
        "the instructions ask for {beyond}, which Gemma 3's format does not have; leave it out, or use Gemma 4"
    )))
}

/// What the one says whose turn it is.
enum Said<'a> {
    User(&'a Content),
    Model(&'a str),
}

/// What message `number` says, if it is of the one whose turn it is.
fn said_in<'a>(message: &'a Message, speaker: &str, number: usize) -> Result<Said<'a>> {
    match message {
        Message::User(content) if speaker == "user" => Ok(Said::User(content)),
        Message::Model(turn) if !turn.tool_calls.is_empty() => Err(Error::Chat(format!(
            "message {number} calls a tool; the formats of Gemma 1 to 3 have no tool calls, put them into its text"
        ))),
        Message::Model(turn) if speaker == "model" => Ok(Said::Model(&turn.text)),
        other => Err(Error::Chat(format!(
            "Conversation roles must alternate user/assistant/user/assistant/...; message {number} should be of {speaker} and is of {}",
            other.role()
        ))),
    }
}

fn show(layout: &mut Layout, content: &Content) {
    for part in content.parts() {
        match part {
            Part::Text(text) => _ = layout.text(trim(text)),
            Part::Soft(rows) if rows.modality() == Modality::Audio => _ = layout.medium(part, AUDIO),
            Part::Soft(_) | Part::Video(_) => _ = layout.medium(part, IMAGE),
        }
    }
}

fn sees_no(medium: Medium, number: usize) -> Error {
    let what = medium.name();
    let whose = match medium {
        Medium::Video => "Gemma 1 to 3 take none; show its frames as pictures, or use Gemma 4",
        _ => "Gemma 1 and 2 take none; leave it out, or use Gemma 3 or 4",
    };
    Error::Chat(format!("message {number} has a {what}, and {whose}"))
}
