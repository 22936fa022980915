//! The tokens that a `tokenizer.json` lists. The tokenizers crate keeps less: it gives added tokens new ids behind a
//! gap in the vocabulary, and counts the tokens, not the ids. Of a string that is listed twice it forgets one id.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use tokenizers::Tokenizer;

/// The largest id that a file may give: twenty times that of the largest vocabulary.
const MOST: u32 = 1 << 23;

/// The ids of a vocabulary.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Ids whose string another id has too, which stands for both.
    pub(super) aliases: BTreeMap<u32, u32>,
    /// Ids from 0 on, those without a string included.
    pub(super) size: usize,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default, borrow)]
    added_tokens: Vec<Added<'a>>,
    #[serde(borrow)]
    model: Model<'a>,
    // The crate panics at faults of the syntax in here, so that it is read first.
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u32,
    #[serde(borrow)]
    content: Text<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(default, borrow)]
    vocab: Entries<'a>,
}

/// A text that is copied only where it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

/// The entries of an object as they stand, those of equal names too.
#[derive(Default)]
struct Entries<'a>(Vec<(Text<'a>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and their ids")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries<'de>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Reads a `tokenizer.json` so that every token has the id that the file gives it.
pub(super) fn read(bytes: &[u8]) -> Result<(Tokenizer, Listed), String> {
    let unreadable = |e: &dyn fmt::Display| format!("this is not a tokenizer.json that can be read: {e}");
    let file: File = serde_json::from_slice(bytes).map_err(|e| unreadable(&e))?;
    let vocabulary = || file.model.vocab.0.iter().map(|(string, id)| (string.0.as_ref(), *id));
    let all = || vocabulary().chain(file.added_tokens.iter().map(|token| (token.content.0.as_ref(), token.id)));
    let last = all().map(|(_, id)| id).max().unwrap_or(0);
    if last >= MOST {
        return Err(format!("it gives a token the id {last}, expected less than {MOST}"));
    }
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| unreadable(&e))?;
    let moved = |token: &&Added| tokenizer.token_to_id(&token.content.0) != Some(token.id);
    let mut moved = file.added_tokens.iter().filter(moved).map(|token| token.content.0.as_ref()).peekable();
    let known: HashSet<&str> =
        if moved.peek().is_some() { vocabulary().map(|(string, _)| string).collect() } else { HashSet::new() };
    if moved.any(|string| !known.contains(string)) {
        tokenizer = Tokenizer::from_bytes(filled(bytes).map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
    }
    let mut listed = Listed { aliases: BTreeMap::new(), size: last as usize + 1 };
    for (string, id) in all().filter(|(string, _)| !string.is_empty()) {
        if let Some(stands) = tokenizer.token_to_id(string).filter(|stands| *stands != id)
            && tokenizer.id_to_token(id).is_none_or(|there| there == string)
        {
            listed.aliases.insert(id, stands);
        }
    }
    Ok((tokenizer, listed))
}

/// The file with its added tokens in the vocabulary too, at the ids that it gives them: the crate keeps those. No merge
/// leads to them.
fn filled(bytes: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut file: Value = serde_json::from_slice(bytes)?;
    let added = file["added_tokens"].as_array().cloned().unwrap_or_default();
    if let Some(vocabulary) = file["model"]["vocab"].as_object_mut() {
        for token in added {
            if let Some(content) = token["content"].as_str() {
                vocabulary.entry(content).or_insert_with(|| token["id"].clone());
            }
        }
    }
    serde_json::to_vec(&file)
}
