//! How answers are made.

use serde::{Deserialize, Serialize};

use crate::generate::SampleOpts;

/// How a conversation answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerOptions {
    /// How tokens are chosen. Default: temperature 1, top-k 64, top-p 0.95, as Google recommends for Gemma 3 and 4, with seed 0.
    pub sampling: SampleOpts,
    /// Most tokens of an answer. Default: as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer; they and what follows are not part of it. An empty one never does. Default: none.
    pub stop: Vec<String>,
    /// What happens when the context is full. Default: an error.
    pub overflow: Overflow,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        let sampling = SampleOpts::temperature(1.0, 0).with_top_k(64).with_top_p(0.95);
        Self { sampling, max_tokens: None, stop: Vec::new(), overflow: Overflow::default() }
    }
}

/// What happens when the context is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Overflow {
    /// [`Error::ContextFull`](crate::Error::ContextFull), and nothing is forgotten.
    #[default]
    Refuse,
    /// The model forgets the oldest exchanges (never its instructions), or of plain text the oldest tokens, until half of the context is
    /// free; what is left is computed anew. What it still cannot hold is refused.
    Forget,
}
