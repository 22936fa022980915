//! `GemmaFlow`: from a configuration to a graph.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    GemmaConfig, WeightPosition,
    layer::{GemmaLayer, KvSource, model_weight, rope_table_name},
    resolve_inv_freq, rope_rows,
};
use crate::{
    Error, Result,
    flow::{EmitContext, FlowStage, ModelFlow, ModelParams},
    ir::{
        DType, Dim, Graph, NodeId, Op, Shape, Value,
        ops::{Gain, Gather, Input, Role, Slice},
        sym,
    },
    weights::WeightLoader,
};

/// What the graph computes at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// The final norm's output at every position.
    Hidden,
    /// Logits at every position.
    AllLogits,
    /// Logits at one position a sequence.
    LastLogits,
}

/// One layer as the `layer` hook sees it.
pub struct GemmaLayerCtx {
    index: usize,
    default: FlowStage,
}

impl GemmaLayerCtx {
    /// The layer's index, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The stock layer.
    pub fn default_stage(&self) -> FlowStage {
        self.default.clone()
    }
}

type LayerHook = dyn Fn(GemmaLayerCtx) -> FlowStage + Send + Sync;
type PatchHook = dyn Fn(ModelFlow) -> ModelFlow + Send + Sync;

/// Builds the graph of a Gemma model. Consumed by [`build`](Self::build).
///
/// The order of what is emitted: scaled embedding, `before_layers`, layers, `after_layers`, `patch_flow`, gather of the last
/// token, final norm, head, softcap.
#[derive(Clone)]
pub struct GemmaFlow<'a> {
    config: &'a GemmaConfig,
    batch: usize,
    seq: Dim,
    head: Head,
    kv: KvSource,
    export_kv: bool,
    before_layers: Vec<FlowStage>,
    after_layers: Vec<FlowStage>,
    layer: Option<Arc<LayerHook>>,
    patch_flow: Option<Arc<PatchHook>>,
}

/// A graph with the weights it names.
#[derive(Debug, Clone)]
pub struct BuiltModel {
    /// The graph.
    pub graph: Graph,
    /// The weights by their names in the graph.
    pub params: ModelParams,
    /// Inverse frequencies `[H/2]` of each rotary table by name.
    pub rope_tables: BTreeMap<String, Vec<f32>>,
}

impl BuiltModel {
    /// The inputs of a graph without caches for one sequence of `tokens`: ids, positions, rotary rows, and the index of the
    /// last token where the graph asks for it.
    pub fn inputs_for(&self, tokens: &[u32]) -> Vec<(&str, Value)> {
        let rows = tokens.len();
        let value = |input: &Input| match &input.role {
            Role::Positions => Value::i32([1, rows], (0..rows as i32).collect::<Vec<_>>()),
            Role::RopeTable(table) => {
                let inv_freq = &self.rope_tables[table];
                Value::f32([1, rows, inv_freq.len() * 2], rope_rows(inv_freq, 0, rows))
            }
            _ if input.name == "last_token_idx" => Value::u32([1, 1], vec![rows as u32 - 1]),
            _ => Value::u32([1, rows], tokens.to_vec()),
        };
        let inputs = self.graph.nodes().iter().filter_map(|node| match &node.op {
            Op::Input(input) => Some((input.name.as_str(), value(input))),
            _ => None,
        });
        inputs.collect()
    }
}

impl<'a> GemmaFlow<'a> {
    /// Prefill of one sequence of 128 tokens, final hidden states, no hooks.
    pub fn new(config: &'a GemmaConfig) -> Self {
        Self::for_prefill(config, 1, 128)
    }

    /// Prefill of `batch` sequences of `seq` tokens.
    pub fn for_prefill(config: &'a GemmaConfig, batch: usize, seq: usize) -> Self {
        Self {
            config,
            batch,
            seq: seq.into(),
            head: Head::Hidden,
            kv: KvSource::None,
            export_kv: false,
            before_layers: Vec::new(),
            after_layers: Vec::new(),
            layer: None,
            patch_flow: None,
        }
    }

    /// The form that generation uses, for prefill chunks and decode steps alike: any number of new tokens, keys and values in
    /// caches that stay on the device. The sizes [`sym::SEQ`], [`sym::CACHE`] and [`sym::RING`] are bound when it is compiled.
    pub fn resident(config: &'a GemmaConfig) -> Self {
        Self { kv: KvSource::Resident, ..Self::for_prefill(config, 1, 1) }.dynamic_seq()
    }

    /// Number of sequences.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Tokens in each sequence.
    pub fn seq(mut self, seq: usize) -> Self {
        self.seq = seq.into();
        self
    }

    /// [`sym::SEQ`] instead of a number: one graph for every length.
    pub fn dynamic_seq(mut self) -> Self {
        self.seq = sym::SEQ.into();
        self
    }

    /// Logits of all positions.
    pub fn lm_head(mut self) -> Self {
        self.head = Head::AllLogits;
        self
    }

    /// Final hidden states instead of logits.
    pub fn hidden_only(mut self) -> Self {
        self.head = Head::Hidden;
        self
    }

    /// Logits of one position a sequence: the last, or with [`dynamic_seq`](Self::dynamic_seq) the one that the input
    /// `last_token_idx` names.
    pub fn last_token_logits(mut self) -> Self {
        self.head = Head::LastLogits;
        self
    }

    /// Adds each layer's K (after RoPE) and V as outputs `k_0`, `v_0`, `k_1`, … `[B, T, K·H]`.
    pub fn export_kv(mut self) -> Self {
        self.export_kv = true;
        self
    }

    /// Stages between the scaled embedding and the first layer.
    pub fn before_layers(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.before_layers.extend(stages);
        self
    }

    /// Stages between the last layer and the final norm.
    pub fn after_layers(mut self, stages: impl IntoIterator<Item = FlowStage>) -> Self {
        self.after_layers.extend(stages);
        self
    }

    /// Decides each layer; [`GemmaLayerCtx::default_stage`] is the stock one.
    pub fn layer(mut self, f: impl Fn(GemmaLayerCtx) -> FlowStage + Send + Sync + 'static) -> Self {
        self.layer = Some(Arc::new(f));
        self
    }

    /// Changes the assembled flow, after the layers and `after_layers`.
    pub fn patch_flow(mut self, f: impl Fn(ModelFlow) -> ModelFlow + Send + Sync + 'static) -> Self {
        self.patch_flow = Some(Arc::new(f));
        self
    }

    /// Emits the graph. Weights are taken from the loader as handles; none of their bytes are read.
    ///
    /// # Errors
    /// [`Error::Builder`] for sizes of zero, [`Error::Config`], and what the loader says of a weight.
    pub fn build(self, loader: &mut dyn WeightLoader) -> Result<BuiltModel> {
        let config = self.config;
        config.validate()?;
        if self.batch == 0 || self.seq.fixed() == Some(0) {
            return Err(Error::Builder("batch and seq must be at least 1".into()));
        }
        let flow = self.assemble();
        let mut graph = Graph::new(if self.kv == KvSource::Resident { "gemma_resident" } else { "gemma" });
        let mut context = EmitContext::new(&mut graph, loader, self.batch, self.seq);
        let x = self.embed(&mut context)?;
        let x = flow.emit(&mut context, x)?;
        self.head(&mut context, x)?;
        let params = context.into_params();
        let tables = (0..config.active_num_layers()).map(|i| (rope_table_name(config, i), config.layer_rope(i)));
        let rope_tables = tables
            .map(|(name, rope)| Ok((name.to_string(), resolve_inv_freq(rope, config.head_dim, None)?)))
            .collect::<Result<_>>()?;
        Ok(BuiltModel { graph, params, rope_tables })
    }

    /// The stages between embedding and head.
    fn assemble(&self) -> ModelFlow {
        let layer = |index: usize| {
            let config = self.config.clone();
            let stock = FlowStage::block(GemmaLayer { config, index, kv: self.kv, export_kv: self.export_kv });
            let default = stock.named(format!("layer.{index}"));
            match &self.layer {
                Some(hook) => hook(GemmaLayerCtx { index, default }),
                None => default,
            }
        };
        let layers = self.config.active_num_layers();
        let flow = ModelFlow::new().stages(self.before_layers.clone()).repeat_layers(layers, layer);
        let flow = flow.stages(self.after_layers.clone());
        match &self.patch_flow {
            Some(patch) => patch(flow),
            None => flow,
        }
    }

    /// `embed[ids] · √D` (gemma-spec §1; the factor unrounded, as in f32).
    fn embed(&self, context: &mut EmitContext) -> Result<NodeId> {
        let dims = Shape(vec![context.batch.into(), context.seq]);
        let ids = context.graph.input("input_ids", Role::Caller, DType::U32, dims)?;
        let table = self.embedding(context)?;
        let rows = context.graph.gather(table, ids)?;
        let x = context.graph.scale(rows, (self.config.hidden_size as f32).sqrt())?;
        Ok(context.graph.label(x, "embed"))
    }

    fn embedding(&self, context: &mut EmitContext) -> Result<NodeId> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        model_weight(context, self.config, WeightPosition::Embed, &shape)
    }

    /// Final norm, head and softcap; adds the model's output.
    fn head(&self, context: &mut EmitContext, x: NodeId) -> Result<()> {
        let c = self.config;
        let x = if self.head == Head::LastLogits { self.last_token(context, x)? } else { x };
        let gain = model_weight(context, c, WeightPosition::FinalNorm, &[c.hidden_size])?;
        let x = context.graph.rms_norm(x, gain, c.rms_norm_eps, Gain::OnePlus)?;
        context.graph.label(x, "final_norm");
        let mut outputs = std::mem::take(context.graph.outputs_mut());
        if self.head == Head::Hidden {
            outputs.insert(0, ("hidden".into(), x));
        } else {
            let weight = match c.tie_word_embeddings {
                true => self.embedding(context)?,
                false => model_weight(context, c, WeightPosition::Unembed, &[c.vocab_size, c.hidden_size])?,
            };
            let mut logits = context.graph.linear(x, weight)?;
            if let Some(cap) = c.final_logit_softcapping {
                logits = context.graph.softcap(logits, cap)?;
            }
            context.graph.label(logits, "unembed");
            outputs.insert(0, ("logits".into(), logits));
        }
        *context.graph.outputs_mut() = outputs;
        Ok(())
    }

    /// One row of each sequence, `[B, 1, D]`.
    fn last_token(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        if let Some(seq) = context.seq.fixed() {
            return context.graph.push(Slice { axis: 1, start: seq - 1, len: 1.into() }, &[x]);
        }
        let index = context.graph.input("last_token_idx", Role::Caller, DType::U32, [context.batch, 1])?;
        let x = context.graph.push(Gather { per_batch: true }, &[x, index])?;
        Ok(context.graph.label(x, "last_token"))
    }
}

impl fmt::Debug for GemmaFlow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GemmaFlow")
            .field("arch", &self.config.arch)
            .field("batch", &self.batch)
            .field("seq", &self.seq)
            .field("head", &self.head)
            .field("kv", &self.kv)
            .field("export_kv", &self.export_kv)
            .field("before_layers", &self.before_layers.len())
            .field("after_layers", &self.after_layers.len())
            .field("layer hooks", &usize::from(self.layer.is_some()))
            .field("patch hooks", &usize::from(self.patch_flow.is_some()))
            .finish()
    }
}
