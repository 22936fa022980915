//! The events of an answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    generate::Chosen,
    text::{ChatEvent, ToolCall},
};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// A part of the prompt was read.
    Prompt {
        /// Tokens that have been read, those that were cached among them.
        done: usize,
        /// Tokens of the whole prompt.
        total: usize,
    },
    /// A token was chosen, with its log-probability and those of the likeliest tokens. Only where hooks ask for them,
    /// and before the token's text.
    Token(Chosen),
    /// More of the answer's text, in whole characters and without any stop string.
    Text(String),
    /// More of what the model thinks before it answers, in whole characters. Not for the user.
    Thought(String),
    /// A call of a tool, once it is complete.
    ToolCall(ToolCall),
    /// A call of a tool that cannot be read.
    BrokenToolCall {
        /// The model's output between the tokens of the call.
        text: String,
        /// The fault.
        problem: String,
    },
    /// The answer is over. Always the last event.
    End {
        /// The reason.
        finish_reason: FinishReason,
        /// The tokens that it took.
        usage: Usage,
    },
}

/// The reason why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn.
    Turn,
    /// The model waits for the responses to the tools that it called.
    ToolResponse,
    /// One of [`AnswerOptions::stop`](super::AnswerOptions::stop), by its index.
    Stop(usize),
    /// [`AnswerOptions::max_tokens`](super::AnswerOptions::max_tokens) were generated, or the context is full and
    /// [`Overflow::Forget`](super::Overflow::Forget) is not set: [`Conversation::left`](super::Conversation::left) is
    /// then 0. The text so far stays.
    Length,
    /// It was cancelled. The text so far stays.
    Cancelled,
}

/// Tokens of an answer and of its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt: all that the model saw before its answer.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not computed, because their rows were cached.
    pub cached_tokens: usize,
    /// Tokens of the answer, thoughts and control tokens among them.
    pub completion_tokens: usize,
}

impl Event {
    /// The event of a parser, but for the end, which is the conversation's to tell.
    pub(super) fn of(event: ChatEvent) -> Option<Self> {
        match event {
            ChatEvent::Text(text) => Some(Self::Text(text)),
            ChatEvent::Thought(text) => Some(Self::Thought(text)),
            ChatEvent::ToolCall(call) => Some(Self::ToolCall(call)),
            ChatEvent::BrokenToolCall { text, problem } => Some(Self::BrokenToolCall { text, problem }),
            ChatEvent::End(_) => None,
        }
    }
}

impl fmt::Display for Event {
    /// The answer's text; nothing for all else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            _ => Ok(()),
        }
    }
}
