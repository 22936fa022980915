//! Messages as JSON, with the numbers of soft tokens in their place. A text alone is a string, as in version 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    prompt::SoftTokens,
    text::{Content, Instructions, Message, ModelTurn, Part, ToolResponse, VideoFrame},
};

/// A [`Message`].
#[derive(Serialize, Deserialize)]
pub(super) enum SavedMessage {
    System(Instructions),
    User(SavedContent),
    Model(ModelTurn),
    Tool(ToolResponse),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum SavedContent {
    Text(String),
    Parts(Vec<SavedPart>),
}

#[derive(Serialize, Deserialize)]
pub(super) enum SavedPart {
    Text(String),
    /// Which of the soft tokens.
    Soft(usize),
    /// The time of each frame, and which of the soft tokens it is.
    Video(Vec<(Duration, usize)>),
}

impl SavedMessage {
    /// A message whose soft tokens are among `soft`; those that are not yet come to its end.
    pub(super) fn new(message: &Message, soft: &mut Vec<SoftTokens>) -> Self {
        match message {
            Message::System(instructions) => Self::System(instructions.clone()),
            Message::User(content) => Self::User(SavedContent::new(content, soft)),
            Message::Model(turn) => Self::Model(turn.clone()),
            Message::Tool(response) => Self::Tool(response.clone()),
        }
    }

    /// True if releases before pictures read it.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::User(SavedContent::Parts(_)))
    }

    /// The message with its soft tokens.
    ///
    /// # Errors
    /// [`Error::Saved`] for a number that none of them has.
    pub(super) fn with(self, soft: &[SoftTokens]) -> Result<Message> {
        Ok(match self {
            Self::System(instructions) => Message::System(instructions),
            Self::User(SavedContent::Text(text)) => Message::user(text),
            Self::User(SavedContent::Parts(parts)) => {
                Message::user(parts.into_iter().map(|part| part.with(soft)).collect::<Result<Vec<Part>>>()?)
            }
            Self::Model(turn) => Message::Model(turn),
            Self::Tool(response) => Message::Tool(response),
        })
    }
}

impl SavedContent {
    fn new(content: &Content, soft: &mut Vec<SoftTokens>) -> Self {
        if let [Part::Text(text)] = content.parts() {
            return Self::Text(text.clone());
        }
        let mut number = |rows: &SoftTokens| {
            soft.iter().position(|other| other == rows).unwrap_or_else(|| {
                soft.push(rows.clone());
                soft.len() - 1
            })
        };
        let part = |part: &Part| match part {
            Part::Text(text) => SavedPart::Text(text.clone()),
            Part::Soft(rows) => SavedPart::Soft(number(rows)),
            Part::Video(frames) => SavedPart::Video(frames.iter().map(|frame| (frame.at, number(&frame.soft))).collect()),
        };
        Self::Parts(content.parts().iter().map(part).collect())
    }
}

impl SavedPart {
    fn with(self, soft: &[SoftTokens]) -> Result<Part> {
        let rows = |number: usize| {
            let missing = || Error::Saved(format!("shows soft tokens number {number} of {}: corrupt", soft.len()));
            soft.get(number).cloned().ok_or_else(missing)
        };
        Ok(match self {
            Self::Text(text) => Part::Text(text),
            Self::Soft(number) => Part::Soft(rows(number)?),
            Self::Video(frames) => {
                let frame = |(at, number)| Ok(VideoFrame { at, soft: rows(number)? });
                Part::Video(frames.into_iter().map(frame).collect::<Result<_>>()?)
            }
        })
    }
}
