//! The Conformers of Gemma 4 and Gemma 3n. Source: `modeling_gemma4.py` (`Gemma4Audio*`) and `modeling_gemma3n.py`
//! (`Gemma3nAudio*`, `Gemma3nMultimodalEmbedder`) in transformers.

use std::f32::consts::{E, LN_2};

use super::{
    MASK_QUARTER,
    subsample::{given, subsample},
};
use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    gemma::{
        ConformerConfig, ConformerKind,
        tower::{biased, clipped, linear, rms_norm, row, unit_norm},
    },
    ir::{
        BinaryFn, NodeId, UnaryFn,
        ops::{Cast, Concat, Conv2d, Gain, RelativeAttention, Slice, Unary},
    },
    weights::Tensor,
};

/// The wavelength of the slowest sine of a distance, over 2π.
const LONGEST: f64 = 1e4;

/// Log-mel features `[1, T, F]` to soft tokens, as [`AudioConfig::flow`](crate::gemma::AudioConfig) says.
#[derive(Debug, Clone)]
pub struct ConformerStage {
    config: ConformerConfig,
    /// D of the text model.
    width: usize,
    names: Names,
}

/// The names of a layer's parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub(crate) layers: &'static str,
    pub(crate) first_feed_forward: &'static str,
    pub(crate) last_feed_forward: &'static str,
    pub(crate) attention: &'static str,
    pub(crate) attention_norms: [&'static str; 2],
    pub(crate) post: &'static str,
    pub(crate) distances: &'static str,
    pub(crate) norm: &'static str,
}

impl Names {
    pub(crate) fn of(kind: ConformerKind) -> Self {
        match kind {
            ConformerKind::Gemma4 { .. } => GEMMA_4,
            ConformerKind::Gemma3n { .. } => GEMMA_3N,
        }
    }
}

const GEMMA_4: Names = Names {
    layers: "audio_tower.layers",
    first_feed_forward: "feed_forward1",
    last_feed_forward: "feed_forward2",
    attention: "self_attn",
    attention_norms: ["norm_pre_attn", "norm_post_attn"],
    post: "self_attn.post",
    distances: "self_attn.relative_k_proj",
    norm: "norm_out",
};

const GEMMA_3N: Names = Names {
    layers: "audio_tower.conformer",
    first_feed_forward: "ffw_layer_start",
    last_feed_forward: "ffw_layer_end",
    attention: "attention.attn",
    attention_norms: ["attention.pre_attn_norm", "attention.post_norm"],
    post: "attention.post",
    distances: "attention.attn.relative_position_embedding.pos_proj",
    norm: "norm",
};

impl ConformerStage {
    /// The tower of `config` for a text model of `width`.
    pub fn new(config: ConformerConfig, width: usize) -> Self {
        Self { config, width, names: Names::of(config.kind) }
    }

    /// A product of a layer.
    fn product(&self, context: &mut EmitContext, x: NodeId, name: &str, out: usize) -> Result<NodeId> {
        match self.config.kind {
            ConformerKind::Gemma4 { clipped_linears, .. } => clipped(context, x, name, out, clipped_linears),
            ConformerKind::Gemma3n { .. } => linear(context, x, name, out),
        }
    }

    fn norm(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        rms_norm(context, x, name, self.config.rms_norm_eps, Gain::Plain)
    }

    fn feed_forward(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        let width = self.config.hidden_size;
        let h = self.norm(context, x, &format!("{name}.pre_layer_norm"))?;
        let h = self.product(context, h, &format!("{name}.ffw_layer_1"), 4 * width)?;
        let h = silu(context, h)?;
        let h = self.product(context, h, &format!("{name}.ffw_layer_2"), width)?;
        let h = self.norm(context, h, &format!("{name}.post_layer_norm"))?;
        let h = context.graph.scale(h, self.config.residual_weight)?;
        context.graph.add(x, h)
    }

    /// The rows `[W, N, H]` of the distances from 0 to W − 1.
    fn distances(&self, context: &mut EmitContext, name: &str) -> Result<NodeId> {
        let ConformerConfig { hidden_size, num_attention_heads: heads, attention_context: window, .. } = self.config;
        let table = context.shared("audio.distances", |context| {
            let values = sines(hidden_size, window);
            context.own_weight("audio.distances", Tensor::from_f32("audio.distances", vec![window, hidden_size], &values))
        })?;
        let table = context.graph.push(Cast, &[table])?;
        let rows = linear(context, table, name, hidden_size)?;
        context.graph.reshape(rows, [window, heads, hidden_size / heads])
    }

    fn attention(&self, context: &mut EmitContext, x: NodeId, layer: &str) -> Result<NodeId> {
        let ConformerConfig { hidden_size, num_attention_heads: heads, attention_logit_cap, .. } = self.config;
        let head_dim = hidden_size / heads;
        let frames = context.seq.fixed().unwrap_or(0) / 4;
        let name = format!("{layer}.{}", self.names.attention);
        let mut projected = |part: &str| {
            let y = self.product(context, x, &format!("{name}.{part}_proj"), hidden_size)?;
            context.graph.reshape(y, [1, frames, heads, head_dim])
        };
        let q = projected("q")?;
        let k = projected("k")?;
        let v = projected("v")?;
        let scale = row(context, &format!("{name}.per_dim_scale"), head_dim)?;
        let scale = softplus(context, scale)?;
        let scale = context.graph.scale(scale, (head_dim as f32).powf(-0.5) / LN_2)?;
        let q = context.graph.mul(q, scale)?;
        let k = match self.config.kind {
            ConformerKind::Gemma4 { .. } => context.graph.scale(k, (1.0 + E).ln() / LN_2)?,
            ConformerKind::Gemma3n { .. } => k,
        };
        let distances = self.distances(context, &format!("{layer}.{}", self.names.distances))?;
        let mask = given(context, MASK_QUARTER)?;
        let chunk = match self.config.kind {
            ConformerKind::Gemma4 { attention_chunk_size, .. } => Some(attention_chunk_size),
            ConformerKind::Gemma3n { .. } => None,
        };
        let attention = RelativeAttention { softcap: attention_logit_cap, chunk };
        let mixed = context.graph.push(attention, &[q, k, v, distances, mask])?;
        let mixed = context.graph.reshape(mixed, [1, frames, hidden_size])?;
        self.product(context, mixed, &format!("{layer}.{}", self.names.post), hidden_size)
    }

    /// A gated product, and a convolution of each dimension over the frames before.
    fn convolution(&self, context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
        let ConformerConfig { hidden_size: width, conv_kernel_size: taps, .. } = self.config;
        let frames = context.seq.fixed().unwrap_or(0) / 4;
        let h = self.norm(context, x, &format!("{name}.pre_layer_norm"))?;
        let h = self.product(context, h, &format!("{name}.linear_start"), 2 * width)?;
        let value = context.graph.push(Slice { axis: 2, start: 0, len: width.into() }, &[h])?;
        let gate = context.graph.push(Slice { axis: 2, start: width, len: width.into() }, &[h])?;
        let gate = context.graph.push(Unary { f: UnaryFn::Sigmoid }, &[gate])?;
        let h = context.graph.mul(value, gate)?;
        let key = format!("{name}.depthwise_conv1d.weight");
        let weight = context.reshaped_weight(&key, &key, &[width, 1, taps], &[width, 1, taps, 1])?;
        let h = context.graph.reshape(h, [1, frames, 1, width])?;
        let depthwise = Conv2d { stride: 1, padding: [taps - 1, 0, 0, 0], groups: width, bias: false };
        let h = context.graph.push(depthwise, &[h, weight])?;
        let h = context.graph.reshape(h, [1, frames, width])?;
        let h = self.norm(context, h, &format!("{name}.conv_norm"))?;
        let h = silu(context, h)?;
        let h = self.product(context, h, &format!("{name}.linear_end"), width)?;
        context.graph.add(x, h)
    }

    fn layer(&self, context: &mut EmitContext, x: NodeId, layer: usize) -> Result<NodeId> {
        let Names { layers, first_feed_forward, last_feed_forward, attention_norms: [before, after], norm, .. } = self.names;
        let name = format!("{layers}.{layer}");
        let x = self.feed_forward(context, x, &format!("{name}.{first_feed_forward}"))?;
        let h = self.norm(context, x, &format!("{name}.{before}"))?;
        let h = self.attention(context, h, &name)?;
        let h = self.norm(context, h, &format!("{name}.{after}"))?;
        let x = context.graph.add(x, h)?;
        let x = self.convolution(context, x, &format!("{name}.lconv1d"))?;
        let x = self.feed_forward(context, x, &format!("{name}.{last_feed_forward}"))?;
        let x = self.norm(context, x, &format!("{name}.{norm}"))?;
        Ok(context.graph.label(x, "output"))
    }

    /// Gemma 3n: of `reduction` frames the first, and the padding token as the last row.
    fn soft_tokens_3n(&self, context: &mut EmitContext, x: NodeId, reduction: usize, vocab: usize) -> Result<NodeId> {
        let ConformerConfig { hidden_size: width, .. } = self.config;
        let frames = context.seq.fixed().unwrap_or(0) / 4;
        let x = context.graph.reshape(x, [1, frames / reduction, reduction, width])?;
        let x = context.graph.push(Slice { axis: 2, start: 0, len: 1.into() }, &[x])?;
        let x = context.graph.reshape(x, [1, frames / reduction, width])?;
        let x = context.graph.label(x, "audio.tower");
        let soft = self.norm(context, x, "embed_audio.soft_embedding_norm")?;
        const TABLE: &str = "embed_audio.embedding.weight";
        let table = context.weight(TABLE, TABLE, &[vocab, width])?;
        let table = context.graph.push(Cast, &[table])?;
        let padding = context.graph.push(Slice { axis: 0, start: vocab - 1, len: 1.into() }, &[table])?;
        let padding = context.graph.reshape(padding, [1, 1, width])?;
        let padding = self.norm(context, padding, "embed_audio.hard_embedding_norm")?;
        let rows = context.graph.push(Concat { axis: 1 }, &[soft, padding])?;
        let rows = linear(context, rows, "embed_audio.embedding_projection", self.width)?;
        unit_norm(context, rows, self.config.rms_norm_eps)
    }
}

impl BlockStage for ConformerStage {
    fn emit(&self, context: &mut EmitContext, features: NodeId) -> Result<NodeId> {
        let x = context.scoped("audio", |context| {
            let x = subsample(context, &self.config, features)?;
            linear(context, x, "audio_tower.subsample_conv_projection.input_proj_linear", self.config.hidden_size)
        })?;
        let mut x = context.graph.label(x, "audio.subsampled");
        for layer in 0..self.config.num_hidden_layers {
            x = context.scoped(&format!("audio.layer.{layer}"), |context| self.layer(context, x, layer))?;
        }
        match self.config.kind {
            ConformerKind::Gemma4 { output_proj_dims, .. } => {
                let x = biased(context, x, "audio_tower.output_proj", output_proj_dims)?;
                let x = context.graph.label(x, "audio.tower");
                let x = unit_norm(context, x, self.config.rms_norm_eps)?;
                linear(context, x, "embed_audio.embedding_projection", self.width)
            }
            ConformerKind::Gemma3n { reduction_factor, vocab_size, .. } => {
                self.soft_tokens_3n(context, x, reduction_factor, vocab_size)
            }
        }
    }
}

/// x · σ(x)
fn silu(context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
    let gate = context.graph.push(Unary { f: UnaryFn::Sigmoid }, &[x])?;
    context.graph.mul(x, gate)
}

/// ln(1 + eˣ), as max(x, 0) + ln(1 + e^−|x|), which cannot overflow.
fn softplus(context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
    let g = &mut *context.graph;
    let size = g.push(Unary { f: UnaryFn::Abs }, &[x])?;
    let small = g.push(Unary { f: UnaryFn::Neg }, &[size])?;
    let small = g.push(Unary { f: UnaryFn::Exp }, &[small])?;
    let one = g.constant(1.0)?;
    let small = g.add(small, one)?;
    let small = g.push(Unary { f: UnaryFn::Log }, &[small])?;
    let zero = g.constant(0.0)?;
    let large = g.binary(BinaryFn::Max, x, zero)?;
    g.add(large, small)
}

/// Rows of `width` numbers for the distances below `count`: sines, then cosines, of falling frequencies.
fn sines(width: usize, count: usize) -> Vec<f32> {
    let half = width / 2;
    let step = LONGEST.ln() / half.saturating_sub(1).max(1) as f64;
    let angle = move |distance: usize, index: usize| distance as f64 * (-(index as f64) * step).exp();
    let row = |distance: usize| {
        let sines = (0..half).map(move |index| angle(distance, index).sin() as f32);
        sines.chain((0..half).map(move |index| angle(distance, index).cos() as f32))
    };
    (0..count).flat_map(row).collect()
}
