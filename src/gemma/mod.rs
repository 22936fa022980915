//! Gemma: its configuration, rotary tables and weight names.

mod config;
mod flow;
mod layer;
mod names;
mod rope;

pub use config::{GemmaArch, GemmaConfig, GemmaLayerStyle, LayerAttnOptions, LayerKind, RopeConfig, RopeScaling};
pub use flow::{BuiltModel, GemmaFlow, GemmaLayerCtx};
pub use layer::{GemmaLayer, KvSource};
pub(crate) use names::text_weight;
pub use names::{LayerWeight, WeightPosition};
pub use rope::{build_rope_tables, default_inv_freq, resolve_inv_freq, rope_rows, rope_slice};
