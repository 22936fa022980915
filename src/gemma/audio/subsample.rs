//! The two convolutions before a Conformer's layers, each of which keeps every second frame and mel bin.

use super::{MASK_HALF, SHARE_HALF, SHARE_QUARTER};
use crate::{
    Error, Result,
    flow::EmitContext,
    gemma::{ConformerConfig, ConformerKind, tower::row},
    ir::{
        BinaryFn, NodeId, UnaryFn,
        ops::{Broadcast, Concat, Conv2d, LayerNorm, Reduce, ReduceFn, Slice, Unary},
    },
};

pub(crate) const PREFIX: &str = "audio_tower.subsample_conv_projection";

/// Features `[1, T, F]` to rows `[1, T/4, F/4 · C]` of two convolutions with their norms.
pub(super) fn subsample(context: &mut EmitContext, config: &ConformerConfig, features: NodeId) -> Result<NodeId> {
    let frames = context.seq.fixed().unwrap_or(0);
    let bins = config.input_feat_size;
    let [_, channels] = config.conv_channels;
    let x = context.graph.reshape(features, [1, frames, bins, 1])?;
    let x = layer(context, config, x, 0)?;
    // The second convolution sees zeros behind the clip, as it does behind the last frame.
    let mask = given(context, MASK_HALF)?;
    let mask = context.graph.reshape(mask, [1, frames / 2, 1, 1])?;
    let x = context.graph.mul(x, mask)?;
    let x = layer(context, config, x, 1)?;
    context.graph.reshape(x, [1, frames / 4, bins / 4 * channels])
}

/// The input `name` of the graph.
pub(super) fn given(context: &EmitContext, name: &str) -> Result<NodeId> {
    context.find_shared(name).ok_or_else(|| Error::Builder(format!("the audio tower needs the input '{name}'")))
}

fn layer(context: &mut EmitContext, config: &ConformerConfig, x: NodeId, index: usize) -> Result<NodeId> {
    let channels = config.conv_channels[index];
    let taken = context.width(x)?;
    let name = convolution(config.kind, index);
    let padding = match config.kind {
        ConformerKind::Gemma4 { .. } => [1, 1, 1, 1],
        // In time behind the last frame alone.
        ConformerKind::Gemma3n { .. } => [0, 2, 1, 1],
    };
    let key = format!("{name}.conv.weight");
    let weight = context.weight(&key, &key, &[channels, taken, 3, 3])?;
    let x = context.graph.push(Conv2d { stride: 2, padding, groups: 1, bias: false }, &[x, weight])?;
    let x = match config.kind {
        ConformerKind::Gemma4 { .. } => {
            let key = format!("{name}.norm.weight");
            let gain = context.weight(&key, &key, &[channels])?;
            context.graph.push(LayerNorm { eps: config.rms_norm_eps, bias: false }, &[x, gain])?
        }
        ConformerKind::Gemma3n { group_norm_eps, .. } => {
            let share = given(context, [SHARE_HALF, SHARE_QUARTER][index])?;
            let x = cumulative_norm(context, x, share, group_norm_eps)?;
            let gain = row(context, &format!("{name}.norm.weight"), channels)?;
            context.graph.mul(x, gain)?
        }
    };
    let zero = context.graph.constant(0.0)?;
    context.graph.binary(BinaryFn::Max, x, zero)
}

/// The name of a convolution and its norm.
pub(crate) fn convolution(kind: ConformerKind, index: usize) -> String {
    match kind {
        ConformerKind::Gemma4 { .. } => format!("{PREFIX}.layer{index}"),
        ConformerKind::Gemma3n { .. } => format!("{PREFIX}.conv_{index}"),
    }
}

/// Each frame of `[1, T, F, C]` less the mean of all numbers up to it, over the root of their variance, where each frame
/// is held against its own mean (`Gemma3nAudioCumulativeGroupNorm`). `share` `[1, T, 1]` is one over their number.
fn cumulative_norm(context: &mut EmitContext, x: NodeId, share: NodeId, eps: f32) -> Result<NodeId> {
    let shape = context.graph.shape(x).clone();
    let sizes: Vec<usize> = shape.0.iter().filter_map(|dim| dim.fixed()).collect();
    let [_, frames, bins, channels] = sizes[..] else {
        return Err(Error::Builder(format!("a cumulative norm takes [1, T, F, C] of numbers, found {shape}")));
    };
    let flat = context.graph.reshape(x, [1, frames, bins * channels])?;
    let mean_so_far = |context: &mut EmitContext, x: NodeId| -> Result<NodeId> {
        let sum = context.graph.push(Reduce { f: ReduceFn::Sum }, &[x])?;
        let sum = cumulative_sum(context, sum, frames)?;
        context.graph.mul(sum, share)
    };
    let mean = mean_so_far(context, flat)?;
    let centred = context.graph.binary(BinaryFn::Sub, flat, mean)?;
    let squares = context.graph.mul(centred, centred)?;
    let variance = mean_so_far(context, squares)?;
    let eps = context.graph.constant(eps)?;
    let variance = context.graph.add(variance, eps)?;
    let deviation = context.graph.push(Unary { f: UnaryFn::Sqrt }, &[variance])?;
    let y = context.graph.binary(BinaryFn::Div, centred, deviation)?;
    context.graph.reshape(y, shape)
}

/// The sum of each of `[1, T, 1]` and all before it, by doubling: an f32 sum's error grows with the logarithm of T.
fn cumulative_sum(context: &mut EmitContext, x: NodeId, frames: usize) -> Result<NodeId> {
    let mut sum = x;
    let mut step = 1;
    while step < frames {
        let zero = context.graph.constant(0.0)?;
        let zeros = context.graph.push(Broadcast { shape: [1, step, 1].into() }, &[zero])?;
        let earlier = context.graph.push(Slice { axis: 1, start: 0, len: (frames - step).into() }, &[sum])?;
        let earlier = context.graph.push(Concat { axis: 1 }, &[zeros, earlier])?;
        sum = context.graph.add(sum, earlier)?;
        step *= 2;
    }
    Ok(sum)
}
