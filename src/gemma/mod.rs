//! Gemma: its configuration, rotary tables and weight names.

mod config;

pub use config::{GemmaArch, GemmaConfig, GemmaLayerStyle, LayerAttnOptions, LayerKind, RopeConfig, RopeScaling};
