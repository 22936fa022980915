#![doc = include_str!("../docs/guide.md")]
#![deny(missing_docs)]

mod cancel;
mod checksum;
#[cfg(feature = "tokenizer")]
pub mod conversation;
pub mod embed;
mod error;
pub mod flow;
pub mod gemma;
pub mod generate;
#[cfg(feature = "guidance")]
pub mod guide;
#[cfg(feature = "hub")]
pub mod hub;
pub mod ir;
#[cfg(feature = "lora")]
pub mod lora;
pub mod lower;
pub mod plan;
pub mod profile;
mod quant;
pub mod reference;
pub mod runtime;
pub mod shader;
#[cfg(feature = "tokenizer")]
pub mod text;
mod text_file;
pub mod trace;
pub mod weights;

pub use error::{Error, Result};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
