//! Conversations as bytes.
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | `GEMMAFCV` |
//! | 4 | version, 1, little-endian as all that follows |
//! | 8 | length of the text |
//! | 8 | FNV-1a (64 bits) of the text |
//! | … | messages or text, options, and how far an answer is, as JSON |
//! | … | the history with its rows, as [`GemmaGenerator::save`](crate::generate::GemmaGenerator::save) writes it |

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use serde::{Deserialize, Serialize};

use super::{AnswerOptions, Conversation, Event, Model, Usage, answer::Answer, transcript::Transcript};
use crate::{Error, Result, checksum::Fnv, text::Message};

const MAGIC: &[u8; 8] = b"GEMMAFCV";
const VERSION: u32 = 1;
const HEADER: usize = 28;

#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
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
    /// Writes the conversation: messages, options, an answer under way, and the history with its rows, so that
    /// [`Model::restore`] goes on without computing anything again. [Hooks](Self::with_hooks) are not in it, nor is a
    /// wish to cancel.
    ///
    /// # Errors
    /// [`Error::Saved`] if the writer fails; errors of the device. The conversation continues as it was.
    pub fn save(&mut self, mut writer: impl Write) -> Result<()> {
        self.catch_up()?;
        let (messages, forgotten, text) = match &self.transcript {
            Transcript::Empty => (Vec::new(), 0, None),
            Transcript::Turns { messages, forgotten } => (messages.clone(), *forgotten, None),
            Transcript::Text { tokens, forgotten } => (Vec::new(), *forgotten, Some(tokens.clone())),
        };
        let answer = self.answer.as_ref().map(|answer| {
            let Usage { prompt_tokens: prompt, cached_tokens: cached, .. } = answer.usage;
            let tokens = answer.tokens.clone();
            let stop = answer.stop_texts().to_vec();
            SavedAnswer { prompt, cached, read: answer.read, tokens, stop }
        });
        let events = self.events.iter().cloned().collect();
        let saved = Saved { messages, forgotten, text, options: self.options.clone(), answer, events };
        let text = serde_json::to_vec(&saved).map_err(|error| Error::Saved(format!("cannot be written: {error}")))?;
        let header =
            [MAGIC.as_slice(), &VERSION.to_le_bytes(), &(text.len() as u64).to_le_bytes(), &Fnv::of(&text).to_le_bytes()];
        for bytes in header.into_iter().chain([text.as_slice()]) {
            writer.write_all(bytes).map_err(|error| Error::Saved(format!("cannot be written: {error}")))?;
        }
        self.generator.save(writer)
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
        let mut header = [0; HEADER];
        reader.read_exact(&mut header).map_err(|error| Error::Saved(format!("cannot be read: {error}")))?;
        let text = text(&header, &mut reader)?;
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| Error::Saved(format!("is no conversation: {error}")))?;
        let mut conversation = self.conversation()?;
        conversation.generator.restore(reader)?;
        conversation.options = saved.options;
        conversation.is_new = false;
        conversation.transcript = match saved.text {
            Some(tokens) => Transcript::text(tokens, saved.forgotten)?,
            None if saved.messages.is_empty() => Transcript::Empty,
            None => Transcript::turns(saved.messages, saved.forgotten)?,
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

/// The text behind a header; as much memory as bytes that are there.
fn text(header: &[u8; HEADER], reader: &mut impl Read) -> Result<Vec<u8>> {
    let number = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    if &header[..8] != MAGIC {
        return Err(Error::Saved("does not begin as save() begins it: another file?".into()));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version != VERSION {
        return Err(Error::Saved(format!("has version {version}, this release reads {VERSION}")));
    }
    let mut text = Vec::new();
    let read =
        reader.take(number(12)).read_to_end(&mut text).map_err(|error| Error::Saved(format!("cannot be read: {error}")))?;
    if read as u64 == number(12) && Fnv::of(&text) == number(20) {
        Ok(text)
    } else {
        Err(Error::Saved("has a wrong checksum: cut or corrupt".into()))
    }
}
