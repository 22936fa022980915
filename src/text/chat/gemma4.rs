//! The turns of Gemma 4.
//!
//! Source: the chat templates of the published models, of 2026-05-06, and of 2026-07-09 for its corrections. Those are:
//! consecutive messages of the model are one turn; a turn that ends with a response is closed before another role's
//! begins; `null`; thoughts without calls. The newer one also opens a thought after a response where thinking is on;
//! here the model does so itself. Neither opens a turn for the model after one that had responses and is closed; here
//! the prompt does.

use serde_json::Value;

use super::layout::{Frame, Layout, trim};
use super::{Content, Instructions, Message, ModelTurn, Part, ToolResponse, declaration, value};
use crate::{Error, Result, prompt::Modality};

pub(super) const TURN: &str = "<|turn>";
pub(super) const TURN_END: &str = "<turn|>";
pub(super) const CHANNEL: &str = "<|channel>";
pub(super) const CHANNEL_END: &str = "<channel|>";
pub(super) const CALL: &str = "<|tool_call>";
pub(super) const CALL_END: &str = "<tool_call|>";
pub(super) const RESPONSE: &str = "<|tool_response>";
const RESPONSE_END: &str = "<tool_response|>";
const THINK: &str = "<|think|>";

/// A picture or a video: the control tokens are the processor's, the text around them is the template's.
pub(super) const IMAGE: Frame = Frame { begin: "<|image>", end: "<image|>", around: "\n\n" };
pub(super) const AUDIO: Frame = Frame { begin: "<|audio>", end: "<audio|>", around: "" };

/// The one channel that there is, as it stands after the token that opens it.
pub(super) const THOUGHT: &str = "thought\n";

/// The opening of the model's turn in a prompt that does not let it think.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Opening {
    Bare,
    EmptyThought,
}

pub(super) fn lay_out(messages: &[Message], open_turn: bool, opening: Opening) -> Result<Layout> {
    let mut layout = Layout::new();
    let (thinking, turns) = match messages {
        [Message::System(first), turns @ ..] => {
            instructions(&mut layout, first);
            (first.thinking, turns)
        }
        _ => (false, messages),
    };
    let last_user = turns.iter().rposition(|message| matches!(message, Message::User(_)));
    let mut open = false;
    let mut rest = turns;
    while let [message, after @ ..] = rest {
        let index = turns.len() - rest.len();
        let number = messages.len() - after.len();
        rest = after;
        match message {
            Message::System(later) if later.thinking || !later.tools.is_empty() => {
                return Err(Error::Chat(format!("message {number} asks for thinking or declares tools; only the first one can")));
            }
            Message::System(later) => turn(&mut layout, "system\n", &later.text),
            Message::User(content) => user_turn(&mut layout, content),
            Message::Model(said) => {
                let responses: Vec<_> = after.iter().map_while(response).collect();
                rest = &after[responses.len()..];
                if !open {
                    layout.control(TURN).text("model\n");
                }
                model_turn(&mut layout, said, &responses, last_user.is_none_or(|user| index > user));
                open = end_model_turn(&mut layout, said, &responses, rest)
                    .map_err(|e| Error::Chat(format!("message {number} {e}")))?;
            }
            Message::Tool(_) => {
                return Err(Error::Chat(format!("message {number} is a tool's response, and no call of the model precedes it")));
            }
        }
    }
    if open_turn && !open {
        layout.control(TURN).text("model\n");
        if !thinking && opening == Opening::EmptyThought {
            layout.control(CHANNEL).text(THOUGHT).control(CHANNEL_END);
        }
    }
    Ok(layout)
}

fn response(message: &Message) -> Option<&ToolResponse> {
    match message {
        Message::Tool(response) => Some(response),
        _ => None,
    }
}

fn instructions(layout: &mut Layout, first: &Instructions) {
    layout.control(TURN).text("system\n");
    if first.thinking {
        layout.control(THINK).text("\n");
    }
    layout.text(trim(&first.text));
    for tool in &first.tools {
        declaration::declare(layout, tool);
    }
    layout.control(TURN_END).text("\n");
}

fn turn(layout: &mut Layout, opening: &str, text: &str) {
    layout.control(TURN).text(opening).text(trim(text)).control(TURN_END).text("\n");
}

fn user_turn(layout: &mut Layout, content: &Content) {
    layout.control(TURN).text("user\n");
    for part in content.parts() {
        match part {
            Part::Text(text) => _ = layout.text(trim(text)),
            Part::Soft(rows) if rows.modality() == Modality::Audio => _ = layout.medium(part, AUDIO),
            Part::Soft(_) | Part::Video(_) => _ = layout.medium(part, IMAGE),
        }
    }
    layout.control(TURN_END).text("\n");
}

/// The model's words and its tools' responses, without the ends of the turn. `recent`: no user has spoken since.
fn model_turn(layout: &mut Layout, said: &ModelTurn, responses: &[&ToolResponse], recent: bool) {
    if recent && !said.thought.is_empty() {
        layout.control(CHANNEL).text(THOUGHT).text(&said.thought).text("\n").control(CHANNEL_END);
    }
    for call in &said.tool_calls {
        layout.control(CALL).text("call:").text(&call.name);
        value::object(layout, &call.arguments, value::Keys::Bare);
        layout.control(CALL_END);
    }
    for given in responses {
        layout.control(RESPONSE).text("response:").text(&given.name);
        match &given.response {
            Value::Object(fields) => value::object(layout, fields, value::Keys::Bare),
            other => {
                layout.text("{value:");
                value::value(layout, other, value::Keys::Bare);
                layout.text("}");
            }
        }
        layout.control(RESPONSE_END);
    }
    layout.text(trim(&said.text));
}

/// Ends the turn where the model has nothing to add to it. Gives `true` if it is still open, or the fault of the
/// message.
fn end_model_turn(
    layout: &mut Layout,
    said: &ModelTurn,
    responses: &[&ToolResponse],
    rest: &[Message],
) -> Result<bool, &'static str> {
    let open = match (said.tool_calls.is_empty(), responses.is_empty(), rest) {
        (true, false, _) => return Err("calls no tool and is followed by a tool's response"),
        (false, true, []) => {
            layout.control(RESPONSE);
            true
        }
        (false, true, _) => return Err("calls a tool and is not followed by its response; add what the tool gave back"),
        (_, _, [Message::Model(_), ..]) => true,
        (_, false, []) => trim(&said.text).is_empty(),
        _ => false,
    };
    if !open {
        layout.control(TURN_END).text("\n");
    }
    Ok(open)
}
