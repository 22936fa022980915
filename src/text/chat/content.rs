//! What a user says and shows.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::prompt::{Modality, SoftTokens};

/// A part of what a user says: text, a picture, a sound or a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Plain text. White space around it is dropped, as Gemma's templates do.
    Text(String),
    /// A picture or a sound, as its soft tokens. The chat format puts around them what the model's processor does.
    Soft(SoftTokens),
    /// Frames of a video, in order (Gemma 4). The chat format puts the time before each, in minutes and seconds.
    Video(Vec<VideoFrame>),
}

/// A frame of a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoFrame {
    /// Its time from the beginning. Whole seconds count.
    pub at: Duration,
    /// The frame as a picture's soft tokens.
    pub soft: SoftTokens,
}

/// What a part shows besides text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Medium {
    Picture,
    Sound,
    Video,
}

impl Medium {
    /// What a person calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Picture => "picture",
            Self::Sound => "sound",
            Self::Video => "video",
        }
    }
}

impl Part {
    pub(super) fn medium(&self) -> Option<Medium> {
        match self {
            Self::Text(_) => None,
            Self::Soft(rows) if rows.modality() == Modality::Audio => Some(Medium::Sound),
            Self::Soft(_) => Some(Medium::Picture),
            Self::Video(_) => Some(Medium::Video),
        }
    }

    /// Its soft tokens, each with the text that the processor of transformers puts before them and their control token.
    pub(super) fn rows(&self) -> Vec<(String, &SoftTokens)> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Soft(rows) => vec![(String::new(), rows)],
            Self::Video(frames) => {
                let rows = frames.iter().enumerate();
                rows.map(|(index, frame)| (words_before_frame(index, frame.at), &frame.soft)).collect()
            }
        }
    }
}

/// What the processor of transformers writes before the frame `index` of a video, which is shown `at` from the beginning.
pub fn words_before_frame(index: usize, at: Duration) -> String {
    let between = if index == 0 { "" } else { " " };
    let seconds = at.as_secs();
    format!("{between}{:02}:{:02} ", seconds / 60, seconds % 60)
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

    /// The soft tokens of the pictures, sounds and videos' frames, in order.
    pub fn soft_tokens(&self) -> impl Iterator<Item = &SoftTokens> {
        self.0.iter().flat_map(|part| part.rows().into_iter().map(|(_, rows)| rows))
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
    }

    /// What the parts show besides text, in order.
    pub(super) fn media(&self) -> impl Iterator<Item = Medium> {
        self.0.iter().filter_map(Part::medium)
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
