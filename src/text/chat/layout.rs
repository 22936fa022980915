//! Conversations as control tokens and the text between them.

pub(super) const BOS: &str = "<bos>";
pub(super) const EOS: &str = "<eos>";

/// A part of a conversation in tokens.
pub(super) enum Segment {
    /// A control token by its name.
    Control(&'static str),
    /// Plain text between two control tokens, whole: it is encoded at once.
    Text(String),
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
}

/// Trims as the templates' `trim` filter does, which is Python's `str.strip`: Unicode white space and the separators
/// U+001C to U+001F.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
