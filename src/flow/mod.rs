//! The fluent face: an ordered list of stages that emit nodes.

mod context;
mod model;
mod run_tokens;
mod stack;
mod stage;

pub use context::{EmitContext, KvSource, ModelParams, Projection, ProjectionKind};
pub use model::{BuiltModel, HirModule, ModelFlow};
pub(crate) use run_tokens::{RunTokens, table_rows};
pub use stack::{LayerStack, SideOutputs};
pub use stage::{Adapter, BlockStage, FlowStage};
