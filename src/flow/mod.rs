//! The fluent face: an ordered list of stages that emit nodes.

mod context;
mod model;
mod stack;
mod stage;

pub use context::{EmitContext, KvSource, ModelParams, Projection, ProjectionKind};
pub use model::{BuiltModel, HirModule, ModelFlow};
pub use stack::{LayerStack, SideOutputs};
pub use stage::{Adapter, BlockStage, FlowStage};
