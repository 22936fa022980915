//! Options of answers.

use serde::{Deserialize, Serialize};

use crate::generate::SampleOpts;

/// The options of a conversation's answers. [Hooks](super::Conversation::with_hooks) come on top: a conversation that
/// has any takes its steps alone, also in [`Model::step`](super::Model::step).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerOptions {
    /// The sampling. Default: temperature 1, top-k 64, top-p 0.95, as Google recommends for Gemma 3 and 4, with seed 0.
    /// [`Model::recommended_sampling`](super::Model::recommended_sampling) reads the recommendation of the model's own
    /// files.
    pub sampling: SampleOpts,
    /// Most tokens of an answer. Default: as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer; they and what follows are not part of it. An empty one never does. Default: none.
    pub stop: Vec<String>,
    /// The handling of a full context. Default: the answer ends, and a prompt that does not fit is an error.
    pub overflow: Overflow,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        let sampling = SampleOpts::temperature(1.0, 0).with_top_k(64).with_top_p(0.95);
        Self { sampling, max_tokens: None, stop: Vec::new(), overflow: Overflow::default() }
    }
}

/// The handling of a full context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Overflow {
    /// Nothing is forgotten. An answer under way ends with [`FinishReason::Length`](super::FinishReason::Length); a
    /// prompt that leaves no room for an answer is refused with [`Error::ContextFull`](crate::Error::ContextFull).
    #[default]
    Refuse,
    /// The model forgets the oldest exchanges with their pictures (never its instructions), or of plain text the oldest
    /// tokens, until half of the context is free; what is left is computed anew. Of an answer under way that is too long
    /// even then it forgets the beginning, until half of what its prompt leaves is free; the caller has it all.
    /// [Hooks](super::Conversation::with_hooks) are told again where the answer begins, and see of it what the model
    /// sees. A prompt that leaves no room at all is refused.
    Forget,
}
