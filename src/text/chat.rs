//! The chat turns of Gemma 1, 2 and 3.

use crate::text::Tokenizer;
use crate::{Error, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation. Only first, and only in Gemma 3.
    System,
    /// The person (or program) that the model answers.
    User,
    /// The model (`assistant` in many APIs).
    Model,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said: plain text. White space around it is dropped (except in a system message), as Gemma's templates do.
    pub content: String,
}

impl Message {
    /// A system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: Role::System, content: content.into() }
    }

    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }

    /// A turn of the model.
    pub fn model(content: impl Into<String>) -> Self {
        Self { role: Role::Model, content: content.into() }
    }
}

/// How a conversation is laid out in tokens. These are the formats of the instruction-tuned models; pre-trained ones and
/// VaultGemma know no turns.
///
/// Source: the chat templates that Google publishes with the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChatFormat {
    /// Gemma 1 and 2: user and model in turn, no system message.
    Gemma,
    /// Gemma 3: the same, and a system message opens the first user turn.
    Gemma3,
}

/// A part of a conversation in tokens.
enum Segment {
    Control(&'static str),
    Text(String),
}

impl ChatFormat {
    /// The control token that ends a turn. A model that has finished its answer emits it; stop there (or at `<eos>`).
    pub const END_OF_TURN: &'static str = "<end_of_turn>";

    const START_OF_TURN: &'static str = "<start_of_turn>";

    /// The conversation as text, BOS token included; `add_generation_prompt` opens the model's next turn.
    ///
    /// This is for eyes and logs. In text, control tokens and a user who types them look alike: to run a model, use
    /// [`encode`](Self::encode).
    ///
    /// # Errors
    /// [`Error::Chat`] if the format cannot express the conversation: no messages, a system message where none can be, or
    /// user and model not in turn.
    pub fn render(self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let segments = self.segments(messages, add_generation_prompt)?;
        let parts = segments.iter().map(|segment| match segment {
            Segment::Control(name) => name,
            Segment::Text(text) => text.as_str(),
        });
        Ok(parts.collect())
    }

    /// The conversation as token ids, BOS token included; `add_generation_prompt` opens the model's next turn.
    ///
    /// Control tokens come from the format alone. Messages are encoded as plain text, whatever they spell.
    ///
    /// # Errors
    /// As [`render`](Self::render), and [`Error::Tokenizer`] if the tokenizer lacks a control token that the format needs.
    pub fn encode(self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for segment in self.segments(messages, add_generation_prompt)? {
            match segment {
                Segment::Control(name) => ids.push(tokenizer.required_id(name)?),
                Segment::Text(text) => tokenizer.encode_onto(&text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    fn segments(self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<Segment>> {
        let (system, turns) = self.split_system(messages)?;
        let mut segments = vec![Segment::Control("<bos>")];
        for (index, message) in turns.iter().enumerate() {
            let (expected, name) = if index % 2 == 0 { (Role::User, "user") } else { (Role::Model, "model") };
            if message.role != expected {
                let number = index + messages.len() - turns.len() + 1;
                return Err(Error::Chat(format!(
                    "Conversation roles must alternate user/assistant/user/assistant/...; message {number} should be {expected:?} and is {:?}",
                    message.role
                )));
            }
            let opening = if index == 0 { system } else { None };
            let prefix = opening.map(|s| format!("{s}\n\n")).unwrap_or_default();
            segments.push(Segment::Control(Self::START_OF_TURN));
            segments.push(Segment::Text(format!("{name}\n{prefix}{}", trim(&message.content))));
            segments.push(Segment::Control(Self::END_OF_TURN));
            segments.push(Segment::Text("\n".into()));
        }
        if add_generation_prompt {
            segments.push(Segment::Control(Self::START_OF_TURN));
            segments.push(Segment::Text("model\n".into()));
        }
        Ok(segments)
    }

    /// The system message, if there is one, and the turns after it: at least one.
    fn split_system(self, messages: &[Message]) -> Result<(Option<&str>, &[Message])> {
        let (system, turns) = match messages {
            [first, turns @ ..] if first.role == Role::System => match self {
                Self::Gemma => {
                    return Err(Error::Chat(
                        "System role not supported by Gemma 1 and 2; put the instructions into the first user message".into(),
                    ));
                }
                Self::Gemma3 => (Some(first.content.as_str()), turns),
            },
            _ => (None, messages),
        };
        if turns.is_empty() {
            return Err(Error::Chat("there is no user message; a conversation starts with one".into()));
        }
        Ok((system, turns))
    }
}

/// Trims as the templates' `trim` filter does, which is Python's `str.strip`: Unicode white space and the separators U+001C to
/// U+001F.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
