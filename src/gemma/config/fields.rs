//! A JSON object read key by key, so that what nobody read can be refused.

use serde_json::{Map, Value};

use super::{absent::Defaults, unknown};
use crate::{Error, Result};

/// One JSON object that is being used up, key by key.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// The prefix of keys in messages: empty or `text_config.`.
    prefix: String,
}

impl Fields {
    pub(super) fn new(map: Map<String, Value>, prefix: impl Into<String>) -> Self {
        Self { map, prefix: prefix.into() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    pub(super) fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_string(), value);
    }

    /// Drops the keys that `other` has with the same value.
    pub(super) fn drop_repeated(&mut self, other: &Fields) {
        self.map.retain(|key, value| other.map.get(key) != Some(value));
    }

    /// The value of `key`, used up; `null` counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|v| !v.is_null())
    }

    /// An id, if the key has one.
    pub(super) fn token_id(&mut self, key: &str) -> Option<u32> {
        self.take(key).as_ref().and_then(token_id)
    }

    /// A key with its value, cut short.
    pub(super) fn shown(&self, key: &str, value: &Value) -> String {
        format!("{}{key} = {}", self.prefix, short(value))
    }

    pub(super) fn refuse(&self, key: &str, value: &Value, expected: &str) -> Error {
        Error::Config(format!("{}{key} is {}, expected {expected}", self.prefix, short(value)))
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_f64().map(|v| Some(v as f32)).ok_or_else(|| self.refuse(key, &value, "a number"))
    }

    pub(super) fn size(&mut self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(size) => Ok(Some(size)),
            None => Err(self.refuse(key, &value, "a whole number that is not negative")),
        }
    }

    /// A size; where the key is absent what the table says, and where that says nothing an error.
    pub(super) fn size_or(&mut self, defaults: &Defaults, key: &str) -> Result<usize> {
        self.not_null(key, "a whole number")?;
        self.size(key)?.or_else(|| defaults.size(key)).ok_or_else(|| self.missing(key))
    }

    /// As [`size_or`](Self::size_or), a number.
    pub(super) fn number_or(&mut self, defaults: &Defaults, key: &str) -> Result<f32> {
        self.not_null(key, "a number")?;
        self.number(key)?.or_else(|| defaults.number(key)).ok_or_else(|| self.missing(key))
    }

    /// As [`size_or`](Self::size_or), a switch, for which `null` is absent.
    pub(super) fn switch_or(&mut self, defaults: &Defaults, key: &str) -> Result<bool> {
        self.switch(key)?.or_else(|| defaults.switch(key)).ok_or_else(|| self.missing(key))
    }

    /// A softcap: absent means what the table says, `null` off.
    pub(super) fn cap(&mut self, defaults: &Defaults, key: &str) -> Result<Option<f32>> {
        if self.has(key) { self.number(key) } else { defaults.cap(key).ok_or_else(|| self.missing(key)) }
    }

    fn not_null(&self, key: &str, expected: &str) -> Result<()> {
        match self.map.get(key) {
            Some(Value::Null) => Err(self.refuse(key, &Value::Null, expected)),
            _ => Ok(()),
        }
    }

    fn missing(&self, key: &str) -> Error {
        Error::Config(format!("{}{key} is missing, and the family has no value for all its models", self.prefix))
    }

    pub(super) fn switch(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refuse(key, &value, "true or false"))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.refuse(key, &value, "a string")),
        }
    }

    /// The list under `key`, used up; what is no list stays.
    pub(super) fn list(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        if !self.map.get(key).is_some_and(Value::is_array) {
            return Ok(None);
        }
        match self.take(key) {
            Some(Value::Array(list)) => Ok(Some(list)),
            _ => Ok(None),
        }
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Fields>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields::new(map, format!("{}{key}.", self.prefix)))),
            Some(value) => Err(self.refuse(key, &value, "an object")),
        }
    }

    /// The objects that this one holds, by their keys. Another value comes as an object with it under no name.
    pub(super) fn entries(self) -> impl Iterator<Item = (String, Fields)> {
        let prefix = self.prefix;
        self.map.into_iter().map(move |(key, value)| {
            let inner = format!("{prefix}{key}.");
            let map = match value {
                Value::Object(map) => map,
                other => Map::from_iter([(String::new(), other)]),
            };
            (key, Fields::new(map, inner))
        })
    }

    /// One token id: absent means what the table says, `null` none.
    pub(super) fn token(&mut self, defaults: &Defaults, key: &str) -> Result<Option<u32>> {
        if !self.has(key) {
            return Ok(defaults.size(key).and_then(|id| u32::try_from(id).ok()));
        }
        let Some(value) = self.take(key) else { return Ok(None) };
        let id = match value.as_array().map(Vec::as_slice) {
            Some([lone]) => token_id(lone),
            _ => token_id(&value),
        };
        id.map(Some).ok_or_else(|| self.refuse(key, &value, "a token id"))
    }

    /// A token id or a list of them; `None` where the key is absent.
    pub(super) fn tokens(&mut self, key: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.map.remove(key) else { return Ok(None) };
        let ids = match &value {
            Value::Null => Some(Vec::new()),
            Value::Array(list) => list.iter().map(token_id).collect(),
            single => token_id(single).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.refuse(key, &value, "a token id or a list of token ids"))
    }

    /// Settles the keys that nobody has used up: those that may change what a model computes are refused by name,
    /// others are told by one warning. `harmless` are keys that say nothing of the mathematics.
    pub(super) fn finish(self, harmless: &[&[&str]]) -> Result<()> {
        let known = |key: &str| harmless.iter().any(|list| list.contains(&key));
        let left = self.map.iter().filter(|(key, value)| !value.is_null() && !known(key));
        let mut ignored = Vec::new();
        for (key, value) in left {
            if !unknown::changes_nothing(key, value) {
                return Err(self.unknown(key, value));
            }
            ignored.push(format!("{}{key}", self.prefix));
        }
        if !ignored.is_empty() {
            tracing::warn!(keys = ignored.join(", "), "the configuration has keys that nothing here reads");
        }
        Ok(())
    }

    /// Refuses every key that nobody has used up and that is neither `null` nor among `harmless`: in a table of the
    /// mathematics each counts.
    pub(super) fn finish_table(self, harmless: &[&str]) -> Result<()> {
        match self.map.iter().find(|(key, value)| !value.is_null() && !harmless.contains(&key.as_str())) {
            Some((key, value)) => Err(self.unknown(key, value)),
            None => Ok(()),
        }
    }

    fn unknown(&self, key: &str, value: &Value) -> Error {
        let found = format!("{}{key} = {}", self.prefix, short(value));
        Error::Config(format!("{found} is not known here and may change what the model computes; remove the key if it does not"))
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
