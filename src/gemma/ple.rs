//! Per-layer embeddings (PLE), from Gemma 3n on: a vector of each token for each layer, which the layer gates into its
//! output (docs/gemma.md, Per-layer embeddings). Source: `modeling_gemma3n.py` in transformers.

use super::{
    GemmaArch, GemmaConfig, LayerWeight, PerLayerInput, WeightPosition,
    blocks::{model_weight, project, weight_key},
};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext, Projection, ProjectionKind},
    ir::{
        DType, Dim, NodeId,
        ops::{Role, Slice},
    },
};

/// The name under which layers find the embeddings, `[B, T, layers, P]`.
const INPUTS: &str = "ple_inputs";

/// Makes the per-layer embeddings of all layers, from a token's scaled embedding e and its row in a table; the stream
/// passes through.
///
/// `p = (norm(W·e / √D) + table[id]·√P) / √2`, by layer; an id that the table does not have takes its first row.
/// Without a table (EmbeddingGemma 2) `p = norm(W·e / √D)`.
#[derive(Debug, Clone)]
pub struct PleInputsStage {
    arch: GemmaArch,
    layers: usize,
    /// P.
    width: usize,
    /// Rows of the table.
    rows: Option<usize>,
    eps: f32,
    on_host: bool,
}

impl PleInputsStage {
    /// The embeddings of all layers; `None` for a model without PLE.
    pub fn of(config: &GemmaConfig) -> Option<Self> {
        let PerLayerInput { hidden_size, vocab_size } = config.per_layer_input?;
        Some(Self {
            arch: config.arch,
            layers: config.num_hidden_layers,
            width: hidden_size,
            rows: vocab_size,
            eps: config.rms_norm_eps,
            on_host: false,
        })
    }

    /// Leaves the table on the host: the rows of a run's tokens are an input, which a generator fills.
    pub(super) fn on_host(self, on_host: bool) -> Self {
        Self { on_host, ..self }
    }

    /// The rows of the tokens in a table of `rows`, `[B, T, layers·P]`.
    fn table_rows(&self, context: &mut EmitContext, ids: NodeId, rows: usize) -> Result<NodeId> {
        let width = self.layers * self.width;
        let name = WeightPosition::PleEmbed.to_string();
        let key = weight_key(self.arch, WeightPosition::PleEmbed)?;
        let rows = if self.on_host {
            let shape = context.shape(&[width]);
            context.host_weight(&name, &key, &[rows, width])?;
            let output = context.graph.input("ple_rows", Role::TableRows(name.clone()), DType::F32, shape)?;
            let kind = ProjectionKind::Rows { or_first: true };
            context.through_adapters(Projection { name: &name, input: ids, output, kind })?
        } else {
            context.look_up(ids, &name, &key, [rows, width], true)?
        };
        Ok(context.graph.label(rows, "ple_embed"))
    }
}

impl BlockStage for PleInputsStage {
    fn emit(&self, context: &mut EmitContext, embed: NodeId) -> Result<NodeId> {
        let Self { arch, layers, width, rows, eps, .. } = *self;
        let by_layer = context.shape(&[layers, width]);

        let root = (context.width(embed)? as f32).sqrt();
        let projected = project(context, embed, arch, WeightPosition::PleModelProjection, layers * width)?;
        let projected = context.graph.reshape(projected, by_layer.clone())?;
        let projected = context.graph.scale(projected, 1.0 / root)?;
        let gain = model_weight(context, arch, WeightPosition::PleProjectionNorm, &[width])?;
        let projected = context.graph.rms_norm(projected, gain, eps, arch.gain())?;
        context.graph.label(projected, "ple_projection_norm");
        let Some(rows) = rows else {
            context.share(INPUTS, projected);
            return Ok(embed);
        };
        let missing = || Error::Builder("per-layer embeddings need the tokens, 'input_ids'".into());
        let ids = context.find_shared("input_ids").ok_or_else(missing)?;
        let own = self.table_rows(context, ids, rows)?;
        let own = context.graph.reshape(own, by_layer)?;
        let own = context.graph.scale(own, (width as f32).sqrt())?;
        let both = context.graph.add(projected, own)?;
        let both = context.graph.scale(both, std::f32::consts::FRAC_1_SQRT_2)?;
        context.graph.label(both, INPUTS);
        context.share(INPUTS, both);
        Ok(embed)
    }
}

/// `projection · (gelu(gate · x) ∘ p)` with the per-layer embedding p of one layer: `[B, T, D]` to `[B, T, D]`.
#[derive(Debug, Clone)]
pub struct PleGateStage {
    arch: GemmaArch,
    layer: usize,
    width: usize,
}

impl PleGateStage {
    /// The block of a layer; `None` for a model without PLE.
    pub fn of(config: &GemmaConfig, layer: usize) -> Option<Self> {
        config.per_layer_input.map(|input| Self { arch: config.arch, layer, width: input.hidden_size })
    }
}

impl BlockStage for PleGateStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let Self { arch, layer, width } = *self;
        let missing = || Error::Builder(format!("layer {layer} has per-layer embeddings, and no stage before it makes them"));
        let inputs = context.find_shared(INPUTS).ok_or_else(missing)?;
        let out = context.width(x)?;
        let gate = project(context, x, arch, WeightPosition::Layer(layer, LayerWeight::PleGate), width)?;
        let gate = context.graph.gelu(gate)?;
        let own = context.graph.push(Slice { axis: 2, start: layer, len: Dim::from(1) }, &[inputs])?;
        let shape = context.shape(&[width]);
        let own = context.graph.reshape(own, shape)?;
        let h = context.graph.mul(gate, own)?;
        context.graph.label(h, "ple_geglu");
        project(context, h, arch, WeightPosition::Layer(layer, LayerWeight::PleProjection), out)
    }
}
