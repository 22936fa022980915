//! Tokens in, tokens out: the generator, its sampler, and the engines that run the graphs for it.

mod engine;
mod generator;
mod reference_engine;
mod sample;

pub(crate) use engine::{Engine, Model, Sampled, Want};
pub use engine::{ModelStats, PREFILL_CHUNK, SMALLEST_BUCKET};
pub use generator::{GemmaGenerator, GeneratorOptions, OnProgress};
pub(crate) use sample::{SHORT_LIST, ShortList};
pub use sample::{SampleOpts, sample_token};
