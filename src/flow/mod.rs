//! The fluent face: an ordered list of stages that emit nodes.

mod context;
mod stage;

pub use context::{EmitContext, ModelParams};
pub use stage::{BlockStage, FlowStage, ModelFlow};
