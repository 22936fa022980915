//! Google's Gemma models on any GPU through wgpu.
#![deny(missing_docs)]

mod error;
pub mod flow;
pub mod gemma;
pub mod generate;
pub mod ir;
pub mod lower;
pub mod plan;
pub mod reference;
pub mod runtime;
pub mod shader;
#[cfg(feature = "tokenizer")]
pub mod text;
pub mod weights;

pub use error::{Error, Result};
