//! Google's Gemma models on any GPU through wgpu.
#![deny(missing_docs)]

mod error;
pub mod gemma;
pub mod ir;
pub mod lower;
pub mod plan;
pub mod runtime;
#[cfg(feature = "tokenizer")]
pub mod text;
pub mod weights;

pub use error::{Error, Result};
