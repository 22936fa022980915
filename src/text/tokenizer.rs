//! A wrapper over the `tokenizers` crate that keeps text and control tokens apart.

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::AddedToken;

use crate::text::{
    TextStream,
    control::Named,
    frame::Frame,
    listed::{self, Listed},
};
use crate::{
    Error, Result,
    error::PromptError,
    files::ModelPath,
    text_file,
    weights::{FileLimits, is_gguf},
};

/// Gemma's space.
pub(super) const SPACE: &str = "▁";

/// The meaning of a token id.
pub(crate) enum Piece {
    /// Whole characters.
    Text(String),
    /// One byte of a character that has no token of its own (byte fallback).
    Byte(u8),
    /// A control token, or an id without a string: nothing to show.
    Control,
    /// An id that the tokenizer does not know.
    Unknown,
}

/// A Gemma tokenizer, read from a `tokenizer.json` or a GGUF file. Cloning is cheap: clones share the vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: tokenizers::Tokenizer,
    control: HashMap<String, u32>,
    control_ids: HashMap<u32, String>,
    bytes: HashMap<u32, u8>,
    listed: Listed,
    /// The token before a text, where the file says which.
    bos: Option<u32>,
    /// The tokens before and after every text.
    frame: [Vec<u32>; 2],
}

/// Facts of a file about its tokens that the tokenizers crate does not keep.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) frame: Frame,
    pub(super) named: Named,
    pub(super) listed: Listed,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the one in a model's folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is not a `tokenizer.json` of the kind that
    /// Gemma has.
    pub fn from_file(path: impl Into<ModelPath>) -> Result<Self> {
        Self::from_json_file(path.into())
    }

    fn from_json_file(mut path: ModelPath) -> Result<Self> {
        if path.is_dir() {
            path = path.join("tokenizer.json");
        }
        let bytes = path.read().map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let facts = Facts { frame: Frame::beside(&path)?, named: Named::beside(&path), ..Facts::default() };
        Self::parse(&bytes, facts).map_err(|problem| Error::Format { path: path.to_path_buf(), problem })
    }

    /// Reads the tokenizer that a GGUF file carries (of one in parts: the first). It gives the ids of Hugging Face's
    /// `tokenizer.json` for the same model; llama.cpp gives others for a
    /// literal `▁`, and for runs of white space in Gemma 1.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] as [`GgufLoader::from_file`](crate::checkpoint::GgufLoader::from_file);
    /// [`Error::Format`] if there is no tokenizer in it, or not one of the kind that Gemma has.
    pub fn from_gguf(path: impl Into<ModelPath>) -> Result<Self> {
        Self::from_gguf_with(path, FileLimits::default())
    }

    /// As [`from_gguf`](Self::from_gguf), for files whose headers ask for more than [`FileLimits::default`] allows.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn from_gguf_with(path: impl Into<ModelPath>, limits: FileLimits) -> Result<Self> {
        Self::from_gguf_files(&path.into(), limits)
    }

    fn from_gguf_files(path: &ModelPath, limits: FileLimits) -> Result<Self> {
        let (inner, facts) = super::gguf::read(path, limits)?;
        Self::wrap(inner, facts).map_err(|problem| Error::Format { path: path.to_path_buf(), problem })
    }

    /// Reads the tokenizer of a model: that inside a GGUF file, else the `tokenizer.json` in the folder of its weights.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf) and [`from_file`](Self::from_file).
    pub fn near_weights(weights: impl Into<ModelPath>) -> Result<Self> {
        let path: &ModelPath = &weights.into();
        if is_gguf(path) { Self::from_gguf(path) } else { Self::from_file(path.folder().join("tokenizer.json")) }
    }

    /// Takes the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is not a `tokenizer.json` of the kind that Gemma has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes, Facts::default()).map_err(Error::Tokenizer)
    }

    fn parse(bytes: &[u8], facts: Facts) -> Result<Self, String> {
        let (inner, listed) = listed::read(text_file::without_mark(bytes)?)?;
        Self::wrap(inner, Facts { listed, ..facts })
    }

    fn wrap(mut inner: tokenizers::Tokenizer, facts: Facts) -> Result<Self, String> {
        let Facts { frame, named, listed } = facts;
        // A file may carry the truncation and padding of whoever saved it.
        inner.with_truncation(None).map_err(|e| e.to_string())?.with_padding(None);

        let mut control_ids = named.of(&inner);
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let set_apart = added.iter().filter(|(id, token)| control_ids.contains_key(id) && !token.special);
        let missing: Vec<AddedToken> = set_apart.map(|(_, token)| AddedToken { special: true, ..token.clone() }).collect();
        if !missing.is_empty() {
            inner.add_special_tokens(missing).map_err(|e| e.to_string())?;
        }
        // "Encode special tokens" means: as the text that they look like.
        inner.set_encode_special_tokens(true);

        let space = inner.token_to_id(SPACE).and_then(|id| inner.decode(&[id], false).ok());
        if space.as_deref() != Some(" ") {
            return Err(format!(
                "its token '{SPACE}' stands for {space:?}, in Gemma's tokenizer it is one space; is this another model's file?"
            ));
        }
        let bytes = (0..=u8::MAX).filter_map(|b| inner.token_to_id(&format!("<0x{b:02X}>")).map(|id| (id, b))).collect();
        let control: HashMap<String, u32> = control_ids.iter().map(|(&id, name)| (name.clone(), id)).collect();
        for (id, stands) in &listed.aliases {
            if let Some(name) = control_ids.get(stands) {
                control_ids.insert(*id, name.clone());
            }
        }
        let bos = frame.bos_id;
        let frame = frame.ids(&inner)?;
        Ok(Self { shared: Arc::new(Shared { inner, control, control_ids, bytes, listed, bos, frame }) })
    }

    /// The token ids of plain text, after the BOS token if `add_bos`.
    ///
    /// Control tokens that the text spells out, such as `<start_of_turn>`, are encoded as the characters that they are.
    /// To place control tokens, use [`special_id`](Self::special_id) or [`ChatFormat`](crate::text::ChatFormat).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the vocabulary cannot express the text, or if a BOS token is asked for and there is
    /// none.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if add_bos {
            ids.push(self.shared.bos.map_or_else(|| self.required_id("<bos>"), Ok)?);
        }
        self.encode_onto(text, &mut ids)?;
        Ok(ids)
    }

    /// The token ids of plain text between those that the tokenizer puts around every text. The post-processor of its
    /// `tokenizer.json` decides, or the `add_bos_token` and `add_eos_token` of a `tokenizer_config.json` beside it, or
    /// those keys of a GGUF file. Generating models have BOS in front, EmbeddingGemma also EOS at the end.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_framed(&self, text: &str) -> Result<Vec<u32>> {
        let [front, end] = &self.shared.frame;
        let mut ids = front.clone();
        self.encode_onto(text, &mut ids)?;
        ids.extend(end);
        Ok(ids)
    }

    /// The tokens that [`encode_framed`](Self::encode_framed) puts before and after a text.
    pub(crate) fn frame(&self) -> &[Vec<u32>; 2] {
        &self.shared.frame
    }

    /// Appends the ids of plain text.
    pub(super) fn encode_onto(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let whole = self.encode_span(text)?;
        if !whole.iter().any(|&id| self.is_control(id)) {
            ids.extend(whole);
            return Ok(());
        }
        // The vocabulary's merges can build a control token out of its letters. Cutting each one that the text spells
        // after its first character leaves no span that contains one.
        for span in cut_inside(text, self.shared.control.keys().map(String::as_str)) {
            let part = self.encode_span(span)?;
            if let Some(id) = part.iter().find(|id| self.is_control(**id)) {
                let name = &self.shared.control_ids[id];
                return Err(Error::Tokenizer(format!(
                    "the vocabulary cannot express '{span}': it comes out as '{name}'; rephrase it"
                )));
            }
            ids.extend(part);
        }
        Ok(())
    }

    /// As [`encode_onto`](Self::encode_onto), and no part of the text becomes one of these tokens either.
    pub(super) fn encode_onto_without(&self, text: &str, names: &[String], without: &[u32], ids: &mut Vec<u32>) -> Result<()> {
        let start = ids.len();
        self.encode_onto(text, ids)?;
        if !ids[start..].iter().any(|id| without.contains(id)) {
            return Ok(());
        }
        ids.truncate(start);
        for span in cut_inside(text, names.iter().map(String::as_str)) {
            let part = self.encode_span(span)?;
            if let Some(id) = part.iter().find(|id| self.is_control(**id) || without.contains(id)) {
                return Err(Error::Tokenizer(format!(
                    "the vocabulary cannot express '{span}': it comes out as token {id}; rephrase it"
                )));
            }
            ids.extend(part);
        }
        Ok(())
    }

    /// The control tokens by name.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.shared.control.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// The id of any token by the string that the vocabulary has for it.
    pub(super) fn token_id(&self, name: &str) -> Option<u32> {
        self.shared.inner.token_to_id(name)
    }

    fn encode_span(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.shared.inner.encode_fast(text, false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn is_control(&self, id: u32) -> bool {
        self.shared.control_ids.contains_key(&id)
    }

    /// The text of tokens. Control tokens are left out; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`PromptError::TokenOutOfRange`] for an id that the tokenizer does not know.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut stream = self.stream();
        let mut text = String::new();
        for (index, &token) in ids.iter().enumerate() {
            let piece = self.piece(token);
            if matches!(piece, Piece::Unknown) {
                return Err(Error::Prompt(PromptError::TokenOutOfRange { token, index, vocab_size: self.vocab_size() }));
            }
            text.push_str(stream.take(piece).as_deref().unwrap_or_default());
        }
        text.push_str(&stream.finish());
        Ok(text)
    }

    /// A decoder for tokens that arrive one by one.
    pub fn stream(&self) -> TextStream {
        TextStream::new(self.clone())
    }

    /// The id of a control token by its name, such as `<bos>` or `<end_of_turn>`. `None` if there is none of that name:
    /// ordinary vocabulary has no entry here.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.shared.control.get(name).copied()
    }

    /// As [`special_id`](Self::special_id), for a token that cannot be done without.
    pub(super) fn required_id(&self, name: &str) -> Result<u32> {
        self.special_id(name).ok_or_else(|| {
            Error::Tokenizer(format!("there is no control token '{name}'; is this the tokenizer of a Gemma model?"))
        })
    }

    /// How many ids there are, those of added tokens and any without a string included: every token's id is less. A
    /// model's vocabulary may be larger (padding), or smaller by tokens that no text becomes.
    pub fn vocab_size(&self) -> usize {
        self.shared.listed.size
    }

    pub(crate) fn piece(&self, id: u32) -> Piece {
        if self.is_control(id) {
            return Piece::Control;
        }
        let id = self.shared.listed.aliases.get(&id).copied().unwrap_or(id);
        if let Some(&byte) = self.shared.bytes.get(&id) {
            return Piece::Byte(byte);
        }
        if self.shared.inner.id_to_token(id).is_none() {
            return if (id as usize) < self.vocab_size() { Piece::Control } else { Piece::Unknown };
        }
        self.shared.inner.decode(&[id], false).map_or(Piece::Unknown, Piece::Text)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Cuts `text` after the first character of every occurrence of every name.
fn cut_inside<'t, 'n>(text: &'t str, names: impl Iterator<Item = &'n str>) -> Vec<&'t str> {
    let mut cuts: Vec<usize> = names
        .filter_map(|name| name.chars().next().map(|first| (name, first.len_utf8())))
        .flat_map(|(name, first)| text.match_indices(name).map(move |(at, _)| at + first))
        .collect();
    cuts.push(text.len());
    cuts.sort_unstable();
    cuts.dedup();
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    starts.zip(cuts.iter().copied()).map(|(from, to)| &text[from..to]).filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests;
