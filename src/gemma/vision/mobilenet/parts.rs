//! Convolutions, norms and the order of a block.

use super::{TOWER, blocks};
use crate::{
    Error, Result,
    error::WeightError,
    flow::EmitContext,
    gemma::vision::{rms_norm, row},
    ir::{
        NodeId,
        ops::{Conv2d, Gain},
    },
};

/// Added under the root of the tower's norms.
const EPS: f32 = 1e-6;

/// A block of the tower.
pub(super) struct Block {
    /// The beginning of its weights' names.
    pub(super) name: String,
    /// 2 where it halves the picture, else 1.
    pub(super) stride: usize,
}

impl Block {
    /// The block's result; its kind is told by the weights that it has.
    pub(super) fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let Self { name, stride } = self;
        let y = if has(context, &format!("{name}.conv_exp")) {
            blocks::edge_residual(context, x, name, *stride)?
        } else if has(context, &format!("{name}.attn.query.proj")) {
            blocks::attention(context, x, name)?
        } else {
            blocks::bottleneck(context, x, name, *stride)?
        };
        let same = *stride == 1 && context.graph.shape(x) == context.graph.shape(y);
        let y = if same { context.graph.add(x, y)? } else { y };
        Ok(context.graph.label(y, "output"))
    }
}

/// The first convolution, with its norm and activation.
pub(super) fn stem(context: &mut EmitContext, picture: NodeId) -> Result<NodeId> {
    let x = conv(context, picture, &format!("{TOWER}.conv_stem.conv"), 2)?;
    let x = norm(context, x, &format!("{TOWER}.conv_stem.bn"))?;
    context.graph.gelu(x)
}

/// True if the checkpoint has the weight `{name}.weight`.
pub(super) fn has(context: &EmitContext, name: &str) -> bool {
    context.weight_shape(&format!("{name}.weight")).is_some()
}

/// The sizes of a value, which has four.
pub(super) fn dims(context: &EmitContext, x: NodeId) -> Result<[usize; 4]> {
    let sizes = context.graph.shape(x).fixed().and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| Error::Builder(format!("{} is no picture [1, rows, columns, channels]", context.graph.ty(x))))
}

/// RMSNorm over the channels of each place.
pub(super) fn norm(context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
    rms_norm(context, x, name, EPS, Gain::Plain)
}

/// A convolution with as many zeros around the picture as give ⌈size/stride⌉ places. The weight's shape tells its kernel,
/// and if every channel has one of its own. One of a single place is a product.
pub(super) fn conv(context: &mut EmitContext, x: NodeId, name: &str, stride: usize) -> Result<NodeId> {
    let key = format!("{name}.weight");
    let missing = || Error::Weight(WeightError::Missing { name: key.clone(), nearest: None });
    let stored = context.weight_shape(&key).ok_or_else(missing)?;
    let [out, depth, rows, columns] = stored[..] else { return Err(misshapen(&key, &stored)) };
    let [_, height, width, channels] = dims(context, x)?;
    if [rows, columns, stride] == [1, 1, 1] {
        let weight = context.flattened_weight(&key, &key, &[out, channels, 1, 1])?;
        return context.graph.linear(x, weight);
    }
    let depthwise = depth == 1 && channels > 1;
    let shape = [out, if depthwise { 1 } else { channels }, rows, columns];
    let weight = context.weight(&key, &key, &shape)?;
    let [top, bottom] = zeros(height, rows, stride);
    let [left, right] = zeros(width, columns, stride);
    let groups = if depthwise { channels } else { 1 };
    let op = Conv2d { stride, padding: [top, bottom, left, right], groups, bias: false };
    let y = context.graph.push(op, &[x, weight])?;
    let bias = format!("{name}.bias");
    if context.weight_shape(&bias).is_none() {
        return Ok(y);
    }
    let bias = row(context, &bias, out)?;
    context.graph.add(y, bias)
}

fn misshapen(key: &str, found: &[usize]) -> Error {
    Error::Unsupported(format!("'{key}' of shape {found:?}, expected [out, in, rows, columns],"))
}

/// Zeros before and behind a side of `size` (TensorFlow's SAME): the odd one is behind.
pub(super) fn zeros(size: usize, kernel: usize, stride: usize) -> [usize; 2] {
    let total = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
    [total / 2, total - total / 2]
}

#[cfg(test)]
mod tests;
