//! Ids that embedders of pictures and sounds embed (Gemma 3n). Source: `Gemma3nMultimodalEmbedder` in transformers.

use super::{GemmaConfig, HardTokens, embedder_weights};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    ir::{
        BinaryFn, NodeId,
        ops::{Broadcast, Cast, Gather, Select},
    },
    weights::{EmbedderWeights, embedded},
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
            Ok(EmbedderWeights {
                table: context.take(&table, &[tokens.count, tokens.width])?,
                gain: context.take(&gain, &[tokens.width])?,
                projection: context.take(&projection, &[width, tokens.width])?,
                eps: f64::from(tokens.rms_norm_eps),
            })
        });
        let embedders = embedders.collect::<Result<Vec<_>>>()?;
        let rows = self.tokens.iter().map(|tokens| tokens.count).sum();
        context.own_weight(TABLE, embedded(TABLE, [rows, width], embedders))
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
