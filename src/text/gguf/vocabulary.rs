//! The tokens of a GGUF file: their strings as Hugging Face spells them, and what each is.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokenizers::{AddedToken, models::bpe::Vocab};

use crate::{text::tokenizer::SPACE, weights::GgufMetadata};

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Learned from text, or of a type that says nothing.
    Normal,
    /// Never text.
    Control,
    /// Defined by a user: looked for in a text before anything is merged, shown in text.
    UserDefined,
    /// One byte of a character that has no token of its own.
    Byte,
}

impl Kind {
    /// By the numbers of `tokenizer.ggml.token_type`; `<unk>` (2) is a control token.
    fn of(number: i32) -> Self {
        match number {
            2 | 3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Tokens by id. The string of an id that has none is empty.
pub(super) struct Vocabulary {
    strings: Vec<String>,
    kinds: Vec<Kind>,
    /// None in files that list their merges instead.
    scores: Option<Vec<f32>>,
    /// True if scores order the tokens: some converters write one for all.
    scores_differ: bool,
    /// Typed as text, yet set apart by every converter that types them: white space and tags, which SentencePiece did
    /// not learn.
    unlearned: Vec<bool>,
    /// True if tokens of `unlearned` are looked for in a text: not in Gemma 1, whose `tokenizer.json` merges them.
    found_first: bool,
    /// The id that stands for each string.
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// `found_first` as in the type. Scores are read from files of SentencePiece alone; elsewhere they mean nothing.
    pub(super) fn of(metadata: &GgufMetadata, found_first: bool) -> Result<Self, String> {
        let key = "tokenizer.ggml.tokens";
        let texts = metadata.texts(key)?.ok_or_else(|| format!("{key} is missing"))?;
        let count = texts.len();
        let kinds = match numbers(metadata, "tokenizer.ggml.token_type", count)? {
            Some(types) => types.into_iter().map(|ty| Kind::of(ty as i32)).collect(),
            None => {
                tracing::warn!("tokenizer.ggml.token_type is missing: control tokens are known by their names alone");
                vec![Kind::Normal; count]
            }
        };
        let mut strings: Vec<String> = texts.into_iter().map(str::to_string).collect();
        for (id, (string, kind)) in strings.iter_mut().zip(&kinds).enumerate() {
            // llama.cpp writes the spaces that such a token stands for; a padding row is no token.
            if *kind == Kind::UserDefined {
                *string = string.replace(' ', SPACE);
            } else if *string == format!("[PAD{id}]") {
                string.clear();
            }
        }
        // The byte of a tab is the tab itself, so that tokens of several tabs can be merged from it.
        if !strings.iter().any(|string| string == "\t")
            && let Some(tab) = strings.iter_mut().find(|string| string.as_str() == "<0x09>")
        {
            *tab = "\t".into();
        }
        let scores = match metadata.text("tokenizer.ggml.model")? {
            Some("llama") => {
                let key = "tokenizer.ggml.scores";
                Some(numbers(metadata, key, count)?.ok_or_else(|| format!("{key} is missing"))?)
            }
            _ => None,
        };
        let scores_differ = scores.as_ref().is_some_and(|scores| differ(scores, &kinds));
        let mut vocabulary =
            Self { strings, kinds, scores, scores_differ, unlearned: Vec::new(), found_first, ids: HashMap::new() };
        vocabulary.unlearned = vocabulary.find_unlearned();
        vocabulary.ids = vocabulary.representatives();
        Ok(vocabulary)
    }

    /// Ids from 0 on, those without a string included.
    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    /// The string of an id, where it has one.
    pub(super) fn string(&self, id: usize) -> Option<&str> {
        self.strings.get(id).map(String::as_str).filter(|string| !string.is_empty())
    }

    /// The id that stands for a string: of several, a control token before others and then the lowest.
    pub(super) fn id(&self, string: &str) -> Option<u32> {
        self.ids.get(string).copied()
    }

    /// Every string with the id that stands for it, by id.
    pub(super) fn strings(&self) -> impl Iterator<Item = (u32, &str)> {
        let stands = |(id, string): &(u32, &str)| self.id(string) == Some(*id);
        (0..).zip(self.strings.iter().map(String::as_str)).filter(stands)
    }

    pub(super) fn by_string(&self) -> Vocab {
        self.ids.iter().map(|(string, id)| (string.clone(), *id)).collect()
    }

    /// Ids whose string another id stands for, with that id.
    pub(super) fn aliases(&self) -> BTreeMap<u32, u32> {
        let other = |(id, string): (u32, &String)| self.id(string).filter(|stands| *stands != id).map(|stands| (id, stands));
        (0..).zip(&self.strings).filter_map(other).collect()
    }

    /// Tokens that the file's types set apart from text.
    pub(super) fn control(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.kinds).filter(|(_, kind)| **kind == Kind::Control).map(|(id, _)| id)
    }

    /// Returns `true` if no score says when a token is merged: it was not learned from text.
    pub(super) fn is_defined(&self, id: u32) -> bool {
        self.kinds[id as usize] == Kind::UserDefined || self.unlearned[id as usize]
    }

    /// The score of a token that was learned from text; where a file has one for all, ids are in the order of the
    /// scores.
    pub(super) fn score(&self, id: u32) -> Option<f32> {
        let index = id as usize;
        match &self.scores {
            _ if self.kinds[index] != Kind::Normal => None,
            Some(scores) if self.scores_differ => Some(scores[index]),
            _ => Some(-(id as f32)),
        }
    }

    /// The string of the token for what cannot be encoded, by the id that the file gives, else by its type or name.
    pub(super) fn unknown(&self, id: Option<usize>) -> Result<String, String> {
        let named = || self.id("<unk>").map(|id| id as usize).unwrap_or(3);
        let id = id.unwrap_or_else(named);
        let string = self.string(id).map(str::to_string);
        string.ok_or_else(|| format!("tokenizer.ggml.unknown_token_id {id} is no token"))
    }

    /// Tokens that are looked for in a text before anything is merged.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let added = |(id, string): (u32, &str)| match self.kinds[id as usize] {
            Kind::Control => Some(AddedToken::from(string, true).normalized(false)),
            Kind::UserDefined => {
                // A run of `▁` is found where a text spells it so; of other tokens every `▁` was a space.
                let spaces = string.contains(SPACE) && string.chars().any(|c| c != '▁');
                Some(AddedToken::from(string, false).normalized(spaces))
            }
            _ if self.found_first && self.unlearned[id as usize] => Some(AddedToken::from(string, false).normalized(false)),
            _ => None,
        };
        self.strings().filter_map(added).collect()
    }

    fn representatives(&self) -> HashMap<String, u32> {
        let mut ids = HashMap::with_capacity(self.strings.len());
        let (control, others): (Vec<u32>, Vec<u32>) =
            (0..self.strings.len() as u32).partition(|id| self.kinds[*id as usize] == Kind::Control);
        for id in control.into_iter().chain(others) {
            let string = &self.strings[id as usize];
            if !string.is_empty() && !ids.contains_key(string) {
                ids.insert(string.clone(), id);
            }
        }
        ids
    }

    /// Gemma's white space and tags stand before the bytes, or share one score, which learned tokens never do.
    fn find_unlearned(&self) -> Vec<bool> {
        let Some(scores) = &self.scores else { return vec![false; self.strings.len()] };
        let bytes = self.strings.iter().position(|string| string == "<0x00>").unwrap_or(0);
        let mut seen = HashSet::new();
        let learned = (0..self.strings.len()).filter(|id| self.kinds[*id] == Kind::Normal);
        let shared: HashSet<u32> = learned.map(|id| scores[id].to_bits()).filter(|score| !seen.insert(*score)).collect();
        let unlearned = |(id, string): (usize, &String)| {
            let shares = self.scores_differ && shared.contains(&scores[id].to_bits());
            let told = !self.scores_differ && (is_white(string) || string.starts_with('['));
            let apart = id < bytes || shares || told;
            self.kinds[id] == Kind::Normal && apart && (is_white(string) || is_tag(string))
        };
        self.strings.iter().enumerate().map(unlearned).collect()
    }
}

/// Returns `true` if two learned tokens have different scores.
fn differ(scores: &[f32], kinds: &[Kind]) -> bool {
    let mut learned = scores.iter().zip(kinds).filter(|(_, kind)| **kind == Kind::Normal).map(|(score, _)| score);
    let first = learned.next();
    learned.any(|score| Some(score) != first)
}

/// A list of numbers, one a token.
fn numbers(metadata: &GgufMetadata, key: &str, expected: usize) -> Result<Option<Vec<f32>>, String> {
    match metadata.numbers(key)? {
        Some(values) if values.len() != expected => {
            Err(format!("{key} has {} entries, tokenizer.ggml.tokens {expected}", values.len()))
        }
        values => Ok(values),
    }
}

/// A new line, or a run of one kind of white space.
fn is_white(string: &str) -> bool {
    let mut chars = string.chars();
    match chars.next() {
        Some(first @ ('\n' | '\t' | '▁')) => (first == '\n' || string.len() > first.len_utf8()) && chars.all(|c| c == first),
        _ => false,
    }
}

/// `<table>`, `[toxicity=0]`, `[@BOS@]`; not `[...]`, which was learned.
fn is_tag(string: &str) -> bool {
    let inner = |open, close| string.strip_prefix(open)?.strip_suffix(close).filter(|inner: &&str| !inner.is_empty());
    let named = |inner: &str| inner.starts_with(|c: char| c.is_alphabetic() || c == '@');
    (inner('<', '>').is_some() || inner('[', ']').is_some_and(named)) && !string.contains(char::is_whitespace)
}
