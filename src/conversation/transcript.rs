//! The messages of a conversation, and its prompt.

use crate::{
    Error, Result,
    prompt::Prompt,
    text::{ChatTemplate, Message, Tokenizer},
};

/// Turns, or plain text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Transcript {
    /// Nothing was said yet.
    Empty,
    /// Messages in the model's chat format.
    Turns {
        messages: Vec<Message>,
        /// Messages after the instructions that the model sees no more.
        forgotten: usize,
    },
    /// A text.
    Text {
        /// Its tokens, beginning with BOS.
        tokens: Vec<u32>,
        /// Tokens behind the first that are gone.
        forgotten: usize,
    },
}

impl Transcript {
    pub(super) fn messages(&self) -> &[Message] {
        match self {
            Self::Turns { messages, .. } => messages,
            Self::Empty | Self::Text { .. } => &[],
        }
    }

    /// Messages of which the model sees the instructions and all but `forgotten` others.
    ///
    /// # Errors
    /// [`Error::Saved`] where there are not so many.
    pub(super) fn turns(messages: Vec<Message>, forgotten: usize) -> Result<Self> {
        if forgotten <= messages.len() - instructions(&messages) {
            Ok(Self::Turns { messages, forgotten })
        } else {
            Err(Error::Saved(format!("forgets {forgotten} of {} messages", messages.len())))
        }
    }

    /// # Errors
    /// [`Error::Saved`] for more forgotten tokens than a text may have.
    pub(super) fn text(tokens: Vec<u32>, forgotten: usize) -> Result<Self> {
        match u32::try_from(forgotten) {
            Ok(_) if tokens.is_empty() => Ok(Self::Empty),
            Ok(_) => Ok(Self::Text { tokens, forgotten }),
            Err(_) => Err(Error::Saved(format!("is a text that forgets {forgotten} tokens"))),
        }
    }

    /// Adds a message.
    ///
    /// # Errors
    /// [`Error::Chat`] in plain text.
    pub(super) fn push(&mut self, message: Message) -> Result<()> {
        match self {
            Self::Empty => *self = Self::Turns { messages: vec![message], forgotten: 0 },
            Self::Turns { messages, .. } => messages.push(message),
            Self::Text { .. } => return Err(Error::Chat("this conversation is plain text; start another for messages".into())),
        }
        Ok(())
    }

    /// Keeps the first messages, or the first tokens of text.
    pub(super) fn truncate(&mut self, kept_messages: usize, kept_tokens: usize) {
        match self {
            Self::Turns { messages, forgotten } if kept_messages > 0 => {
                messages.truncate(kept_messages);
                // The end is seen, also if it was forgotten.
                let seen = messages.len() - instructions(messages) > *forgotten;
                *forgotten = if seen { *forgotten } else { 0 };
            }
            Self::Text { tokens, forgotten } if kept_tokens > 0 => tokens.truncate(kept_tokens.saturating_sub(*forgotten).max(1)),
            _ => *self = Self::Empty,
        }
    }

    /// Adds text.
    ///
    /// # Errors
    /// [`Error::Chat`] among messages, and those of encoding.
    pub(super) fn write(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<()> {
        match self {
            Self::Turns { .. } => {
                return Err(Error::Chat("this conversation consists of messages; start another for plain text".into()));
            }
            Self::Empty => *self = Self::Text { tokens: tokenizer.encode(text, true)?, forgotten: 0 },
            Self::Text { tokens, .. } => tokens.extend(tokenizer.encode(text, false)?),
        }
        Ok(())
    }

    /// What the model sees, with its turn opened or not.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt`].
    pub(super) fn prompt(&self, chat: &ChatTemplate, tokenizer: &Tokenizer, open: bool) -> Result<Prompt> {
        match self {
            Self::Empty => Ok(Prompt::new()),
            Self::Text { tokens, .. } => Ok(tokens.into()),
            Self::Turns { messages, forgotten: 0 } => chat.prompt(tokenizer, messages, open),
            Self::Turns { messages, forgotten } => {
                let instructions = instructions(messages);
                let seen = [&messages[..instructions], &messages[instructions + forgotten..]].concat();
                chat.prompt(tokenizer, &seen, open)
            }
        }
    }

    /// Forgets the oldest: of messages the exchange that the model still sees, up to the next of a user; of text the
    /// first half behind its first token. `false` where nothing can be spared.
    pub(super) fn forget(&mut self) -> bool {
        match self {
            Self::Empty => false,
            Self::Turns { messages, forgotten } => {
                let seen = &messages[instructions(messages) + *forgotten..];
                let next = seen.iter().skip(1).position(|message| matches!(message, Message::User(_)));
                next.inspect(|next| *forgotten += next + 1).is_some()
            }
            Self::Text { tokens, forgotten } => {
                let spared = (tokens.len() / 2).saturating_sub(1);
                if spared > 0 {
                    tokens.drain(1..=spared);
                }
                *forgotten += spared;
                spared > 0
            }
        }
    }
}

/// Messages of the kind that is never forgotten, at the beginning.
fn instructions(messages: &[Message]) -> usize {
    messages.iter().take_while(|message| matches!(message, Message::System(_))).count()
}
