//! Conversations as control tokens, the text between them, and the soft tokens of pictures and sounds.

use super::Part;
use crate::{
    Error, Result,
    prompt::{Modality, Prompt, SoftTokens},
    text::Tokenizer,
};

pub(super) const BOS: &str = "<bos>";
pub(super) const EOS: &str = "<eos>";

/// How a family's processor lays out a picture or a sound.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// The control tokens before and after the soft tokens.
    pub begin: &'static str,
    pub end: &'static str,
    /// The text before and after those.
    pub around: &'static str,
}

/// A part of a conversation in tokens.
pub(super) enum Segment {
    /// A control token by its name.
    Control(&'static str),
    /// Plain text between two control tokens, whole: it is encoded at once.
    Text(String),
    /// Soft tokens, and the control tokens before and after them.
    Soft { begin: &'static str, rows: SoftTokens, end: &'static str },
}

/// A conversation, part by part.
pub(super) struct Layout {
    pub segments: Vec<Segment>,
}

impl Layout {
    /// Begins with BOS.
    pub fn new() -> Self {
        Self { segments: vec![Segment::Control(BOS)] }
    }

    pub fn control(&mut self, name: &'static str) -> &mut Self {
        self.segments.push(Segment::Control(name));
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.into())),
        }
        self
    }

    /// A picture, a sound or a video.
    pub fn medium(&mut self, part: &Part, Frame { begin, end, around }: Frame) -> &mut Self {
        self.text(around);
        for (before, rows) in part.rows() {
            self.text(&before);
            self.segments.push(Segment::Soft { begin, rows: rows.clone(), end });
        }
        self.text(around)
    }

    /// The conversation for eyes.
    pub fn render(&self) -> String {
        let shown = |segment: &Segment| match segment {
            Segment::Control(name) => (*name).to_string(),
            Segment::Text(text) => text.clone(),
            Segment::Soft { begin, rows, end } => format!("{begin}{}{end}", stand_in(rows)),
        };
        self.segments.iter().map(shown).collect()
    }

    /// The conversation for a model.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a control token that the tokenizer lacks, [`Error::Chat`] where it is one that a
    /// picture or sound needs.
    pub fn prompt(self, tokenizer: &Tokenizer) -> Result<Prompt> {
        let mut prompt = Prompt::new();
        let mut ids = Vec::new();
        for segment in self.segments {
            match segment {
                Segment::Control(name) => ids.push(tokenizer.required_id(name)?),
                Segment::Text(text) => tokenizer.encode_onto(&text, &mut ids)?,
                Segment::Soft { begin, rows, end } => {
                    let [begin, end] = [media_id(tokenizer, begin, rows.modality())?, media_id(tokenizer, end, rows.modality())?];
                    ids.push(begin);
                    prompt.push(std::mem::take(&mut ids));
                    prompt.push(rows);
                    ids.push(end);
                }
            }
        }
        prompt.push(ids);
        Ok(prompt)
    }
}

/// What soft tokens look like in a text.
pub(super) fn stand_in(rows: &SoftTokens) -> String {
    let what = match rows.modality() {
        Modality::Image => "image",
        Modality::Audio => "audio",
    };
    format!("<{what}: {} soft tokens>", rows.len())
}

/// The id of a control token beside soft tokens.
pub(super) fn media_id(tokenizer: &Tokenizer, name: &str, modality: Modality) -> Result<u32> {
    let what = modality.name();
    let missing = || {
        Error::Chat(format!(
            "the tokenizer has no control token '{name}', which stands beside a {what}; leave the {what} out, or use a model \
             that takes one"
        ))
    };
    tokenizer.special_id(name).ok_or_else(missing)
}

/// Trims as the templates' `trim` filter does, which is Python's `str.strip`: Unicode white space and the separators
/// U+001C to U+001F.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
