//! Stages and the list of them that is a model.

use std::{fmt, sync::Arc};

use super::EmitContext;
use crate::{Error, Result, ir::NodeId};

/// A block of a model: emits its nodes and returns the value that the next stage gets.
pub trait BlockStage: fmt::Debug + Send + Sync {
    /// Emits the block; `value` is the stream `[B, T, D]`.
    ///
    /// # Errors
    /// What the ops and weights that it asks for say.
    fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId>;
}

type CustomStage = dyn Fn(&mut EmitContext, NodeId) -> anyhow::Result<NodeId> + Send + Sync;

/// One stage of a flow.
#[derive(Clone)]
pub enum FlowStage {
    /// A block.
    Block(Arc<dyn BlockStage>),
    /// A stage under a name: its nodes are labelled `name.…`.
    Named(String, Box<FlowStage>),
    /// Stages one after the other.
    Sequence(Vec<FlowStage>),
    /// A function of the caller, with a name for errors.
    Custom(String, Arc<CustomStage>),
}

impl FlowStage {
    /// A block.
    pub fn block(block: impl BlockStage + 'static) -> Self {
        FlowStage::Block(Arc::new(block))
    }

    /// A function of the caller.
    pub fn custom(
        name: impl Into<String>,
        f: impl Fn(&mut EmitContext, NodeId) -> anyhow::Result<NodeId> + Send + Sync + 'static,
    ) -> Self {
        FlowStage::Custom(name.into(), Arc::new(f))
    }

    /// The same stage under a name.
    pub fn named(self, name: impl Into<String>) -> Self {
        FlowStage::Named(name.into(), Box::new(self))
    }

    /// Emits the stage.
    ///
    /// # Errors
    /// The stage's own; a custom stage's come as [`Error::Stage`].
    pub fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId> {
        match self {
            FlowStage::Block(block) => block.emit(context, value),
            FlowStage::Named(name, stage) => context.scoped(name, |context| stage.emit(context, value)),
            FlowStage::Sequence(stages) => stages.iter().try_fold(value, |value, stage| stage.emit(context, value)),
            FlowStage::Custom(name, f) => f(context, value).map_err(|source| Error::Stage { stage: name.clone(), source }),
        }
    }
}

impl fmt::Debug for FlowStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlowStage::Block(block) => block.fmt(f),
            FlowStage::Named(name, stage) => write!(f, "{name}: {stage:?}"),
            FlowStage::Sequence(stages) => f.debug_list().entries(stages).finish(),
            FlowStage::Custom(name, _) => write!(f, "custom({name})"),
        }
    }
}

/// An ordered list of stages.
#[derive(Debug, Clone, Default)]
pub struct ModelFlow {
    stages: Vec<FlowStage>,
}

impl ModelFlow {
    /// No stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a stage.
    pub fn stage(mut self, stage: FlowStage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Appends stages.
    pub fn stages(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.stages.extend(stages);
        self
    }

    /// Appends `count` stages, made from their index.
    pub fn repeat_layers(self, count: usize, stage: impl FnMut(usize) -> FlowStage) -> Self {
        self.stages((0..count).map(stage))
    }

    /// How many stages there are.
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Emits all stages in order.
    ///
    /// # Errors
    /// The first that a stage gives.
    pub fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId> {
        self.stages.iter().try_fold(value, |value, stage| stage.emit(context, value))
    }
}
