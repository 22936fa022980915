//! The error type of the public boundary, and its parts by area.
//!
//! Every variant says what was found, what was expected and what to do about it.

mod device;
mod generation;
mod graph;
mod hub;
mod media;
mod weight;

use std::{fmt, path::PathBuf};

pub use self::{
    device::DeviceError,
    generation::{CallbackError, EmbeddingError, PromptError, SamplingError},
    graph::GraphError,
    hub::HubError,
    media::{AudioError, ImageError},
    weight::WeightError,
};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a checkpoint on disk and a token.
///
/// `Debug` writes the sentence of `Display`, so that a `main` that returns [`Result`] ends with it. Match on the
/// variants for their fields: `Error::Device(DeviceError::Lost(_))`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file is not what its format promises: truncated, lying lengths, broken JSON.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The fault, its place, and the remedy.
        problem: String,
    },
    /// A file of weights was written to while a model was reading it.
    #[error(
        "{}: it was changed while the model was using it (it had {opened} bytes when it was opened and has {found}); \
         open the model again, and replace files of a model by renaming new ones over them, never by writing into them",
        path.display()
    )]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Its bytes when it was opened.
        opened: u64,
        /// Its bytes now; as many where its contents changed.
        found: u64,
    },
    /// `config.json` names something this crate cannot compute faithfully.
    #[error("model configuration: {0}")]
    Config(String),
    /// A weight that is missing, cannot be used, or does not belong to the graph.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A graph that breaks a rule of the IR or of its profile.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A compile profile that cannot be understood. It is never replaced by another.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Profile {
        /// The file, or `profile` for a text without one.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, in characters from 1.
        column: usize,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// A builder option that can have no effect, or options that contradict each other.
    #[error("flow builder: {0}")]
    Builder(String),
    /// An option of the generator is out of its range.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The method or field, and what in it.
        option: &'static str,
        /// The value given.
        found: usize,
        /// The range and where it comes from.
        expected: String,
    },
    /// A named input is unknown, missing, or of the wrong shape or type.
    #[error("input '{name}': {problem}")]
    Input {
        /// The input.
        name: String,
        /// The value found and the value expected.
        problem: String,
    },
    /// Tokens that cannot be computed. Nothing was changed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The context would grow past what the model or the cache holds. Nothing was changed.
    #[error(
        "the context would hold {needed} tokens, the capacity is {capacity}; \
         shorten the prompt, generate fewer tokens, or build the generator with a larger capacity"
    )]
    ContextFull {
        /// Tokens that the request needs.
        needed: usize,
        /// Tokens that fit.
        capacity: usize,
    },
    /// A text that cannot be embedded.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// No token can be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A function of the caller failed or panicked.
    #[error(transparent)]
    Callback(#[from] CallbackError),
    /// A grammar or schema that output cannot be held to.
    #[error("grammar: {0}")]
    Grammar(String),
    /// A GPU, or its driver, that cannot do what was asked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A model exceeds a limit of the device or the memory budget. Nothing was loaded.
    #[error("the model does not fit: {0}; choose a smaller context, a larger budget, smaller weights or another device")]
    DoesNotFit(Box<crate::generate::MemoryPlan>),
    /// A saved history or conversation that cannot be written or taken.
    #[error("the saved conversation {0}")]
    Saved(String),
    /// The caller's own check asked to stop.
    #[error("{0} was cancelled")]
    Cancelled(&'static str),
    /// Something this version does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// An adapter that cannot be computed as it was trained.
    #[error("{}: {problem}", path.display())]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// The value found, the value expected, and the remedy.
        problem: String,
    },
    /// Text could not be encoded or decoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A conversation that the chat format cannot express.
    #[error("chat: {0}")]
    Chat(String),
    /// The Hugging Face Hub, or its cache, that does not hand out a model.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// `Debug` as `Display`.
macro_rules! debug_is_display {
    ($($ty:ty),* $(,)?) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

debug_is_display!(
    Error,
    WeightError,
    GraphError,
    PromptError,
    EmbeddingError,
    SamplingError,
    CallbackError,
    DeviceError,
    HubError,
    ImageError,
    AudioError,
);

impl Error {
    /// The error for a caller's function that panicked.
    pub(crate) fn panicked(what: &'static str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        CallbackError::Panicked { what, message: text.unwrap_or("no message").to_owned() }.into()
    }
}
