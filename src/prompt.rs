//! A prompt: token ids, and between them the soft tokens of pictures and sounds.

mod json;
pub(crate) mod saved;

use std::{
    any::Any,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::PromptError};

/// The source of soft tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Modality {
    /// A picture, or a frame of a film. In some layers of some families its tokens see each other.
    Image,
    /// A sound; its tokens see no later ones.
    Audio,
}

impl Modality {
    /// What a person calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Image => "picture",
            Self::Audio => "sound",
        }
    }
}

/// The rows `[N, D]` of one picture or clip, which take the place of N token embeddings (HF: `image_features`,
/// `audio_features`).
///
/// They enter the model as they are: token embeddings are multiplied by √D, soft tokens are not. A clone shares the
/// rows. Two are equal where their rows are.
#[derive(Clone)]
pub struct SoftTokens {
    placeholder: u32,
    rows: Arc<Rows>,
}

struct Rows {
    modality: Modality,
    width: usize,
    values: Vec<f32>,
    /// Where else they lie, for as long as its owner keeps it.
    copy: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl SoftTokens {
    /// Rows of `width` numbers each, D of the model. In the history each stands as the id `placeholder`, such as
    /// `image_token_id` of `config.json`; the model looks nothing up by it.
    ///
    /// # Errors
    /// [`PromptError::SoftTokens`] for no rows, for values that are no whole number of rows, and for NaN and infinity.
    pub fn new(modality: Modality, placeholder: u32, width: usize, values: Vec<f32>) -> Result<Self> {
        let wrong = |problem: String| Err(Error::Prompt(PromptError::SoftTokens(problem)));
        if values.is_empty() || width == 0 || !values.len().is_multiple_of(width) {
            return wrong(format!("{} values are no rows of {width}; give N times the model's hidden_size", values.len()));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return wrong(format!("row {} has the value {}; only finite numbers can be computed with", at / width, values[at]));
        }
        Ok(Self { placeholder, rows: Arc::new(Rows { modality, width, values, copy: Mutex::new(None) }) })
    }

    /// The same rows with another id in the history.
    #[cfg(all(feature = "tokenizer", feature = "vision"))]
    pub(crate) fn standing_as(&self, placeholder: u32) -> Self {
        Self { placeholder, rows: self.rows.clone() }
    }

    /// Tells all who share the rows of a copy of them, for as long as it is kept.
    #[cfg(any(feature = "audio", feature = "vision"))]
    pub(crate) fn set_copy<C: Any + Send + Sync>(&self, copy: &Arc<C>) {
        let copy: Arc<dyn Any + Send + Sync> = copy.clone();
        *self.rows.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(&copy));
    }

    /// The copy of the rows, if one of this kind is kept.
    pub(crate) fn copy<C: Any + Send + Sync>(&self) -> Option<Arc<C>> {
        let copy = self.rows.copy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        copy?.upgrade()?.downcast().ok()
    }

    /// The source.
    pub fn modality(&self) -> Modality {
        self.rows.modality
    }

    /// The id that stands for each of them in the history.
    pub fn placeholder(&self) -> u32 {
        self.placeholder
    }

    /// Their number N.
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> usize {
        self.rows.values.len() / self.rows.width
    }

    /// Numbers of a row, D.
    pub fn width(&self) -> usize {
        self.rows.width
    }

    /// The rows, one after the other.
    pub fn values(&self) -> &[f32] {
        &self.rows.values
    }
}

impl PartialEq for SoftTokens {
    fn eq(&self, other: &Self) -> bool {
        let kind = |soft: &Self| (soft.modality(), soft.width());
        let same_bits = || bytemuck::cast_slice::<f32, u32>(self.values()) == bytemuck::cast_slice::<f32, u32>(other.values());
        let same_rows = || Arc::ptr_eq(&self.rows, &other.rows) || (kind(self) == kind(other) && same_bits());
        self.placeholder == other.placeholder && same_rows()
    }
}

impl fmt::Debug for SoftTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} soft tokens of {} ({:?}, id {})", self.len(), self.width(), self.modality(), self.placeholder)
    }
}

/// Soft tokens and their place in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SoftSpan {
    pub(crate) start: usize,
    pub(crate) rows: SoftTokens,
}

impl SoftSpan {
    /// The positions.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows.len()
    }
}

/// Token ids with soft tokens between them, in order.
///
/// A slice of token ids is a prompt without soft tokens. Soft tokens are never the end of one: each family closes a
/// picture or clip with a token of its own (Gemma 3: `<end_of_image>`).
///
/// ```
/// use gemmaflow::prompt::{Modality, Prompt, SoftTokens};
/// let picture = SoftTokens::new(Modality::Image, 262144, 4, vec![0.5; 256 * 4])?;
/// let prompt = Prompt::from([2, 108, 255999]).then(picture).then([256000, 108, 2]);
/// assert_eq!((prompt.len(), prompt.tokens()[3]), (262, 262144));
/// # Ok::<(), gemmaflow::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    tokens: Vec<u32>,
    soft: Vec<SoftSpan>,
}

impl Prompt {
    /// A prompt with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// This prompt, and `part` after it.
    pub fn then(mut self, part: impl Into<Prompt>) -> Self {
        self.push(part);
        self
    }

    /// Appends `part`: token ids, soft tokens, or another prompt.
    pub fn push(&mut self, part: impl Into<Prompt>) {
        let part = part.into();
        let start = self.tokens.len();
        self.soft.extend(part.soft.into_iter().map(|span| SoftSpan { start: start + span.start, ..span }));
        self.tokens.extend(part.tokens);
    }

    /// The ids, with the placeholder of each soft token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens, soft ones among them.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The soft tokens with the position of the first of each.
    pub fn soft_tokens(&self) -> impl Iterator<Item = (usize, &SoftTokens)> {
        self.soft.iter().map(|span| (span.start, &span.rows))
    }

    /// The ids alone.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn into_tokens(self) -> Vec<u32> {
        self.tokens
    }

    pub(crate) fn spans(&self) -> &[SoftSpan] {
        &self.soft
    }

    /// Checks what a model with this vocabulary and rows of this width cannot take.
    ///
    /// # Errors
    /// [`PromptError::TokenOutOfRange`] for an id of text, [`PromptError::SoftTokens`] for rows of another width.
    pub(crate) fn check(&self, vocab_size: usize, width: usize) -> Result<()> {
        let mut text = 0;
        for span in &self.soft {
            check_tokens(&self.tokens[text..span.start], text, vocab_size)?;
            text = span.range().end;
            let found = span.rows.width();
            if found != width {
                let problem = format!("rows have {found} numbers, this model's hidden_size is {width}");
                return Err(Error::Prompt(PromptError::SoftTokens(problem)));
            }
        }
        check_tokens(&self.tokens[text..], text, vocab_size)
    }

    /// Tokens that both begin with. Soft tokens count whole or not at all.
    pub(crate) fn common(&self, other: &Prompt) -> usize {
        let ids = self.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        let mut soft = self.soft.iter().zip(&other.soft);
        let first_other = soft.find(|(a, b)| a != b).map(|(a, b)| a.start.min(b.start));
        // One has spans that the other lacks: text may have the ids of placeholders.
        let shared = self.soft.len().min(other.soft.len());
        let surplus = self.soft.get(shared).or(other.soft.get(shared)).map(|span| span.start);
        let starts = first_other.into_iter().chain(surplus);
        let common = starts.fold(ids, usize::min);
        self.spans_at(common).fold(common, |end, span| end.min(span.start))
    }

    /// The spans with positions on either side of `at`.
    fn spans_at(&self, at: usize) -> impl Iterator<Item = &SoftSpan> {
        self.soft.iter().filter(move |span| span.start < at && at < span.range().end)
    }

    pub(crate) fn push_token(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Takes the last token back, which is no soft one.
    pub(crate) fn pop(&mut self) {
        self.tokens.pop();
    }
}

/// Refuses tokens, of which the first is at position `first`, that a vocabulary does not have.
pub(crate) fn check_tokens(tokens: &[u32], first: usize, vocab_size: usize) -> Result<()> {
    match tokens.iter().position(|token| *token as usize >= vocab_size) {
        Some(at) => Err(Error::Prompt(PromptError::TokenOutOfRange { token: tokens[at], index: first + at, vocab_size })),
        None => Ok(()),
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, soft: Vec::new() }
    }
}

impl From<&[u32]> for Prompt {
    fn from(tokens: &[u32]) -> Self {
        tokens.to_vec().into()
    }
}

impl From<&&[u32]> for Prompt {
    fn from(tokens: &&[u32]) -> Self {
        tokens.to_vec().into()
    }
}

impl From<&Vec<u32>> for Prompt {
    fn from(tokens: &Vec<u32>) -> Self {
        tokens.clone().into()
    }
}

impl<const N: usize> From<[u32; N]> for Prompt {
    fn from(tokens: [u32; N]) -> Self {
        tokens.to_vec().into()
    }
}

impl<const N: usize> From<&[u32; N]> for Prompt {
    fn from(tokens: &[u32; N]) -> Self {
        tokens.to_vec().into()
    }
}

impl From<SoftTokens> for Prompt {
    fn from(rows: SoftTokens) -> Self {
        Self { tokens: vec![rows.placeholder(); rows.len()], soft: vec![SoftSpan { start: 0, rows }] }
    }
}

impl From<&Prompt> for Prompt {
    fn from(prompt: &Prompt) -> Self {
        prompt.clone()
    }
}

#[cfg(test)]
mod tests;
