//! The three kinds of blocks.

use super::{
    attend,
    parts::{conv, dims, has, norm},
};
use crate::{Error, Result, flow::EmitContext, gemma::vision::row, ir::NodeId};

/// An edge residual (timm: `EdgeResidual`): a convolution to more channels, and a product back.
pub(super) fn edge_residual(context: &mut EmitContext, x: NodeId, name: &str, stride: usize) -> Result<NodeId> {
    let y = conv(context, x, &format!("{name}.conv_exp"), stride)?;
    let y = norm(context, y, &format!("{name}.bn1"))?;
    let y = context.graph.gelu(y)?;
    let y = conv(context, y, &format!("{name}.conv_pwl"), 1)?;
    norm(context, y, &format!("{name}.bn2"))
}

/// A universal inverted bottleneck (timm: `UniversalInvertedResidual`): products to more channels and back, with
/// convolutions of each channel before them, between them, or neither.
pub(super) fn bottleneck(context: &mut EmitContext, x: NodeId, name: &str, stride: usize) -> Result<NodeId> {
    let part = |context: &mut EmitContext, x: NodeId, part: &str, stride: usize| {
        let y = conv(context, x, &format!("{name}.{part}.conv"), stride)?;
        norm(context, y, &format!("{name}.{part}.bn"))
    };
    let has_start = has(context, &format!("{name}.dw_start.conv"));
    let has_middle = has(context, &format!("{name}.dw_mid.conv"));
    // The picture is halved as late as it can be.
    let mut y = x;
    if has_start {
        y = part(context, y, "dw_start", if has_middle { 1 } else { stride })?;
    }
    y = part(context, y, "pw_exp", 1)?;
    y = context.graph.gelu(y)?;
    if has_middle {
        y = part(context, y, "dw_mid", stride)?;
        y = context.graph.gelu(y)?;
    }
    y = part(context, y, "pw_proj", 1)?;
    scaled(context, y, name)
}

/// Attention with one key and value head for all queries (timm: `MobileAttention`).
pub(super) fn attention(context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
    let x = norm(context, x, &format!("{name}.norm"))?;
    let q = conv(context, x, &format!("{name}.attn.query.proj"), 1)?;
    let k = key_or_value(context, x, &format!("{name}.attn.key"))?;
    let v = key_or_value(context, x, &format!("{name}.attn.value"))?;
    let [_, rows, columns, width] = dims(context, q)?;
    let head_dim = context.width(k)?;
    if !width.is_multiple_of(head_dim) {
        return Err(Error::Unsupported(format!("'{name}' with queries of {width} numbers and a key of {head_dim}")));
    }
    let q = context.graph.reshape(q, [1, rows * columns, width / head_dim, head_dim])?;
    let mixed = attend(context, [q, k, v], (head_dim as f32).powf(-0.5))?;
    let mixed = context.graph.reshape(mixed, [1, rows, columns, width])?;
    let y = conv(context, mixed, &format!("{name}.attn.output.proj"), 1)?;
    scaled(context, y, name)
}

/// The keys or values `[1, places, 1, H]`, of a smaller picture where the block has a convolution to it.
fn key_or_value(context: &mut EmitContext, x: NodeId, name: &str) -> Result<NodeId> {
    let mut y = x;
    if has(context, &format!("{name}.down_conv")) {
        y = conv(context, y, &format!("{name}.down_conv"), 2)?;
        y = norm(context, y, &format!("{name}.norm"))?;
    }
    y = conv(context, y, &format!("{name}.proj"), 1)?;
    let [_, rows, columns, width] = dims(context, y)?;
    context.graph.reshape(y, [1, rows * columns, 1, width])
}

/// Times the block's own factors, where it has some.
fn scaled(context: &mut EmitContext, y: NodeId, name: &str) -> Result<NodeId> {
    let key = format!("{name}.layer_scale.gamma");
    if context.weight_shape(&key).is_none() {
        return Ok(y);
    }
    let width = context.width(y)?;
    let gamma = row(context, &key, width)?;
    context.graph.mul(y, gamma)
}
