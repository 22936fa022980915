//! The turns of Gemma 1, 2 and 3.

use super::layout::{Layout, trim};
use super::{Instructions, Message};
use crate::{Error, Result};

pub(super) const TURN: &str = "<start_of_turn>";
pub(super) const TURN_END: &str = "<end_of_turn>";

/// `instructed`: the format takes instructions (Gemma 3).
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
        let text = text_of(message, speaker, number)?;
        layout.control(TURN).text(speaker).text("\n");
        if let (0, Some(system)) = (index, system) {
            layout.text(system).text("\n\n");
        }
        layout.text(trim(text)).control(TURN_END).text("\n");
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

/// The text of message `number`, if it is of the one whose turn it is.
fn text_of<'a>(message: &'a Message, speaker: &str, number: usize) -> Result<&'a str> {
    match message {
        Message::User(text) if speaker == "user" => Ok(text),
        Message::Model(turn) if !turn.tool_calls.is_empty() => Err(Error::Chat(format!(
            "message {number} calls a tool; the formats of Gemma 1 to 3 have no tool calls, put them into its text"
        ))),
        Message::Model(turn) if speaker == "model" => Ok(&turn.text),
        other => Err(Error::Chat(format!(
            "Conversation roles must alternate user/assistant/user/assistant/...; message {number} should be of {speaker} and is of {}",
            other.role()
        ))),
    }
}
