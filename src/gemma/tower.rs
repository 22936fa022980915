//! The parts that towers for pictures and sounds are of.
//!
//! Weights go by Hugging Face's names without the prefix of the checkpoint, in the graph as in the loader.

use crate::{
    Result,
    flow::EmitContext,
    ir::{
        BinaryFn, NodeId,
        ops::{Cast, Gain, RmsNorm},
    },
};

/// The output of a tower's graph: soft tokens `[1, N, D]`, D of the text model.
pub(crate) const SOFT_TOKENS: &str = "soft_tokens";

/// `W · x` with the weight `{name}.weight`, `[out, last dimension of x]`.
pub(super) fn linear(context: &mut EmitContext, x: NodeId, name: &str, out: usize) -> Result<NodeId> {
    let key = format!("{name}.weight");
    context.project(x, &key, &key, out)
}

/// `W · x + b` with the weights `{name}.weight` and `{name}.bias`.
pub(super) fn biased(context: &mut EmitContext, x: NodeId, name: &str, out: usize) -> Result<NodeId> {
    let y = linear(context, x, name, out)?;
    let bias = row(context, &format!("{name}.bias"), out)?;
    context.graph.add(y, bias)
}

/// `clamp(W · clamp(x))` with the weight `{name}.linear.weight` and the four bounds beside it, where `has_bounds`.
pub(super) fn clipped(context: &mut EmitContext, x: NodeId, name: &str, out: usize, has_bounds: bool) -> Result<NodeId> {
    if !has_bounds {
        return linear(context, x, &format!("{name}.linear"), out);
    }
    let x = clamp(context, x, &format!("{name}.input"))?;
    let y = linear(context, x, &format!("{name}.linear"), out)?;
    clamp(context, y, &format!("{name}.output"))
}

/// `x` between the numbers `{name}_min` and `{name}_max`.
fn clamp(context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
    let mut bound = |end: &str| {
        let key = format!("{name}_{end}");
        context.scalar_weight(&key, &key)
    };
    let least = bound("min")?;
    let most = bound("max")?;
    let x = context.graph.binary(BinaryFn::Max, x, least)?;
    context.graph.binary(BinaryFn::Min, x, most)
}

/// A weight `[width]`, widened.
pub(super) fn row(context: &mut EmitContext, key: &str, width: usize) -> Result<NodeId> {
    let weight = context.weight(key, key, &[width])?;
    context.graph.push(Cast, &[weight])
}

/// RMSNorm with the weight `{name}.weight`.
pub(super) fn rms_norm(context: &mut EmitContext, x: NodeId, name: &str, eps: f32, gain: Gain) -> Result<NodeId> {
    let width = context.width(x)?;
    let key = format!("{name}.weight");
    let weight = context.weight(&key, &key, &[width])?;
    context.graph.rms_norm(x, weight, eps, gain)
}

/// RMSNorm without a weight.
pub(super) fn unit_norm(context: &mut EmitContext, x: NodeId, eps: f32) -> Result<NodeId> {
    context.graph.push(RmsNorm { eps, gain: Gain::None }, &[x])
}
