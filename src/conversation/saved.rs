//! Conversations as bytes.
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFCV` |
//! | 4 | version, 1, or 2 with messages of several parts, little-endian as all that follows |
//! | 8 | length of the text |
//! | 8 | FNV-1a (64 bits) of the text |
//! | … | messages or text, options, and how far an answer is, as JSON ([`messages`]) |
//! | 8 · 2, … | version 2: length and FNV-1a of the soft tokens, and these one after the other ([`crate::prompt::saved`]) |
//! | … | the history with its rows, as [`GemmaGenerator::save`](crate::generate::GemmaGenerator::save) writes it |

mod messages;

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use serde::{Deserialize, Serialize};

use super::{AnswerOptions, Conversation, Event, Model, Usage, answer::Answer, transcript::Transcript};
use crate::{
    Error, Result,
    checksum::Fnv,
    platform,
    prompt::{SoftTokens, saved as rows},
    runtime::Wait,
};
use messages::SavedMessage;

const MAGIC: &[u8; 8] = b"GEMMAFCV";
const TEXT: u32 = 1;
const WITH_PARTS: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<SavedMessage>,
    forgotten: usize,
    text: Option<Vec<u32>>,
    options: AnswerOptions,
    answer: Option<SavedAnswer>,
    /// Events that were not taken yet.
    events: Vec<Event>,
}

#[derive(Serialize, Deserialize)]
struct SavedAnswer {
    /// Tokens of its prompt, and how many of them were cached.
    prompt: usize,
    cached: usize,
    /// Tokens of the prompt that were told to be read.
    read: usize,
    tokens: Vec<u32>,
    /// The stop texts that it began with; the options may have others since.
    stop: Vec<String>,
}

impl Conversation {
    /// Writes the conversation: messages with their pictures, options, an answer under way, and the history with its
    /// rows, so that
    /// [`Model::restore`] goes on without computing anything again. [Hooks](Self::with_hooks) are not in it, nor is a
    /// wish to cancel.
    ///
    /// # Errors
    /// [`Error::Saved`] if the writer fails; errors of the device. The conversation continues as it was.
    pub fn save(&mut self, mut writer: impl Write) -> Result<()> {
        self.save_blocking(&mut writer)
    }

    /// Not generic, so that it is compiled with this crate and not again with each one that saves.
    fn save_blocking(&mut self, writer: &mut dyn Write) -> Result<()> {
        platform::wait("saving a conversation", self.save_by(writer, Wait::Thread))
    }

    /// As [`save`](Self::save), without blocking the thread for the device; needs no particular executor.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_async(&mut self, writer: impl Write) -> Result<()> {
        self.save_by(writer, Wait::Task).await
    }

    async fn save_by(&mut self, mut writer: impl Write, wait: Wait) -> Result<()> {
        self.write_transcript(&mut writer)?;
        self.generator.save_by(writer, wait).await
    }

    /// Everything but the history.
    fn write_transcript(&mut self, writer: &mut dyn Write) -> Result<()> {
        self.catch_up()?;
        let (forgotten, text) = match &self.transcript {
            Transcript::Empty => (0, None),
            Transcript::Turns { forgotten, .. } => (*forgotten, None),
            Transcript::Text { tokens, forgotten } => (*forgotten, Some(tokens.clone())),
        };
        let mut soft = Vec::new();
        let messages: Vec<_> = self.messages().iter().map(|message| SavedMessage::new(message, &mut soft)).collect();
        let version = if messages.iter().all(SavedMessage::is_plain) { TEXT } else { WITH_PARTS };
        let answer = self.answer.as_ref().map(|answer| {
            let Usage { prompt_tokens: prompt, cached_tokens: cached, .. } = answer.usage;
            let tokens = answer.tokens.clone();
            let stop = answer.stop_texts().to_vec();
            SavedAnswer { prompt, cached, read: answer.read, tokens, stop }
        });
        let events = self.events.iter().cloned().collect();
        let saved = Saved { messages, forgotten, text, options: self.options.clone(), answer, events };
        let text = serde_json::to_vec(&saved).map_err(|error| Error::Saved(format!("cannot be written: {error}")))?;
        let mut put = |bytes: &[u8]| writer.write_all(bytes).map_err(|error| Error::Saved(format!("cannot be written: {error}")));
        put(MAGIC)?;
        put(&version.to_le_bytes())?;
        sealed(&text, &mut put)?;
        if version == WITH_PARTS {
            let mut bytes = Vec::new();
            let mut append = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            soft.iter().try_for_each(|rows| rows::write(rows, &mut append))?;
            sealed(&bytes, &mut put)?;
        }
        Ok(())
    }
}

impl Model {
    /// A conversation that [`Conversation::save`] wrote, on any device. Its history may come from an untrusted place:
    /// it is refused or taken whole. Reads what was written and not a byte more: hand in `&mut reader` to go on reading
    /// behind it.
    ///
    /// # Errors
    /// As [`GemmaGenerator::restore`](crate::generate::GemmaGenerator::restore): [`Error::Saved`] for another model's,
    /// and for bytes that are cut or corrupt.
    pub fn restore(&self, mut reader: impl Read) -> Result<Conversation> {
        self.restore_from(&mut reader)
    }

    fn restore_from(&self, reader: &mut dyn Read) -> Result<Conversation> {
        let version = version(reader)?;
        let text = unsealed(reader)?;
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| Error::Saved(format!("is no conversation: {error}")))?;
        let mut soft = Vec::new();
        if version == WITH_PARTS {
            soft = soft_tokens(&unsealed(reader)?, self.config().hidden_size)?;
        }
        let messages = saved.messages.into_iter().map(|message| message.with(&soft)).collect::<Result<Vec<_>>>()?;
        let mut conversation = self.conversation()?;
        conversation.generator.restore(reader)?;
        conversation.options = saved.options;
        conversation.is_new = false;
        conversation.transcript = match saved.text {
            Some(tokens) => Transcript::text(tokens, saved.forgotten)?,
            None if messages.is_empty() => Transcript::Empty,
            None => Transcript::turns(messages, saved.forgotten)?,
        };
        if let Some(SavedAnswer { prompt, cached, read, tokens, stop }) = saved.answer {
            let mut answer = Answer::new(
                conversation.reader()?,
                &stop,
                Usage { prompt_tokens: prompt, cached_tokens: cached, completion_tokens: 0 },
            );
            answer.read = read;
            // Its text was taken before, or is among the events.
            let mut told = VecDeque::new();
            for token in tokens {
                answer.push(token, false, &mut told);
            }
            conversation.answer = Some(answer);
        }
        conversation.events = saved.events.into();
        Ok(conversation)
    }
}

/// Writes bytes behind their length and their sum.
fn sealed(bytes: &[u8], put: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    put(&(bytes.len() as u64).to_le_bytes())?;
    put(&Fnv::of(bytes).to_le_bytes())?;
    put(bytes)
}

/// Bytes behind their length and their sum; as much memory as bytes that are there.
fn unsealed(reader: &mut dyn Read) -> Result<Vec<u8>> {
    let mut word = [0; 8];
    reader.read_exact(&mut word).map_err(unread)?;
    let len = u64::from_le_bytes(word);
    reader.read_exact(&mut word).map_err(unread)?;
    let sum = u64::from_le_bytes(word);
    let mut bytes = Vec::new();
    let read = reader.take(len).read_to_end(&mut bytes).map_err(unread)?;
    if read as u64 == len && Fnv::of(&bytes) == sum {
        Ok(bytes)
    } else {
        Err(Error::Saved("has a wrong checksum: cut or corrupt".into()))
    }
}

fn version(reader: &mut dyn Read) -> Result<u32> {
    let mut magic = [0; 8];
    reader.read_exact(&mut magic).map_err(unread)?;
    if &magic != MAGIC {
        return Err(Error::Saved("does not begin as save() begins it: another file?".into()));
    }
    let mut version = [0; 4];
    reader.read_exact(&mut version).map_err(unread)?;
    match u32::from_le_bytes(version) {
        version @ (TEXT | WITH_PARTS) => Ok(version),
        other => Err(Error::Saved(format!("has version {other}, this release reads {TEXT} and {WITH_PARTS}"))),
    }
}

/// The soft tokens that messages refer to, all of rows of `width` numbers.
fn soft_tokens(mut bytes: &[u8], width: usize) -> Result<Vec<SoftTokens>> {
    let mut soft = Vec::new();
    while !bytes.is_empty() {
        let (rows, rest) = rows::read(bytes)?;
        if rows.width() != width {
            let found = rows.width();
            return Err(Error::Saved(format!("has soft tokens of {found} numbers, this model's have {width}: corrupt")));
        }
        soft.push(rows);
        bytes = rest;
    }
    Ok(soft)
}

fn unread(error: std::io::Error) -> Error {
    Error::Saved(format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
