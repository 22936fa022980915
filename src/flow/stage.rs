//! Stages: the parts that a model is made of.

use std::{fmt, sync::Arc};

use super::{EmitContext, Projection};
use crate::{Error, Result, error::CallbackError, ir::NodeId};

/// A block of a model: emits its nodes and returns the value that the next stage gets.
pub trait BlockStage: fmt::Debug + Send + Sync {
    /// Emits the block; `value` is the stream `[B, T, D]`.
    ///
    /// # Errors
    /// Errors of the ops and weights that it asks for.
    fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId>;
}

type CustomStage = dyn Fn(&mut EmitContext, NodeId) -> anyhow::Result<NodeId> + Send + Sync;

/// Replaces the result of a product with a weight: gets the product, returns what stands for it.
pub type Adapter = dyn Fn(&mut EmitContext, &Projection) -> anyhow::Result<NodeId> + Send + Sync;

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
    /// A stage whose products with weights go through an adapter.
    Adapted(Box<FlowStage>, Arc<Adapter>),
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

    /// The stage that passes its value on, such as a layer that is left out.
    pub fn identity() -> Self {
        FlowStage::Sequence(Vec::new())
    }

    /// The same stage under a name.
    pub fn named(self, name: impl Into<String>) -> Self {
        FlowStage::Named(name.into(), Box::new(self))
    }

    /// The same stage with every product of a weight going through `adapter`, such as a LoRA's `y + B·A·x`.
    pub fn adapted(
        self,
        adapter: impl Fn(&mut EmitContext, &Projection) -> anyhow::Result<NodeId> + Send + Sync + 'static,
    ) -> Self {
        FlowStage::Adapted(Box::new(self), Arc::new(adapter))
    }

    /// This stage, then `next`.
    pub fn then(self, next: FlowStage) -> Self {
        FlowStage::Sequence(vec![self, next])
    }

    /// Emits the stage.
    ///
    /// # Errors
    /// The stage's own; a custom stage's come as [`CallbackError::Stage`].
    pub fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId> {
        match self {
            FlowStage::Block(block) => block.emit(context, value),
            FlowStage::Named(name, stage) => context.scoped(name, |context| stage.emit(context, value)),
            FlowStage::Sequence(stages) => stages.iter().try_fold(value, |value, stage| stage.emit(context, value)),
            FlowStage::Custom(name, f) => {
                f(context, value).map_err(|source| Error::Callback(CallbackError::Stage { stage: name.clone(), source }))
            }
            FlowStage::Adapted(stage, adapter) => context.adapted(adapter, |context| stage.emit(context, value)),
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
            FlowStage::Adapted(stage, _) => write!(f, "adapted({stage:?})"),
        }
    }
}
