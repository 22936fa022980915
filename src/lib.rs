//! Google's Gemma models on any GPU through wgpu.
#![deny(missing_docs)]

mod error;

pub use error::{Error, Result};
