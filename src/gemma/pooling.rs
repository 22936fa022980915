//! From the final hidden states of a text's tokens to one vector.

use super::{GemmaArch, GemmaConfig, WeightPosition, blocks::project};
use crate::{
    Result,
    flow::{BlockStage, EmitContext},
    ir::{
        BinaryFn, Dim, NodeId, Shape, UnaryFn,
        ops::{Broadcast, Cast, DEAD_KEY, Permute, Reduce, ReduceFn, Select, Unary},
    },
};

/// The mean over the live tokens of each sequence, projected before it or multiplied after it where the model does so
/// (docs/gemma.md, Text embeddings): `[B, T, D]` to `[B, W]`.
///
/// A token is live where it is at a position: padding of a batch, on either side, and of a graph compiled for longer
/// texts counts nothing.
#[derive(Debug, Clone)]
pub struct PoolingStage {
    arch: GemmaArch,
    /// Width of the projection of each token.
    projected: Option<usize>,
    /// Widths of the products after the mean.
    dense: Vec<usize>,
}

impl PoolingStage {
    /// The way of a model.
    pub fn of(config: &GemmaConfig) -> Self {
        Self { arch: config.arch, projected: config.embedding_dim, dense: config.embedding_dense.clone() }
    }
}

impl BlockStage for PoolingStage {
    fn emit(&self, context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
        let x = match self.projected {
            Some(width) => project(context, x, self.arch, WeightPosition::EmbeddingProjection, width)?,
            None => x,
        };
        let mut vector = mean(context, x)?;
        for (j, width) in self.dense.iter().enumerate() {
            vector = project(context, vector, self.arch, WeightPosition::EmbeddingDense(j), *width)?;
        }
        let shape = Shape(vec![context.batch.into(), context.width(vector)?.into()]);
        context.graph.reshape(vector, shape)
    }
}

/// The mean of the live tokens, `[B, T, D]` to `[B, 1, D]`; zeros for a sequence without one.
fn mean(context: &mut EmitContext, x: NodeId) -> Result<NodeId> {
    let batch = Dim::from(context.batch);
    let tokens = context.seq;
    let width = Dim::from(context.width(x)?);
    let positions = context.query_positions()?;
    let g = &mut *context.graph;
    let positions = g.push(Cast, &[positions])?;
    let dead = g.constant(DEAD_KEY as f32)?;
    let live = g.binary(BinaryFn::Less, positions, dead)?;
    let count = g.push(Reduce { f: ReduceFn::Sum }, &[live])?;

    // Rows of padding may hold anything, so that they are left out and not multiplied by zero.
    let shape = g.shape(x).clone();
    let by_token = g.reshape(live, Shape(vec![batch, tokens, 1.into()]))?;
    let by_token = g.push(Broadcast { shape: shape.clone() }, &[by_token])?;
    let zero = g.constant(0.0)?;
    let zero = g.push(Broadcast { shape }, &[zero])?;
    let kept = g.push(Select, &[by_token, x, zero])?;
    let kept = g.push(Permute { order: vec![0, 2, 1] }, &[kept])?;
    let sum = g.push(Reduce { f: ReduceFn::Sum }, &[kept])?;

    let one = g.constant(1.0)?;
    let count = g.binary(BinaryFn::Max, count, one)?;
    let share = g.push(Unary { f: UnaryFn::Recip }, &[count])?;
    let share = g.reshape(share, Shape(vec![batch, 1.into(), 1.into()]))?;
    let mean = g.mul(sum, share)?;
    let mean = g.reshape(mean, Shape(vec![batch, 1.into(), width]))?;
    Ok(g.label(mean, "mean"))
}
