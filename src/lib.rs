//! Google's Gemma models on any GPU through wgpu.
#![deny(missing_docs)]

mod error;
pub mod ir;
pub mod runtime;
pub mod weights;

pub use error::{Error, Result};
