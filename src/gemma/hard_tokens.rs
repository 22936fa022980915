//! Ids that embedders of pictures and sounds embed (Gemma 3n). Source: `Gemma3nMultimodalEmbedder` in transformers.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::{GemmaConfig, HardTokens, embedder_weights};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    ir::{
        BinaryFn, DType, NodeId,
        ops::{Broadcast, Cast, Gather, Select},
    },
    weights::{Tensor, TensorSource},
};

/// The name of the table in the graph.
const TABLE: &str = "hard_tokens";

/// Gives the embedders' ids the embedders' rows, in place of those of the text's table: `[B, T, D]` to `[B, T, D]`.
///
/// A row is `norm(W·norm(E[id − first])·γ)`, the outer norm without a gain; it is not scaled. All rows are one table,
/// which is computed when its weights are read. A checkpoint without the embedders' weights is left as it is.
#[derive(Debug, Clone)]
pub(super) struct HardTokensStage {
    tokens: Vec<HardTokens>,
}

impl HardTokensStage {
    /// The stage; `None` for a model whose ids all are the text's.
    pub(super) fn of(config: &GemmaConfig) -> Option<Self> {
        let tokens = config.multimodal.hard_tokens.clone();
        (!tokens.is_empty()).then_some(Self { tokens })
    }

    fn table(&self, context: &mut EmitContext, width: usize) -> Result<NodeId> {
        let embedders = self.tokens.iter().map(|tokens| {
            let [table, gain, projection] = embedder_weights(tokens.embedder);
            Ok(HardRows {
                table: context.take(&table, &[tokens.count, tokens.width])?,
                gain: context.take(&gain, &[tokens.width])?,
                projection: context.take(&projection, &[width, tokens.width])?,
                eps: f64::from(tokens.rms_norm_eps),
            })
        });
        let embedders = embedders.collect::<Result<Vec<_>>>()?;
        let rows = self.tokens.iter().map(|tokens| tokens.count).sum();
        let source = HardTable { embedders, computed: OnceLock::new() };
        context.own_weight(TABLE, Tensor::new(TABLE, DType::F32, vec![rows, width], Arc::new(source), 0))
    }
}

impl BlockStage for HardTokensStage {
    fn emit(&self, context: &mut EmitContext, embed: NodeId) -> Result<NodeId> {
        let Some(first) = self.tokens.first() else { return Ok(embed) };
        let keys = self.tokens.iter().flat_map(|tokens| embedder_weights(tokens.embedder));
        if keys.into_iter().all(|key| context.weight_shape(&key).is_none()) {
            return Ok(embed);
        }
        let missing = || Error::Builder("ids of embedders need the tokens, 'input_ids'".into());
        let ids = context.find_shared("input_ids").ok_or_else(missing)?;
        let width = context.width(embed)?;
        let table = self.table(context, width)?;
        let gather = Gather { per_batch: false, or_first: true, first: first.first as usize };
        let rows = context.graph.push(gather, &[table, ids])?;
        let numbers = context.graph.push(Cast, &[ids])?;
        let first = context.graph.constant(first.first as f32)?;
        let is_text = context.graph.binary(BinaryFn::Less, numbers, first)?;
        let shape = context.shape(&[1]);
        let is_text = context.graph.reshape(is_text, shape)?;
        let shape = context.graph.shape(embed).clone();
        let is_text = context.graph.push(Broadcast { shape }, &[is_text])?;
        let merged = context.graph.push(Select, &[is_text, embed, rows])?;
        Ok(context.graph.label(merged, "token_embeds"))
    }
}

/// The rows of all embedders, computed the first time that one is read.
struct HardTable {
    embedders: Vec<HardRows>,
    computed: OnceLock<Vec<f32>>,
}

impl TensorSource for HardTable {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let values = match self.computed.get() {
            Some(values) => values,
            None => {
                let rows = self.embedders.iter().map(HardRows::compute).collect::<Result<Vec<_>>>()?.concat();
                self.computed.get_or_init(|| rows)
            }
        };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

/// The rows of one embedder.
struct HardRows {
    table: Tensor,
    gain: Tensor,
    projection: Tensor,
    eps: f64,
}

impl HardRows {
    /// All rows, each as wide as the text model.
    fn compute(&self) -> Result<Vec<f32>> {
        let gain = self.gain.to_f32()?;
        let width = gain.len().max(1);
        let table = self.table.to_f32()?;
        let mut normed: Vec<f64> = Vec::with_capacity(table.len());
        for row in table.chunks_exact(width) {
            let root = self.root(row.iter().map(|x| f64::from(*x)), width);
            normed.extend(row.iter().zip(&gain).map(|(x, gain)| f64::from(*x) / root * f64::from(*gain)));
        }
        let out = self.projection.shape()[0];
        let column = |n: usize| -> Result<Vec<f64>> {
            let mut weight = vec![0.0; width];
            self.projection.read_f32(n * width, &mut weight)?;
            let product = |row: &[f64]| row.iter().zip(&weight).map(|(x, w)| x * f64::from(*w)).sum();
            Ok(normed.chunks_exact(width).map(product).collect())
        };
        let columns = (0..out).into_par_iter().map(column).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::with_capacity(normed.len() / width * out);
        for row in 0..normed.len() / width {
            let root = self.root(columns.iter().map(|column| column[row]), out);
            rows.extend(columns.iter().map(|column| (column[row] / root) as f32));
        }
        Ok(rows)
    }

    /// The root of the mean of squares.
    fn root(&self, row: impl Iterator<Item = f64>, count: usize) -> f64 {
        (row.map(|x| x * x).sum::<f64>() / count as f64 + self.eps).sqrt()
    }
}
