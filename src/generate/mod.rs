//! Tokens in, tokens out: the generator, its sampler, and the engines that run the graphs for it.

mod engine;
mod generator;
mod reference_engine;
mod sample;

pub use engine::ModelStats;
pub(crate) use engine::{Engine, Model, Sampled, Want};
pub use generator::{GemmaGenerator, GeneratorOptions, OnProgress};
pub(crate) use sample::{SHORT_LIST, ShortList};
pub use sample::{SampleOpts, sample_token};
