//! Messages' text kept apart from a template's own through a rendering: marks that no one can guess break up every
//! control token that the text spells, or could become a part of.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use super::super::layout::trim;
use crate::text::Tokenizer;

/// Characters of a mark: of the private use area, which no template changes, trims or looks for.
const MARK_CHARS: u32 = 12;
const FIRST_CHAR: u32 = 0xE000;

/// The control tokens that a template may place.
#[derive(Debug)]
pub(super) struct Markers {
    names: Vec<String>,
    ids: Vec<u32>,
    search: AhoCorasick,
    /// Beginnings and ends of names, without whole ones.
    parts: HashSet<String>,
    /// Characters that names begin with.
    firsts: HashSet<char>,
}

/// How much of a text marks break up.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Guard {
    /// Every name, and ends that could complete one.
    Names,
    /// Every character that a name begins with: what a template takes out of a text leaves no name then.
    Beginnings,
}

/// A part of a rendering.
pub(super) enum Part<'t> {
    Marker(u32),
    Text(&'t str),
}

impl Markers {
    /// The tokenizer's control tokens, and what the template spells in `<…>` that is one token of the vocabulary.
    ///
    /// # Errors
    /// More names than can be searched for.
    pub(super) fn of(source: &str, tokenizer: &Tokenizer) -> Result<Self, String> {
        let mut found: Vec<(String, u32)> = tokenizer.control_tokens().map(|(name, id)| (name.to_string(), id)).collect();
        let known: HashSet<u32> = found.iter().map(|(_, id)| *id).collect();
        let mut own: Vec<(String, u32)> = spelled(source)
            .filter_map(|name| Some((name.to_string(), tokenizer.token_id(name)?)))
            .filter(|(_, id)| !known.contains(id))
            .collect();
        own.sort_unstable();
        own.dedup();
        found.extend(own);
        found.retain(|(name, _)| !name.is_empty());
        let (names, ids): (Vec<String>, Vec<u32>) = found.into_iter().unzip();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names).map_err(|e| e.to_string())?;
        let cuts = |name: &'_ String| {
            let cuts: Vec<usize> = name.char_indices().skip(1).map(|(at, _)| at).collect();
            cuts.into_iter().flat_map(|at| [name[..at].to_string(), name[at..].to_string()]).collect::<Vec<_>>()
        };
        let parts = names.iter().flat_map(cuts).collect();
        let firsts = names.iter().filter_map(|name| name.chars().next()).collect();
        Ok(Self { names, ids, search, parts, firsts })
    }

    /// The id of a marker by its name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|known| known == name).map(|at| self.ids[at])
    }

    /// Every name, for texts that may not become one.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// A rendering cut at its markers.
    pub(super) fn parts<'t>(&self, rendered: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut from = 0;
        let text = |from: usize, to: usize, parts: &mut Vec<Part<'t>>| {
            if from < to {
                parts.push(Part::Text(&rendered[from..to]));
            }
        };
        for found in self.search.find_iter(rendered) {
            text(from, found.start(), &mut parts);
            parts.push(Part::Marker(self.ids[found.pattern().as_usize()]));
            from = found.end();
        }
        text(from, rendered.len(), &mut parts);
        parts
    }

    /// A text in which the mark stands inside of every name, and at an end that could complete one with what a template
    /// puts beside it.
    fn guarded(&self, text: &str, mark: &str) -> String {
        let core = trim(text);
        if core.is_empty() {
            return text.to_string();
        }
        let lead = core.as_ptr() as usize - text.as_ptr() as usize;
        let mut out = text[..lead].to_string();
        if self.touches(core, true) {
            out.push_str(mark);
        }
        let mut from = 0;
        for found in self.search.find_overlapping_starts(core) {
            let first = core[found..].chars().next().map_or(1, char::len_utf8);
            out.push_str(&core[from..found + first]);
            out.push_str(mark);
            from = found + first;
        }
        out.push_str(&core[from..]);
        if self.touches(core, false) {
            out.push_str(mark);
        }
        out + &text[lead + core.len()..]
    }

    /// A text in which the mark follows every character that a name may begin with.
    fn broken(&self, text: &str, mark: &str) -> String {
        let first = |c: char| self.firsts.contains(&c);
        text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
            out.push(c);
            out.push_str(if first(c) { mark } else { "" });
            out
        })
    }

    /// Returns `true` if a text, put behind (or before) another, could complete a name.
    fn touches(&self, text: &str, at_start: bool) -> bool {
        let longest = self.parts.iter().map(String::len).max().unwrap_or(0);
        let within = text.len() <= longest && !text.is_empty() && self.names.iter().any(|name| name.contains(text));
        let ends = text.char_indices().map(|(at, c)| if at_start { at + c.len_utf8() } else { at });
        within
            || ends
                .filter(|at| if at_start { *at <= longest } else { text.len() - at <= longest })
                .any(|at| self.parts.contains(if at_start { &text[..at] } else { &text[at..] }))
    }

    /// A value all of whose texts are guarded, the names of fields where they hold a name of ours.
    pub(super) fn guard(&self, value: &Value, mark: &str, how: Guard) -> Value {
        let guarded = |text: &str| match how {
            Guard::Names => self.guarded(text, mark),
            Guard::Beginnings => self.broken(text, mark),
        };
        let key = |name: &String| if self.search.is_match(name) { guarded(name) } else { name.clone() };
        match value {
            Value::String(text) => guarded(text).into(),
            Value::Array(items) => items.iter().map(|item| self.guard(item, mark, how)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(name, value)| (key(name), self.guard(value, mark, how))).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    /// Returns `true` if a text has a character that a name begins with.
    pub(super) fn may_begin_in(&self, text: &str) -> bool {
        text.chars().any(|c| self.firsts.contains(&c))
    }
}

/// Where names begin in a text, also those that lie across each other.
trait Starts {
    fn find_overlapping_starts(&self, text: &str) -> Vec<usize>;
}

impl Starts for AhoCorasick {
    fn find_overlapping_starts(&self, text: &str) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut from = 0;
        while let Some(found) = self.find(aho_corasick::Input::new(text).range(from..)) {
            starts.push(found.start());
            from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
        }
        starts
    }
}

/// The spellings of a template between `<` and `>`, or `[` and `]`, without white space and quotes.
fn spelled(source: &str) -> impl Iterator<Item = &str> {
    source.char_indices().filter(|(_, c)| matches!(c, '<' | '[')).filter_map(|(at, open)| {
        let close = if open == '<' { '>' } else { ']' };
        let end = source[at + 1..]
            .find(|c: char| c == close || c.is_whitespace() || matches!(c, '<' | '[' | '\'' | '{' | '}'))?
            + at
            + 1;
        source[end..].starts_with(close).then(|| &source[at..=end])
    })
}

/// A mark that is in none of the texts.
pub(super) fn mark(texts: &[&str]) -> String {
    let random = RandomState::new();
    let mut tries = 0u64;
    loop {
        let mark: String = (0..u64::from(MARK_CHARS))
            .filter_map(|at| char::from_u32(FIRST_CHAR + (random.hash_one((tries, at)) % 0x1000) as u32))
            .collect();
        if !texts.iter().any(|text| text.contains(&mark)) {
            return mark;
        }
        tries += 1;
    }
}
