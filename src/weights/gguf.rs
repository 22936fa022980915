//! GGUF files. This version reads none: opening one is an error that says so.

use std::{convert::Infallible, path::Path};

use crate::{Error, Result};

/// The weights of a GGUF file. No value of it exists in this version.
#[derive(Debug)]
pub struct GgufLoader {
    none: Infallible,
}

impl GgufLoader {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] always; use a checkpoint in safetensors.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Err(unsupported(path.as_ref()))
    }

    /// Whether the tensors of drafters are loaded too.
    pub fn include_mtp(self, include: bool) -> Self {
        match (self.none, include) {}
    }
}

/// What is said of a GGUF file.
pub(crate) fn unsupported(path: &Path) -> Error {
    Error::Unsupported(format!("{}: the GGUF format", path.display()))
}
