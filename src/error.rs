//! The one error type of the public boundary.
//!
//! Every variant says what was found, what was expected and what to do about it.

use std::{fmt, path::PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a checkpoint on disk and a token.
///
/// `Debug` writes the sentence of `Display`, so that a `main` that returns [`Result`] ends with it. Match on the
/// variants for their fields.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what its format promises: truncated, lying lengths, broken JSON.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
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
    /// A tensor that the model needs is not in the checkpoint.
    #[error(
        "weight '{name}' is missing{}; is this the right checkpoint for this config.json?",
        nearest.as_ref().map(|n| format!(" (nearest key present: '{n}')")).unwrap_or_default()
    )]
    MissingWeight {
        /// The name looked for, without the checkpoint's prefix.
        name: String,
        /// The most similar key that is present.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "weight '{name}' has shape {found:?}, the configuration implies {expected:?}; config.json and weights do not belong together"
    )]
    WeightShape {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A tensor's element type cannot be used here.
    #[error(
        "weight '{name}' has element type {found}; supported are F32, F16, BF16, F64 and, in GGUF files, {}; {advice}",
        crate::quant::packed_names()
    )]
    WeightType {
        /// The tensor.
        name: String,
        /// Its element type in the file.
        found: String,
        /// The nearest that works, and how to come by it.
        advice: String,
    },
    /// A checkpoint in a quantised format that this crate does not read.
    #[error(
        "{scheme} is not supported (found {found}); expected weights in F32, F16, BF16 or F64, or a GGUF file; \
         take the model's unquantised safetensors, or a GGUF file of it: the nearest is {nearest}"
    )]
    Quantised {
        /// Whose format, and of what kind where it says so.
        scheme: String,
        /// What shows it: a key of the configuration, or a tensor, with the file.
        found: String,
        /// The nearest format of GGUF files that works.
        nearest: &'static str,
    },
    /// A graph was put together with operands that do not fit.
    #[error("{op}: {problem} (at {location})")]
    Shape {
        /// The op.
        op: String,
        /// Operand shapes and the rule they break.
        problem: String,
        /// The caller's source line.
        location: String,
    },
    /// A graph breaks a rule of the IR; a compiler pass is at fault.
    #[error("graph '{graph}' is malformed: {problem}")]
    Graph {
        /// The graph's name.
        graph: String,
        /// The rule and the node that breaks it.
        problem: String,
    },
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
    /// Elementwise arithmetic took dispatches of its own where a profile forbids it.
    #[error(
        "graph '{graph}': fusion.assert_clean is set, and these share no dispatch with another op: {}; \
         clear it, or what keeps them apart (fusion.policy, fusion.skip, the backend's table)",
        regions.join(", ")
    )]
    Unfused {
        /// The graph's name.
        graph: String,
        /// Labels of the regions.
        regions: Vec<String>,
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
        /// What was found and what was expected.
        problem: String,
    },
    /// A token id is not in the vocabulary.
    #[error(
        "token id {token} at position {index} is outside the vocabulary of {vocab_size}; was the text encoded with this model's tokenizer?"
    )]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Its index among the tokens given.
        index: usize,
        /// The vocabulary size.
        vocab_size: usize,
    },
    /// Generation was asked for before there is anything to continue.
    #[error("{0}() called with empty token history; call prefill() first")]
    EmptyHistory(&'static str),
    /// A prompt without tokens.
    #[error("the prompt has no tokens; give at least one (the model's BOS token will do)")]
    EmptyPrompt,
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
    /// A text without tokens.
    #[error("text {index} is empty; leave it out, or give the tokens that the model wants around every text (BOS and EOS)")]
    EmptyText {
        /// Its index among the texts given.
        index: usize,
    },
    /// A text has more tokens than the model, or the embedder, takes. Nothing was computed.
    #[error("text {index} has {tokens} tokens, at most {most} are taken; cut it into parts and embed those")]
    TextTooLong {
        /// Its index among the texts given.
        index: usize,
        /// Its tokens, prompt included.
        tokens: usize,
        /// Most tokens of a text.
        most: usize,
    },
    /// A text cannot be embedded as asked.
    #[error("embedding: {0}")]
    Embedding(String),
    /// Sampling options that have no meaning.
    #[error("sampling options: {0}")]
    Sampling(String),
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
    /// A caller's logit processor or sampler failed or panicked. History and caches are as they were.
    #[error("{hook}: {source:#}")]
    Hook {
        /// Its name.
        hook: String,
        /// What it returned, or the message of its panic.
        source: anyhow::Error,
    },
    /// A grammar or schema that output cannot be held to.
    #[error("grammar: {0}")]
    Grammar(String),
    /// No adapter fits what was asked for.
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    /// The device's limits or features are too small for the model.
    #[error("device '{adapter}' offers {name} = {available}, this needs {needed}; {advice}")]
    Limit {
        /// The adapter's name.
        adapter: String,
        /// The limit or feature, as wgpu names it.
        name: String,
        /// What the device offers.
        available: u64,
        /// What is needed.
        needed: u64,
        /// What to do.
        advice: String,
    },
    /// A model exceeds a limit of the device or the memory budget. Nothing was loaded.
    #[error("the model does not fit: {0}; choose a smaller context, a larger budget, smaller weights or another device")]
    DoesNotFit(Box<crate::generate::MemoryPlan>),
    /// The device (or the host) has no memory left for this.
    #[error("out of memory: {bytes} bytes for {what} on '{adapter}'; close other models or choose a smaller context")]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// The driver dropped the device. The handles are dead; load the model again.
    #[error("the GPU device was lost ({0}); load the model again, on another device if it happens twice")]
    DeviceLost(String),
    /// The device did not answer in time.
    #[error(
        "the GPU did not finish within {seconds} s ({what}); the driver may hang: try a smaller prefill chunk or another device"
    )]
    Timeout {
        /// What was waited for.
        what: String,
        /// The time limit.
        seconds: u64,
    },
    /// A saved history or conversation that cannot be written or taken.
    #[error("the saved conversation {0}")]
    Saved(String),
    /// A function that the caller gave panicked. What it was called for was given up, all else goes on.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// The function.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// The caller's own check asked to stop.
    #[error("{0} was cancelled")]
    Cancelled(&'static str),
    /// The driver refused something that passed our own checks.
    #[error("the GPU driver refused {what}: {message}")]
    Driver {
        /// What was being done.
        what: String,
        /// wgpu's message.
        message: String,
    },
    /// A kernel computes something else than the reference on this device, and no safer one is right there.
    #[error(
        "wrong kernel {kernel} on {device}: {problem}; update the driver, choose another adapter, or compute on the CPU reference \
         (Device::Cpu)"
    )]
    WrongKernel {
        /// The kernel's shader, several where it takes more than one dispatch, and its position in the model.
        kernel: String,
        /// The adapter, and its driver's name and version.
        device: String,
        /// What is wrong.
        problem: String,
    },
    /// A shader could not be composed or compiled.
    #[error("shader '{shader}': {problem}")]
    Shader {
        /// The shader file, with line where known.
        shader: String,
        /// What is wrong.
        problem: String,
    },
    /// Something this version does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// An adapter that cannot be computed as it was trained.
    #[error("{}: {problem}", path.display())]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// A custom stage failed.
    #[error("custom stage '{stage}': {source:#}")]
    Stage {
        /// The stage's name.
        stage: String,
        /// What it returned.
        source: anyhow::Error,
    },
    /// Text could not be encoded or decoded.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A conversation that the chat format cannot express.
    #[error("chat: {0}")]
    Chat(String),
    /// A name that the hub cannot have, or that would lead out of its folder. Nothing was asked for and nothing made on
    /// disk.
    #[error("'{name}' is no model of the hub: {problem}; expected owner/name, or owner/name/file.gguf for one GGUF file")]
    HubName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of the hub that cannot be used.
    #[error("HubOptions::{option}: {problem}")]
    HubOption {
        /// The field.
        option: &'static str,
        /// What is wrong with it; never a token's text.
        problem: String,
    },
    /// The hub does not hand out a model: its licence was not accepted, or the account may not read it.
    #[error(
        "{model}: the hub refuses it (HTTP {status}) {}; \
         check the name, accept its licence on {page}, and give an access token of the same account (HubOptions::token; the \
         examples take HF_TOKEN, or what `hf auth login` has stored)",
        if *token { "with the access token given" } else { "without an access token" }
    )]
    HubAccess {
        /// The repository.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
        /// Whether a token was given.
        token: bool,
    },
    /// The hub has no such repository or file.
    #[error("{model}: {problem}")]
    HubMissing {
        /// The model.
        model: String,
        /// What is not there, and what to do.
        problem: String,
    },
    /// Offline mode, and a file is not in the cache.
    #[error(
        "{file} of {model} is not in the cache {}, and offline mode downloads nothing; \
         fetch the model once without it (HubOptions::offline; the examples take HF_HUB_OFFLINE)",
        cache.display()
    )]
    HubOffline {
        /// The repository.
        model: String,
        /// The file.
        file: String,
        /// The folder of all models.
        cache: PathBuf,
    },
    /// A download ended before its end. What came is kept.
    #[error("{file} of {model}: {problem}; try again, the download goes on where it ended")]
    HubTransfer {
        /// The repository.
        model: String,
        /// What was being fetched.
        file: String,
        /// What happened.
        problem: String,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// What a caller's function said when it panicked.
    pub(crate) fn panicked(what: &'static str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Panicked { what, message: text.unwrap_or("no message").to_owned() }
    }
}
