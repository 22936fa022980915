//! The messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ChatEvent, Content};

/// One message of a conversation. All text in it is plain text: control tokens that it spells out stay the characters
/// that they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Instructions (`system` or `developer` in many APIs). Gemma 1 and 2 have none, Gemma 3 only as the first message.
    System(Instructions),
    /// What the person (or program) says and shows that the model answers. Gemma 1 and 2 take text alone.
    User(Content),
    /// The model's words (`assistant` in many APIs).
    Model(ModelTurn),
    /// A tool's response, after the turn of the model that called it. Gemma 4 only.
    Tool(ToolResponse),
}

impl Message {
    /// Instructions for the whole conversation.
    pub fn system(text: impl Into<String>) -> Self {
        Self::System(Instructions { text: text.into(), ..Instructions::default() })
    }

    /// A user's turn: text, or [parts](Content) with pictures and sounds among them.
    pub fn user(content: impl Into<Content>) -> Self {
        Self::User(content.into())
    }

    /// A turn of the model that is text alone.
    pub fn model(text: impl Into<String>) -> Self {
        Self::Model(ModelTurn { text: text.into(), ..ModelTurn::default() })
    }

    /// The response of the tool `name`.
    pub fn tool(name: impl Into<String>, response: impl Into<Value>) -> Self {
        Self::Tool(ToolResponse { name: name.into(), response: response.into() })
    }

    /// Who speaks, for error messages.
    pub(super) fn role(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::User(_) => "user",
            Self::Model(_) => "model",
            Self::Tool(_) => "tool",
        }
    }
}

/// Instructions for the whole conversation, with thinking and tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// The instructions' text; may be empty. White space around it is dropped in Gemma 4 and kept in Gemma 3, as their
    /// templates do.
    pub text: String,
    /// Lets the model think before it speaks. Gemma 4 only.
    pub thinking: bool,
    /// The functions that the model may call. Gemma 4 only.
    pub tools: Vec<Tool>,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// The name that calls use.
    pub name: String,
    /// A description for the model to read.
    pub description: String,
    /// Its arguments: a JSON schema of type `object`, or null for none. Of a schema Gemma 4's template shows
    /// `properties` (nested ones too), `required`, `type`, `description`, `nullable`, the `enum` of a string and all of
    /// the `items` of an array.
    pub parameters: Value,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name, as the model wrote it: it may name a tool that was not declared.
    pub name: String,
    /// Arguments by name, as the model wrote them: they may not fit the tool's schema.
    pub arguments: Map<String, Value>,
}

/// The response to a call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResponse {
    /// The tool's name.
    pub name: String,
    /// Its response: an object's fields are shown to the model one by one, anything else as the one field `value`.
    pub response: Value,
}

/// One turn of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelTurn {
    /// Its thoughts before the answer. Gemma 4 sees them again if no user has spoken since; otherwise they are left
    /// out, as in the template.
    pub thought: String,
    /// The tools that it called, in order. Gemma 4 only.
    pub tool_calls: Vec<ToolCall>,
    /// Its text. White space around it is dropped, as Gemma's templates do. Beside calls it comes after them and their
    /// responses.
    pub text: String,
}

impl ModelTurn {
    /// Adds an event of a [`ChatParser`](super::ChatParser). The turn of all its events is the message for the
    /// conversation's next prompt. A call that could not be read, and the end, add nothing.
    pub fn push(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Text(text) => self.text.push_str(&text),
            ChatEvent::Thought(text) => self.thought.push_str(&text),
            ChatEvent::ToolCall(call) => self.tool_calls.push(call),
            ChatEvent::BrokenToolCall { .. } | ChatEvent::End(_) => {}
        }
    }
}
