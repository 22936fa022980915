//! Google's Gemma models on any GPU through wgpu.
//!
//! A model is configured by a [`gemma::GemmaConfig`], built by [`gemma::GemmaFlow`] into a graph of a few ops ([`ir`]), lowered
//! to dispatches of WGSL compute shaders ([`lower`], [`plan`], [`shader`]), and run by [`runtime`]. [`reference`](mod@reference)
//! says what is right. [`generate::GemmaGenerator`] puts all of that behind tokens in, tokens out:
//!
//! ```
//! use gemmaflow::{gemma::GemmaConfig, generate::{GemmaGenerator, SampleOpts}, runtime::Device};
//!
//! # fn main() -> gemmaflow::Result<()> {
//! let folder = "assets/demo";
//! let mut generator = GemmaGenerator::from_path(GemmaConfig::from_file(folder)?, folder, Device::Cpu)?;
//! generator.prefill(&[2, 910, 262])?; // "ROMEO:\n" after the BOS token
//! let tokens = generator.generate_cached(8, &SampleOpts::greedy())?;
//! assert_eq!(tokens, [282, 459, 391, 415, 382, 358, 268, 303]); // "I will not stay to-day"
//! # Ok(())
//! # }
//! ```
//!
//! The feature `tokenizer` adds `text`: `tokenizer.json`, streamed text and the chat turns of Gemma 1 to 3. Without it the crate
//! deals in token ids alone.
#![deny(missing_docs)]

mod error;
pub mod flow;
pub mod gemma;
pub mod generate;
pub mod ir;
pub mod lower;
pub mod plan;
pub mod profile;
pub mod reference;
pub mod runtime;
pub mod shader;
#[cfg(feature = "tokenizer")]
pub mod text;
pub mod trace;
pub mod weights;

pub use error::{Error, Result};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
