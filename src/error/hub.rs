//! Errors of the hub.

use std::path::PathBuf;

/// The Hugging Face Hub, or its cache, that does not hand out a model.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that the hub cannot have, or that would lead out of its folder. Nothing was asked for and nothing made on
    /// disk.
    #[error("'{name}' is no model of the hub: {problem}; expected owner/name, or owner/name/file.gguf for one GGUF file")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        problem: String,
    },
    /// An option of the hub that cannot be used.
    #[error("HubOptions::{option}: {problem}")]
    Option {
        /// The field.
        option: &'static str,
        /// The reason; never a token's text.
        problem: String,
    },
    /// The hub does not hand out a model: its licence was not accepted, or the account may not read it.
    #[error(
        "{model}: the hub refuses it (HTTP {status}) {}; \
         check the name, accept its licence on {page}, and give an access token of the same account (HubOptions::token; the \
         examples take HF_TOKEN, or what `hf auth login` has stored)",
        if *token { "with the access token given" } else { "without an access token" }
    )]
    Access {
        /// The repository.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The model's page.
        page: String,
        /// True if a token was given.
        token: bool,
    },
    /// The hub has no such repository or file.
    #[error("{model}: {problem}")]
    Missing {
        /// The model.
        model: String,
        /// The repository or file that is absent, and the remedy.
        problem: String,
    },
    /// Offline mode, and a file is not in the cache.
    #[error(
        "{file} of {model} is not in the cache {}, and offline mode downloads nothing; \
         fetch the model once without it (HubOptions::offline; the examples take HF_HUB_OFFLINE)",
        cache.display()
    )]
    Offline {
        /// The repository.
        model: String,
        /// The file.
        file: String,
        /// The folder of all models.
        cache: PathBuf,
    },
    /// A download ended before its end. What came is kept.
    #[error("{file} of {model}: {problem}; try again, the download goes on where it ended")]
    Transfer {
        /// The repository.
        model: String,
        /// The file under way.
        file: String,
        /// The reason.
        problem: String,
    },
}
