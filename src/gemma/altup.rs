//! AltUp and LAuReL, the layers of Gemma 3n. A residual stream of N streams, `[B, T, N, D]` between layers: a layer
//! predicts all of them, computes one, and corrects the others by what came of it.
//!
//! AltUp: alternating updates, Baykal et al. 2023, arXiv 2301.13310. LAuReL: learned augmented residual layer, Menghani
//! et al. 2024, arXiv 2411.07501; the low-rank form. See docs/gemma.md, Gemma 3n.

use std::sync::Arc;

use super::{
    AltUp, FactorStage, GeGluStage, GemmaArch, GemmaConfig, GemmaRmsNormStage, LayerWeight, PleGateStage, SelfAttentionStage,
    WeightPosition, blocks::project,
};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    ir::{
        BinaryFn, NodeId, UnaryFn,
        ops::{Broadcast, Concat, MatMul, Slice, Unary},
    },
};

/// The least mean square that a stream is scaled from.
const LEAST_SQUARE: f32 = 1e-5;

/// The axis of the streams.
const STREAMS: usize = 2;

/// Makes the streams of the embedding: `[B, T, D]` to `[B, T, N, D]`. The first is the embedding, the others are
/// projections of it, each as large as the embedding is.
#[derive(Debug, Clone)]
pub struct AltUpSplitStage {
    arch: GemmaArch,
    altup: AltUp,
}

impl AltUpSplitStage {
    /// The streams of `config`; `None` for a model without AltUp.
    pub fn of(config: &GemmaConfig) -> Option<Self> {
        config.altup.map(|altup| Self { arch: config.arch, altup })
    }
}

impl BlockStage for AltUpSplitStage {
    fn emit(&self, context: &mut EmitContext, embed: NodeId) -> Result<NodeId> {
        let width = context.width(embed)?;
        let first = one_stream(context, embed, width)?;
        let mut streams = first;
        for j in 0..self.altup.num_inputs - 1 {
            let own = project(context, embed, self.arch, WeightPosition::AltUpProjection(j), width)?;
            let own = one_stream(context, own, width)?;
            let own = as_large_as(context, own, first)?;
            streams = context.graph.push(Concat { axis: STREAMS }, &[streams, own])?;
        }
        Ok(context.graph.label(streams, "streams"))
    }
}

/// Makes one stream of all, `[B, T, N, D]` to `[B, T, D]`: the mean of the first and of projections of the others, each
/// as large as the first is.
#[derive(Debug, Clone)]
pub struct AltUpMergeStage {
    arch: GemmaArch,
    altup: AltUp,
}

impl AltUpMergeStage {
    /// The streams of `config`; `None` for a model without AltUp.
    pub fn of(config: &GemmaConfig) -> Option<Self> {
        config.altup.map(|altup| Self { arch: config.arch, altup })
    }
}

impl BlockStage for AltUpMergeStage {
    fn emit(&self, context: &mut EmitContext, streams: NodeId) -> Result<NodeId> {
        let width = context.width(streams)?;
        let count = self.altup.num_inputs;
        let first = stream(context, streams, 0, width)?;
        let mut sum = first;
        for j in 0..count - 1 {
            let own = stream(context, streams, j + 1, width)?;
            let own = project(context, own, self.arch, WeightPosition::AltUpUnembed(j), width)?;
            let own = as_large_as(context, own, first)?;
            sum = context.graph.add(sum, own)?;
        }
        let mean = context.graph.scale(sum, 1.0 / count as f32)?;
        Ok(context.graph.label(mean, "streams"))
    }
}

/// A layer of Gemma 3n, `[B, T, N, D]` to `[B, T, N, D]`: prediction, attention with LAuReL beside it, FFW, correction,
/// and the layer's PLE for all streams but the first.
#[derive(Debug, Clone)]
pub struct AltUpLayerStage {
    config: Arc<GemmaConfig>,
    altup: AltUp,
    layer: usize,
    attention: SelfAttentionStage,
    ffw: GeGluStage,
}

impl AltUpLayerStage {
    /// A layer around this attention and this FFW.
    pub fn new(config: &GemmaConfig, altup: AltUp, layer: usize, attention: SelfAttentionStage, ffw: GeGluStage) -> Self {
        Self { config: Arc::new(config.clone()), altup, layer, attention, ffw }
    }

    fn at(&self, weight: LayerWeight) -> WeightPosition {
        WeightPosition::Layer(self.layer, weight)
    }

    fn project(&self, context: &mut EmitContext, x: NodeId, weight: LayerWeight, out: usize) -> Result<NodeId> {
        project(context, x, self.config.arch, self.at(weight), out)
    }

    fn norm(&self, context: &mut EmitContext, x: NodeId, weight: LayerWeight) -> Result<NodeId> {
        GemmaRmsNormStage::hf_layer(&self.config, self.layer, weight).emit(context, x)
    }

    /// One number for each stream, from −1 to 1: `tanh(router · norm(x) / D)`.
    fn routed(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let width = context.width(x)?;
        let normed = self.norm(context, x, LayerWeight::AltUpRouterNorm)?;
        let scaled = context.graph.scale(normed, 1.0 / width as f32)?;
        let routed = self.project(context, scaled, LayerWeight::AltUpRouter, self.altup.num_inputs)?;
        context.graph.push(Unary { f: UnaryFn::Tanh }, &[routed])
    }

    /// Each stream and a mixture of all that the active one chooses.
    fn predicted(&self, context: &mut EmitContext, streams: NodeId) -> Result<NodeId> {
        let width = context.width(streams)?;
        let count = self.altup.num_inputs;
        let active = stream(context, streams, self.altup.active_idx, width)?;
        let routed = self.routed(context, active)?;
        let mixture = self.project(context, routed, LayerWeight::AltUpPredict, count * count)?;
        let shape = context.shape(&[count, count]);
        let mixture = context.graph.reshape(mixture, shape)?;
        let mixed = context.graph.push(MatMul, &[mixture, streams])?;
        let predicted = context.graph.add(streams, mixed)?;
        Ok(context.graph.label(predicted, "predicted"))
    }

    /// LAuReL: `h + norm(up · down · h)`.
    fn laurel(&self, context: &mut EmitContext, h: NodeId) -> Result<NodeId> {
        let missing = || Error::Config(format!("layer {} has AltUp and no laurel_rank", self.layer));
        let rank = self.config.laurel_rank.ok_or_else(missing)?;
        let width = context.width(h)?;
        let low = self.project(context, h, LayerWeight::LaurelDown, rank)?;
        let low = self.project(context, low, LayerWeight::LaurelUp, width)?;
        let low = self.norm(context, low, LayerWeight::PostLaurelNorm)?;
        context.graph.add(h, low)
    }

    /// Attention and LAuReL, then the FFW, around the predicted active stream.
    fn computed(&self, context: &mut EmitContext, active: NodeId) -> Result<NodeId> {
        let h = self.norm(context, active, LayerWeight::PreAttentionNorm)?;
        let laurel = self.laurel(context, h)?;
        let attended = self.attention.emit(context, h)?;
        let attended = self.norm(context, attended, LayerWeight::PostAttentionNorm)?;
        let attended = context.graph.add(active, attended)?;
        let both = context.graph.add(attended, laurel)?;
        let z = context.graph.scale(both, std::f32::consts::FRAC_1_SQRT_2)?;
        let m = self.norm(context, z, LayerWeight::PreFfwNorm)?;
        let m = self.ffw.emit(context, m)?;
        let m = self.norm(context, m, LayerWeight::PostFfwNorm)?;
        context.graph.add(z, m)
    }

    /// Each predicted stream and its share of how far the computed one is from its prediction.
    fn corrected(&self, context: &mut EmitContext, predicted: NodeId, active: NodeId, computed: NodeId) -> Result<NodeId> {
        let width = context.width(computed)?;
        let count = self.altup.num_inputs;
        let routed = self.routed(context, computed)?;
        let shares = self.project(context, routed, LayerWeight::AltUpCorrect, count)?;
        let one = context.graph.constant(1.0)?;
        let shares = context.graph.add(shares, one)?;
        let by_stream = context.shape(&[count, 1]);
        let whole = context.shape(&[count, width]);
        let shares = context.graph.reshape(shares, by_stream)?;
        let shares = context.graph.push(Broadcast { shape: whole.clone() }, &[shares])?;
        let news = context.graph.binary(BinaryFn::Sub, computed, active)?;
        let news = one_stream(context, news, width)?;
        let news = context.graph.push(Broadcast { shape: whole }, &[news])?;
        let news = context.graph.mul(shares, news)?;
        let corrected = context.graph.add(predicted, news)?;
        Ok(context.graph.label(corrected, "corrected"))
    }

    /// The layer's per-layer embedding of each token, gated by the active stream.
    fn per_layer_input(&self, context: &mut EmitContext, corrected: NodeId) -> Result<NodeId> {
        let width = context.width(corrected)?;
        let mut active = stream(context, corrected, self.altup.active_idx, width)?;
        if let Some(scale) = FactorStage::of(&self.config, self.layer, LayerWeight::AltUpScale) {
            active = scale.emit(context, active)?;
        }
        let missing = || Error::Config(format!("layer {} has AltUp and no per-layer embeddings", self.layer));
        let gate = PleGateStage::of(&self.config, self.layer).ok_or_else(missing)?;
        let own = gate.emit(context, active)?;
        self.norm(context, own, LayerWeight::PostPleNorm)
    }
}

impl BlockStage for AltUpLayerStage {
    fn emit(&self, context: &mut EmitContext, streams: NodeId) -> Result<NodeId> {
        let width = context.width(streams)?;
        let count = self.altup.num_inputs;
        let predicted = self.predicted(context, streams)?;
        let active = stream(context, predicted, self.altup.active_idx, width)?;
        let computed = self.computed(context, active)?;
        let corrected = self.corrected(context, predicted, active, computed)?;
        let own = self.per_layer_input(context, corrected)?;
        let first = context.graph.push(Slice { axis: STREAMS, start: 0, len: 1.into() }, &[corrected])?;
        let others = context.graph.push(Slice { axis: STREAMS, start: 1, len: (count - 1).into() }, &[corrected])?;
        let own = one_stream(context, own, width)?;
        let others = context.graph.add(others, own)?;
        let streams = context.graph.push(Concat { axis: STREAMS }, &[first, others])?;
        Ok(context.graph.label(streams, "output"))
    }
}

/// `[B, T, D]` as `[B, T, 1, D]`.
fn one_stream(context: &mut EmitContext, x: NodeId, width: usize) -> Result<NodeId> {
    let shape = context.shape(&[1, width]);
    context.graph.reshape(x, shape)
}

/// Stream `index`, `[B, T, D]`.
fn stream(context: &mut EmitContext, streams: NodeId, index: usize, width: usize) -> Result<NodeId> {
    let one = context.graph.push(Slice { axis: STREAMS, start: index, len: 1.into() }, &[streams])?;
    let shape = context.shape(&[width]);
    context.graph.reshape(one, shape)
}

/// `x` times what makes its mean square that of `other`, both over the innermost dimension.
fn as_large_as(context: &mut EmitContext, x: NodeId, other: NodeId) -> Result<NodeId> {
    let mut mean_square = |x: NodeId| -> Result<NodeId> {
        let squares = context.graph.mul(x, x)?;
        context.graph.mean(squares)
    };
    let own = mean_square(x)?;
    let wanted = mean_square(other)?;
    let least = context.graph.constant(LEAST_SQUARE)?;
    let own = context.graph.binary(BinaryFn::Max, own, least)?;
    let own = context.graph.push(Unary { f: UnaryFn::Sqrt }, &[own])?;
    let wanted = context.graph.push(Unary { f: UnaryFn::Sqrt }, &[wanted])?;
    let factor = context.graph.binary(BinaryFn::Div, wanted, own)?;
    context.graph.mul(x, factor)
}
