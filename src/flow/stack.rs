//! A layer as a stack of stages around a residual stream.

use super::{BlockStage, EmitContext, FlowStage};
use crate::{Error, Result, ir::NodeId};

/// Builds a layer stage by stage: save the stream, work on it, add the saved stream back.
///
/// ```
/// use gemmaflow::{flow::LayerStack, gemma::{GemmaConfig, GemmaRmsNormStage, GeGluStage, LayerWeight}};
///
/// let config = GemmaConfig::tiny_test();
/// let norm = GemmaRmsNormStage::hf_layer(&config, 0, LayerWeight::PreFfwNorm);
/// let feed_forward =
///     LayerStack::named("layer.0").residual_save().stage(norm).stage(GeGluStage::hf_mlp(&config, 0)).residual_add().build();
/// ```
#[derive(Debug, Clone)]
pub struct LayerStack {
    name: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Save,
    Add,
    Linear { name: String, key: String, out: usize },
    Stage(FlowStage),
}

impl LayerStack {
    /// An empty stack; its nodes are labelled `name.…`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), steps: Vec::new() }
    }

    /// Remembers the current value as the residual stream.
    pub fn residual_save(self) -> Self {
        self.step(Step::Save)
    }

    /// Adds the stream that was saved last, and forgets it.
    pub fn residual_add(self) -> Self {
        self.step(Step::Add)
    }

    /// `W · x` with the weight `key` of the loader, `[out, last dimension of x]`, called `{stack}.{name}` in the graph.
    pub fn linear(self, name: impl Into<String>, key: impl Into<String>, out: usize) -> Self {
        self.step(Step::Linear { name: name.into(), key: key.into(), out })
    }

    /// Appends a block.
    pub fn stage(self, block: impl BlockStage + 'static) -> Self {
        self.raw_stage(FlowStage::block(block))
    }

    /// Appends a stage.
    pub fn raw_stage(self, stage: FlowStage) -> Self {
        self.step(Step::Stage(stage))
    }

    /// The stage.
    pub fn build(self) -> FlowStage {
        let name = self.name.clone();
        FlowStage::block(self).named(name)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl BlockStage for LayerStack {
    fn emit(&self, context: &mut EmitContext, value: NodeId) -> Result<NodeId> {
        let mut saved = Vec::new();
        let mut x = value;
        for step in &self.steps {
            x = match step {
                Step::Save => {
                    saved.push(x);
                    x
                }
                Step::Add => {
                    let stream = saved.pop().ok_or_else(|| {
                        Error::Builder(format!("{}: residual_add without a residual_save before it", self.name))
                    })?;
                    context.graph.add(stream, x)?
                }
                Step::Linear { name, key, out } => context.project(x, &format!("{}.{name}", self.name), key, *out)?,
                Step::Stage(stage) => stage.emit(context, x)?,
            };
        }
        if !saved.is_empty() {
            return Err(Error::Builder(format!("{}: a residual_save has no residual_add", self.name)));
        }
        if x == value {
            return Ok(x);
        }
        Ok(context.graph.label(x, "output"))
    }
}

/// How a layer's own values become outputs of the graph: `{prefix}{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SideOutputs {
    prefix: String,
}

impl SideOutputs {
    /// Outputs under their own names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Outputs whose names begin with `prefix`.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Adds an output.
    pub fn add(&self, context: &mut EmitContext, name: &str, node: NodeId) {
        context.side_output(format!("{}{name}", self.prefix), node);
    }
}
