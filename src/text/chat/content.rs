//! What a user says and shows.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::prompt::{Modality, SoftTokens};

/// A part of what a user says: text, or a picture or sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Plain text. White space around it is dropped, as Gemma's templates do.
    Text(String),
    /// A picture or a sound, as its soft tokens. The chat format puts around them what the model's processor does.
    Soft(SoftTokens),
}

/// What a user says: text, with pictures and sounds between, in order.
///
/// Two are equal where they have the same texts and the same soft tokens. As JSON one that is a text alone is a string.
///
/// ```
/// use gemmaflow::{prompt::{Modality, SoftTokens}, text::{Content, Message, Part}};
/// let picture = Part::from(SoftTokens::new(Modality::Image, 262144, 4, vec![0.5; 256 * 4])?);
/// let asked = Content::from([picture, "What is this?".into()]);
/// assert_eq!(asked.text(), "What is this?");
/// let messages = [Message::user(asked), Message::model("A cat."), Message::user("Of which colour?")];
/// # Ok::<(), gemmaflow::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Shape", into = "Shape")]
pub struct Content(Vec<Part>);

/// Content as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Shape {
    Text(String),
    Parts(Vec<Part>),
}

impl Content {
    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// All texts, one after the other; nothing of the pictures and sounds between them.
    pub fn text(&self) -> Cow<'_, str> {
        match self.parts() {
            [Part::Text(text)] => text.into(),
            _ => self.texts().collect::<String>().into(),
        }
    }

    /// The soft tokens of the pictures and sounds, in order.
    pub fn soft_tokens(&self) -> impl Iterator<Item = &SoftTokens> {
        self.0.iter().filter_map(|part| if let Part::Soft(soft) = part { Some(soft) } else { None })
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
    }

    /// What a format without pictures and sounds cannot express.
    pub(super) fn beyond_text(&self) -> Option<Modality> {
        self.soft_tokens().next().map(SoftTokens::modality)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            [Part::Text(text)] => fmt::Debug::fmt(text, f),
            parts => f.debug_list().entries(parts).finish(),
        }
    }
}

impl From<Shape> for Content {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Text(text) => text.into(),
            Shape::Parts(parts) => Self(parts),
        }
    }
}

impl From<Content> for Shape {
    fn from(Content(mut parts): Content) -> Self {
        match parts.as_mut_slice() {
            [Part::Text(text)] => Self::Text(std::mem::take(text)),
            _ => Self::Parts(parts),
        }
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<SoftTokens> for Part {
    fn from(soft: SoftTokens) -> Self {
        Self::Soft(soft)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Part::from(text).into()
    }
}

impl From<&String> for Content {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Part::from(text).into()
    }
}

impl From<SoftTokens> for Content {
    fn from(soft: SoftTokens) -> Self {
        Part::from(soft).into()
    }
}

impl From<Part> for Content {
    fn from(part: Part) -> Self {
        Self(vec![part])
    }
}

impl From<Vec<Part>> for Content {
    fn from(parts: Vec<Part>) -> Self {
        Self(parts)
    }
}

impl<const N: usize> From<[Part; N]> for Content {
    fn from(parts: [Part; N]) -> Self {
        Self(parts.into())
    }
}
