//! Errors of prompts, sampling, callbacks and embeddings.

use super::{AudioError, ImageError};

/// Tokens that cannot be computed. Nothing was changed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A token id is not in the vocabulary.
    #[error(
        "token id {token} at position {index} is outside the vocabulary of {vocab_size}; was the text encoded with this model's tokenizer?"
    )]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// The index among the tokens given.
        index: usize,
        /// The vocabulary size.
        vocab_size: usize,
    },
    /// Generation was asked for before there is anything to continue.
    #[error("{0}() called with empty token history; call prefill() first")]
    EmptyHistory(&'static str),
    /// A prompt without tokens.
    #[error("the prompt has no tokens; give at least one (the model's BOS token will do)")]
    Empty,
    /// A picture that cannot be read or seen.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A clip that cannot be read or heard.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// Soft tokens that are no rows of numbers, or not of this model.
    #[error("soft tokens: {0}")]
    SoftTokens(String),
    /// A picture has more tokens than a run, in which all of them must be, has room for.
    #[error(
        "a picture has {tokens} soft tokens, and the caches of the sliding layers have room for {most} at once; \
         load the model with GeneratorOptions::longest_picture = {tokens}, or take fewer tokens a picture"
    )]
    PictureTooLarge {
        /// Its tokens.
        tokens: usize,
        /// Most tokens of a picture.
        most: usize,
    },
    /// The last tokens of a prompt are soft ones, whose logits nothing follows.
    #[error("the prompt ends with soft tokens; add the token that closes a picture or clip, and the text after it")]
    EndsWithSoftTokens,
}

/// No token can be chosen.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// Sampling options that have no meaning.
    #[error("sampling options: {0}")]
    Options(String),
    /// Logits that no token can be chosen from: one is NaN, all are −∞, or a draw meets +∞. History and caches are as
    /// they were.
    #[error(
        "the model's logits after {tokens} tokens are no numbers to choose from (NaN or infinite): \
         a weight is broken, or numbers overflow; check the file, and compile without mixed precision"
    )]
    BrokenLogits {
        /// Tokens of the history.
        tokens: usize,
    },
    /// Every token is forbidden by what a processor banned or allowed. History and caches are as they were.
    #[error(
        "no token may follow the {tokens} tokens of the history: the logit processors forbid every one that has a probability"
    )]
    NoTokenAllowed {
        /// Tokens of the history.
        tokens: usize,
    },
}

/// A function of the caller failed or panicked.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// A caller's logit processor or sampler failed or panicked. History and caches are as they were.
    #[error("{hook}: {source:#}")]
    Hook {
        /// The name of the processor or sampler.
        hook: String,
        /// Its error, or the message of its panic.
        source: anyhow::Error,
    },
    /// A custom stage failed.
    #[error("custom stage '{stage}': {source:#}")]
    Stage {
        /// The stage's name.
        stage: String,
        /// Its error.
        source: anyhow::Error,
    },
    /// A caller's function panicked. The work that it was called for is given up, all else goes on.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// The function.
        what: &'static str,
        /// The message of its panic.
        message: String,
    },
}

/// A text that cannot be embedded.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// A text without tokens.
    #[error("text {index} is empty; leave it out, or give the tokens that the model wants around every text (BOS and EOS)")]
    EmptyText {
        /// The index among the texts given.
        index: usize,
    },
    /// A text has more tokens than the model, or the embedder, takes. Nothing was computed.
    #[error("text {index} has {tokens} tokens, at most {most} are taken; cut it into parts and embed those")]
    TextTooLong {
        /// The index among the texts given.
        index: usize,
        /// Its tokens, prompt included.
        tokens: usize,
        /// Most tokens of a text.
        most: usize,
    },
    /// A text's vector is zero or not finite, so that there is no unit vector along it.
    #[error("the vector of text {index} has length {length} and so no direction; are the weights whole?")]
    NoDirection {
        /// The index among the texts given.
        index: usize,
        /// The vector's length.
        length: f64,
    },
    /// A task, or a title, that the checkpoint's prompts do not have.
    #[error("embedding: {0}")]
    Options(String),
}
