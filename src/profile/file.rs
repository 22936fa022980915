//! From a TOML text to a profile; mistakes with their place.

use serde::Deserialize;
use toml::{Table, Value};

use super::{Backends, CompileProfile, Fusion, GEMMA_PROFILE_FILE, Passes, Precision};
use crate::{Error, Result, files::ModelPath, text_file};

/// A file: the sections for both modes, and those that override them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code)] // Read to check every key where it stands; the values come from the merged tables.
struct File {
    fusion: Fusion,
    passes: Passes,
    precision: Precision,
    backend: Backends,
    prefill: CompileProfile,
    decode: CompileProfile,
}

pub(super) fn read(path: &ModelPath, decode: bool) -> Result<CompileProfile> {
    let bytes = path.read().map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let bytes = text_file::without_mark(&bytes).map_err(|problem| at(path, "", 0, problem))?;
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(path, text, decode),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Err(at(path, &valid, valid.len(), "the text is not UTF-8".into()))
        }
    }
}

pub(super) fn near(weights: &ModelPath) -> Result<Option<ModelPath>> {
    let path = weights.folder().join(GEMMA_PROFILE_FILE);
    match path.try_exists() {
        Ok(there) => Ok(there.then_some(path)),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

pub(super) fn parse(path: &ModelPath, text: &str, decode: bool) -> Result<CompileProfile> {
    let wrong = |error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        let key = key_at(text, offset).map_or_else(String::new, |key| format!("{key}: "));
        at(path, text, offset, format!("{key}{}", error.message()))
    };
    toml::from_str::<File>(text).map_err(wrong)?;
    let mut sections: Table = toml::from_str(text).map_err(wrong)?;
    let modes = ["prefill", "decode"].map(|mode| sections.remove(mode));
    if let Some(Value::Table(overrides)) = modes.into_iter().nth(usize::from(decode)).flatten() {
        merge(&mut sections, overrides);
    }
    CompileProfile::deserialize(sections).map_err(wrong)
}

/// Puts the keys of `overrides` over those of `base`, table by table.
fn merge(base: &mut Table, overrides: Table) {
    for (key, value) in overrides {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => _ = base.insert(key, value),
        }
    }
}

/// A mistake at a byte of the text.
fn at(path: &ModelPath, text: &str, offset: usize, problem: String) -> Error {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::Profile { path: path.to_path_buf(), line, column, problem }
}

/// The key that a byte of the text belongs to, with its table: that of the last line up to there that begins with one.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let mut table = "";
    let mut key = None;
    let mut start = 0;
    for line in text.split_inclusive('\n').take_while(|line| {
        let here = start <= offset;
        start += line.len();
        here
    }) {
        let line = line.trim();
        match line.split_once('=') {
            None if line.starts_with('[') && line.ends_with(']') => {
                (table, key) = (line.trim_matches(|c| c == '[' || c == ']').trim(), None);
            }
            Some((name, _)) => key = Some(name.trim().trim_matches('"')),
            None => {}
        }
    }
    match (table, key) {
        ("", None) => None,
        ("", Some(key)) => Some(key.into()),
        (table, None) => Some(table.into()),
        (table, Some(key)) => Some(format!("{table}.{key}")),
    }
}
