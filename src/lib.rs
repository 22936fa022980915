#![doc = include_str!("../docs/guide.md")]
#![deny(missing_docs)]

#[cfg(feature = "audio")]
pub mod audio;
mod cancel;
pub mod checkpoint;
mod checksum;
#[cfg(feature = "tokenizer")]
pub mod conversation;
pub mod embed;
pub mod error;
pub mod files;
pub mod flow;
pub mod gemma;
pub mod generate;
#[cfg(feature = "guidance")]
pub mod guide;
#[cfg(feature = "audio")]
pub mod hearing;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "vision")]
pub mod image;
#[doc(hidden)]
pub mod internals;
pub mod ir;
#[cfg(feature = "lora")]
pub mod lora;
mod lower;
mod plan;
mod platform;
pub mod profile;
pub mod prompt;
mod quant;
mod reference;
pub mod runtime;
mod shader;
#[cfg(feature = "tokenizer")]
pub mod text;
mod text_file;
#[cfg(any(feature = "audio", feature = "vision"))]
mod tower;
mod trace;
#[cfg(feature = "vision")]
pub mod vision;
pub mod weights;

#[cfg(feature = "tokenizer")]
pub use conversation::{Conversation, Model};
pub use error::{Error, Result};
pub use gemma::{GemmaConfig, GemmaFlow};
pub use generate::{GemmaGenerator, GeneratorOptions, SampleOpts};
pub use runtime::Device;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
