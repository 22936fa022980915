//! A whole model: inputs, stages in order, outputs.

use std::sync::Arc;

use super::{Adapter, BlockStage, EmitContext, FlowStage, KvSource, ModelParams, Projection};
use crate::{
    Error, Result,
    ir::{
        DType, Dim, Graph, NodeId, Shape, Symbol, Type,
        ops::{Gather, PositionRule, Role, Slice},
    },
    profile::CompileProfile,
    weights::WeightLoader,
};

/// A graph as it is authored: composites, symbolic sizes, named outputs. `ir::decompose` lowers it.
pub type HirModule = Graph;

/// An ordered list of stages between inputs and outputs.
///
/// The first input is the value that the first stage gets. Side outputs that stages add follow the outputs named here.
#[derive(Debug, Clone)]
pub struct ModelFlow {
    name: String,
    batch: usize,
    seq: Dim,
    kv: KvSource,
    positions: PositionRule,
    limits: Vec<(Symbol, usize)>,
    inputs: Vec<(String, Role, Type)>,
    stages: Vec<FlowStage>,
    selected: Option<Vec<String>>,
    profile: CompileProfile,
}

impl ModelFlow {
    /// A flow without stages for `batch` sequences of `seq` new tokens.
    pub fn new(name: impl Into<String>, batch: usize, seq: impl Into<Dim>) -> Self {
        Self {
            name: name.into(),
            batch,
            seq: seq.into(),
            kv: KvSource::None,
            positions: PositionRule::From(0),
            limits: Vec::new(),
            inputs: Vec::new(),
            stages: Vec::new(),
            selected: None,
            profile: CompileProfile::default(),
        }
    }

    /// How the graph is to be compiled; see [`CompileProfile`].
    pub fn with_profile(mut self, profile: CompileProfile) -> Self {
        self.profile = profile;
        self
    }

    /// The largest value that a symbolic size may be bound to, and the one it has where nothing else is said.
    pub fn limit(mut self, symbol: Symbol, most: usize) -> Self {
        self.limits.push((symbol, most));
        self
    }

    /// Declares an input that the caller gives with every run.
    pub fn input(self, name: impl Into<String>, dtype: DType, shape: impl Into<Shape>) -> Self {
        self.declare(name, Role::Caller, dtype, shape)
    }

    /// Declares an input that the caller may give.
    pub fn optional_input(self, name: impl Into<String>, dtype: DType, shape: impl Into<Shape>) -> Self {
        self.declare(name, Role::Optional, dtype, shape)
    }

    fn declare(mut self, name: impl Into<String>, role: Role, dtype: DType, shape: impl Into<Shape>) -> Self {
        self.inputs.push((name.into(), role, Type::new(dtype, shape)));
        self
    }

    /// The positions of the new tokens follow from the optional input `attention_mask` `[B, T]` f32 (1 live, 0 padding
    /// on either side; all live where it is not given): padding is at no position, and so no query sees it.
    pub fn bind_attention_mask(mut self) -> Self {
        self.positions = PositionRule::Mask("attention_mask".into());
        let shape = Shape(vec![self.batch.into(), self.seq]);
        self.optional_input("attention_mask", DType::F32, shape)
    }

    /// Attention reads `past` rows of keys and values that the caller holds, as `past_k_{i}`, `past_v_{i}`
    /// `[B, past, K·H]`. With a symbolic `past` the input `position` `[B]` u32 says how many of them are live; with
    /// `mask` the input `mask` `[B, past + T]` f32 drops keys.
    pub fn bind_decode_inputs(mut self, past: impl Into<Dim>, mask: bool) -> Self {
        let past = past.into();
        self.kv = KvSource::Caller { past, mask };
        if let Some(rows) = past.fixed() {
            self.positions = PositionRule::From(rows);
            return self;
        }
        self.positions = PositionRule::Given("position".into());
        let batch = [self.batch];
        self.input("position", DType::U32, batch)
    }

    /// Attention writes into caches that stay beside the weights and reads them.
    pub fn bind_resident_cache(mut self, dtype: DType) -> Self {
        self.kv = KvSource::Resident { dtype };
        self
    }

    /// Appends a block.
    pub fn stage(self, block: impl BlockStage + 'static) -> Self {
        self.raw_stage(FlowStage::block(block))
    }

    /// Appends a stage.
    pub fn raw_stage(mut self, stage: FlowStage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Appends stages.
    pub fn raw_stages(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.stages.extend(stages);
        self
    }

    /// Appends a function of the caller.
    pub fn custom(
        self,
        name: impl Into<String>,
        f: impl Fn(&mut EmitContext, NodeId) -> anyhow::Result<NodeId> + Send + Sync + 'static,
    ) -> Self {
        self.raw_stage(FlowStage::custom(name, f))
    }

    /// Appends `count` stages, made from their index.
    pub fn repeat_layers(self, count: usize, stage: impl FnMut(usize) -> FlowStage) -> Self {
        self.raw_stages((0..count).map(stage))
    }

    /// Lets every product of a weight in the stages so far go through `adapter`; see [`FlowStage::adapted`].
    pub fn adapted(
        mut self,
        adapter: impl Fn(&mut EmitContext, &Projection) -> anyhow::Result<NodeId> + Send + Sync + 'static,
    ) -> Self {
        self.adapt(Arc::new(adapter));
        self
    }

    pub(crate) fn adapt(&mut self, adapter: Arc<Adapter>) {
        let stages = std::mem::take(&mut self.stages);
        self.stages = stages.into_iter().map(|stage| FlowStage::Adapted(Box::new(stage), adapter.clone())).collect();
    }

    /// Declares rotary tables by name with their H/2 inverse frequencies; see [`EmitContext::rope_table`].
    pub fn rope_tables<N: Into<String>>(self, tables: impl IntoIterator<Item = (N, Vec<f32>)>) -> Self {
        let tables: Vec<(String, Vec<f32>)> = tables.into_iter().map(|(name, inv_freq)| (name.into(), inv_freq)).collect();
        self.custom("rope_tables", move |context, value| {
            for (name, inv_freq) in &tables {
                context.rope_table(name, inv_freq)?;
            }
            Ok(value)
        })
    }

    /// Replaces ids `[B, T]` by rows of the weight `key` `[vocab, width]`, called `name` in the graph.
    pub fn token_embed(self, name: &str, key: &str, [vocab, width]: [usize; 2]) -> Self {
        let name = name.to_string();
        let key = key.to_string();
        self.custom("token_embed", move |context, ids| Ok(context.look_up(ids, &name, &key, [vocab, width], false)?))
    }

    /// Replaces `[B, T, D]` by the row at `index` of each sequence, `[B, 1, D]`.
    pub fn gather_last_token_at(self, index: usize) -> Self {
        self.custom("last_token", move |context, x| {
            let row = context.graph.push(Slice { axis: 1, start: index, len: 1.into() }, &[x])?;
            Ok(context.graph.label(row, "last_token"))
        })
    }

    /// Replaces `[B, T, D]` by the row of each sequence that the input `last_token_idx` `[B]` u32 names, `[B, 1, D]`.
    /// The input is the caller's to give where `given`, else the last live token.
    pub fn gather_last_token_dynamic(self, given: bool) -> Self {
        let rule = self.positions.clone();
        let role = if given { Role::Caller } else { Role::LastToken(rule) };
        self.custom("last_token", move |context, x| {
            let batch = context.batch;
            let index = context.graph.input("last_token_idx", role.clone(), DType::U32, [batch])?;
            let index = context.graph.reshape(index, [batch, 1])?;
            let row = context.graph.push(Gather { per_batch: true, or_first: false, first: 0 }, &[x, index])?;
            Ok(context.graph.label(row, "last_token"))
        })
    }

    /// Makes the current value an output of the graph.
    pub fn output(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.custom(format!("output {name}"), move |context, x| {
            context.output(name.clone(), x);
            Ok(x)
        })
    }

    /// Keeps these outputs alone, in this order; a name that no stage gave is an error at [`build`](Self::build).
    pub fn outputs<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.selected = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// How many stages there are.
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Emits everything. Weights are taken from the loader as handles; none of their bytes are read.
    ///
    /// # Errors
    /// The first that a stage gives; [`Error::Builder`] without inputs, for two inputs or outputs of one name, or for
    /// an output that was asked for and that no stage gave.
    pub fn build(&self, loader: &mut dyn WeightLoader) -> Result<BuiltModel> {
        let mut graph = Graph::new(self.name.clone());
        self.limits.iter().for_each(|(symbol, most)| graph.set_limit(*symbol, *most));
        let mut context = EmitContext::new(&mut graph, loader, self.batch, self.seq);
        (context.kv, context.positions) = (self.kv.clone(), self.positions.clone());
        let mut declare = |(name, role, ty): &(String, Role, Type)| {
            let node = context.graph.input(name.clone(), role.clone(), ty.dtype, ty.shape.clone())?;
            context.share(name.clone(), node);
            Ok(node)
        };
        let nodes = self.inputs.iter().map(&mut declare).collect::<Result<Vec<_>>>()?;
        let first = *nodes.first().ok_or_else(|| Error::Builder(format!("the flow '{}' has no input", self.name)))?;
        self.stages.iter().try_fold(first, |value, stage| stage.emit(&mut context, value))?;
        let params = context.finish();
        if let Some(names) = &self.selected {
            graph = graph.with_outputs(select(&graph, names)?);
        }
        unique(graph.outputs().iter().map(|(name, _)| name), "outputs")?;
        unique(graph.inputs().map(|(_, input)| &input.name), "inputs")?;
        Ok(BuiltModel { graph, params, profile: self.profile.clone() })
    }
}

fn select(graph: &Graph, names: &[String]) -> Result<Vec<(String, NodeId)>> {
    let find = |name: &String| {
        let found = graph.outputs().iter().find(|(n, _)| n == name).cloned();
        let there = || graph.outputs().iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| Error::Builder(format!("no stage gives the output '{name}'; there are: {}", there())))
    };
    names.iter().map(find).collect()
}

fn unique<'a>(names: impl Iterator<Item = &'a String>, what: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::Builder(format!("two {what} are called '{name}'")));
        }
    }
    Ok(())
}

/// A graph with the weights it names.
#[derive(Debug, Clone)]
pub struct BuiltModel {
    /// The graph.
    pub graph: HirModule,
    /// The weights by their names in the graph.
    pub params: ModelParams,
    /// How the graph is to be compiled.
    pub profile: CompileProfile,
}

impl BuiltModel {
    /// The weights by their names in the graph.
    pub fn params(&self) -> &ModelParams {
        &self.params
    }

    /// The names of the outputs in order.
    pub fn output_names(&self) -> Vec<&str> {
        self.graph.outputs().iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Graph and weights.
    pub fn into_parts(self) -> (HirModule, ModelParams) {
        (self.graph, self.params)
    }

    /// The lowered graph, composites without a kernel replaced by their definitions, and the weights.
    ///
    /// # Errors
    /// As `ir::decompose`.
    pub fn into_graph_parts(self) -> Result<(Graph, ModelParams)> {
        Ok((crate::ir::decompose(&self.graph)?, self.params))
    }

    /// The same model with more outputs after its own, by the nodes' positions in the model, such as `layer.3.output`.
    ///
    /// # Errors
    /// [`Error::Builder`] for a label that no node has, or an output that is there already.
    pub fn with_extra_hir_outputs<'n>(mut self, labels: impl IntoIterator<Item = &'n str>) -> Result<Self> {
        for label in labels {
            let node = self.graph.ids().rev().find(|id| self.graph.node(*id).name == label);
            let node = node.ok_or_else(|| Error::Builder(format!("no node is called '{label}'")))?;
            self.graph.output(label, node);
        }
        unique(self.graph.outputs().iter().map(|(name, _)| name), "outputs")?;
        Ok(self)
    }
}
