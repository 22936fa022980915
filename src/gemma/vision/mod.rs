//! Towers that make soft tokens of pictures, as flows of stages like the text model.

mod gemma4;
mod mobilenet;
mod siglip;
mod unified;

pub use gemma4::Gemma4VisionStage;
pub use mobilenet::MobileNetStage;
pub use siglip::SiglipStage;
pub use unified::UnifiedVisionStage;

use super::{
    Embedder, Gemma4VisionConfig, GemmaConfig, UnifiedVisionConfig, VisionConfig,
    tower::{SOFT_TOKENS, biased, clipped, linear, rms_norm, row, unit_norm},
};
use crate::{
    Error, Result,
    flow::{EmitContext, ModelFlow},
    ir::{
        Compute, DType, NodeId, Shape,
        ops::{Attention, Gain, Permute, Slice},
    },
};

/// The inputs of Gemma 4's tower with rotary rows.
pub(crate) const ROPE_COLUMNS: &str = "rope_columns";
pub(crate) const ROPE_ROWS: &str = "rope_rows";

/// The grid of a picture, as a tower's graph takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PatchGrid {
    /// Side of a patch, in pixels.
    pub(crate) patch: usize,
    /// Side of the square of patches that one soft token is of.
    pub(crate) pooled: usize,
    /// Most patches.
    pub(crate) most: usize,
}

impl VisionConfig {
    /// The patches of a picture with at most `soft_tokens` soft tokens.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tower that is not computed.
    pub(crate) fn grid(&self, soft_tokens: usize) -> Result<PatchGrid> {
        match self {
            VisionConfig::Siglip(config) => {
                let grid = config.image_size / config.patch_size;
                let pooled = grid / config.mm_tokens_per_image.isqrt();
                Ok(PatchGrid { patch: config.patch_size, pooled, most: grid * grid })
            }
            VisionConfig::Gemma4(Gemma4VisionConfig { patch_size, pooling_kernel_size, .. }) => {
                let most = soft_tokens * pooling_kernel_size * pooling_kernel_size;
                Ok(PatchGrid { patch: *patch_size, pooled: *pooling_kernel_size, most })
            }
            VisionConfig::Unified(UnifiedVisionConfig { patch_size, pooling_kernel_size, .. }) => {
                Ok(PatchGrid { patch: patch_size * pooling_kernel_size, pooled: 1, most: soft_tokens })
            }
            VisionConfig::MobileNet(config) => Ok(PatchGrid { patch: config.image_size, pooled: 1, most: 1 }),
            VisionConfig::Unsupported(why) => Err(Error::Unsupported(format!("this model's vision tower ({why})"))),
        }
    }

    /// The tower for pictures of at most `soft_tokens` soft tokens.
    ///
    /// Inputs: `patches` `[1, P, 3·p²]` f32, P of [`grid`](Self::grid). But in SigLIP `columns` and `rows` `[1, P]` u32,
    /// the rows of the position table that a patch takes ([`place`](Self::place)), and `attention_mask` `[1, P]` f32, 1
    /// for patches and 0 for padding behind them. In Gemma 4's tower `rope_columns` and `rope_rows` `[1, P, H/2]` f32.
    /// Patches of one soft token are neighbours, and padding is of whole soft tokens, whose rows mean nothing. Of
    /// MobileNet the one patch is the picture.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tower that is not computed.
    pub(crate) fn flow(&self, text: &GemmaConfig, soft_tokens: usize) -> Result<ModelFlow> {
        let PatchGrid { patch, most, .. } = self.grid(soft_tokens)?;
        // Most tokens that see each other.
        let places = match self {
            VisionConfig::MobileNet(config) => config.grid() * config.grid(),
            _ => most,
        };
        let flow = ModelFlow::new("vision", 1, places).input("patches", DType::F32, [1, most, 3 * patch * patch]);
        let placed = |flow: ModelFlow| {
            let flow = flow.input("columns", DType::U32, [1, most]).input("rows", DType::U32, [1, most]);
            flow.bind_attention_mask()
        };
        let width = text.hidden_size;
        let flow = match self {
            VisionConfig::Siglip(config) => flow.stage(SiglipStage::new(*config, width)),
            VisionConfig::Gemma4(config) => {
                let table = [1, most, config.head_dim / 2];
                let flow = placed(flow).input(ROPE_COLUMNS, DType::F32, table).input(ROPE_ROWS, DType::F32, table);
                flow.stage(Gemma4VisionStage::new(*config, width))
            }
            VisionConfig::Unified(config) => placed(flow).stage(UnifiedVisionStage::new(*config, width)),
            VisionConfig::MobileNet(config) => flow.stage(MobileNetStage::new(*config, width)),
            VisionConfig::Unsupported(_) => flow,
        };
        Ok(flow.output(SOFT_TOKENS))
    }

    /// The rows of the position table, which is one matrix, of the patch in `column` and `row`.
    pub(crate) fn place(&self, column: usize, row: usize) -> [u32; 2] {
        match self {
            VisionConfig::Gemma4(config) => [column as u32, (config.position_embedding_size + row) as u32],
            _ => [2 * column as u32, 2 * row as u32 + 1],
        }
    }

    /// The numbers that its products may be computed with. Those of Gemma 4 may exceed what f16 holds.
    pub(crate) fn compute(&self) -> Compute {
        match self {
            VisionConfig::Siglip(_) | VisionConfig::MobileNet(_) => Compute::Auto,
            VisionConfig::Gemma4(_) | VisionConfig::Unified(_) | VisionConfig::Unsupported(_) => Compute::F32,
        }
    }

    /// Columns and rows that have a position; any number where the position is that in the whole.
    pub(crate) fn places(&self) -> usize {
        match self {
            VisionConfig::Gemma4(config) => config.position_embedding_size,
            VisionConfig::Unified(config) => config.mm_posemb_size,
            VisionConfig::Siglip(_) | VisionConfig::MobileNet(_) | VisionConfig::Unsupported(_) => usize::MAX,
        }
    }
}

/// LayerNorm with the weights `{name}.weight` and `{name}.bias`.
fn layer_norm(context: &mut EmitContext, x: NodeId, name: &str, eps: f32) -> Result<NodeId> {
    let width = context.width(x)?;
    let part = |context: &mut EmitContext, part: &str| {
        let key = format!("{name}.{part}");
        context.weight(&key, &key, &[width])
    };
    let gain = part(context, "weight")?;
    let bias = part(context, "bias")?;
    context.graph.layer_norm(x, gain, bias, eps)
}

/// Attention of all queries to all keys, `[1, T, heads, H]` to `[1, P, KV heads, H]` each, to `[1, T, heads · H]`. At most
/// as many of either as the flow has tokens.
fn attend(context: &mut EmitContext, [q, k, v]: [NodeId; 3], scale: f32) -> Result<NodeId> {
    let visible = context.all_positions()?;
    let visible = first_rows(context, visible, q)?;
    let positions = context.query_positions()?;
    let positions = first_rows(context, positions, k)?;
    let [batch, rows] = [0, 1].map(|axis| context.graph.shape(q).0[axis]);
    let heads: usize = context.graph.shape(q).0[2..].iter().filter_map(|dim| dim.fixed()).product();
    let mixed = context.graph.push(Attention { scale, softcap: None, keep: false }, &[q, k, v, visible, positions])?;
    context.graph.reshape(mixed, Shape(vec![batch, rows, heads.into()]))
}

/// As many rows of `all` as `like` has.
fn first_rows(context: &mut EmitContext, all: NodeId, like: NodeId) -> Result<NodeId> {
    let len = context.graph.shape(like).0[1];
    if context.graph.shape(all).0[1] == len {
        return Ok(all);
    }
    context.graph.push(Slice { axis: 1, start: 0, len }, &[all])
}

/// The soft tokens `[1, N, width]` of a tower's states, by an embedder of Gemma 3n (HF: `Gemma3nMultimodalEmbedder`).
fn soft_embedding(context: &mut EmitContext, x: NodeId, embedder: Embedder, width: usize, eps: f32) -> Result<NodeId> {
    let prefix = embedder.prefix();
    let x = rms_norm(context, x, &format!("{prefix}.soft_embedding_norm"), eps, Gain::Plain)?;
    let y = linear(context, x, &format!("{prefix}.embedding_projection"), width)?;
    unit_norm(context, y, eps)
}

/// The mean of each `count` neighbouring patches: `[1, P, E]` to `[1, P/count, E]`.
fn mean_of_neighbours(context: &mut EmitContext, x: NodeId, count: usize) -> Result<NodeId> {
    let patches = context.seq.fixed().unwrap_or(0);
    let width = context.width(x)?;
    let g = &mut *context.graph;
    let grouped = g.reshape(x, [1, patches / count, count, width])?;
    let grouped = g.push(Permute { order: vec![0, 1, 3, 2] }, &[grouped])?;
    let mean = g.mean(grouped)?;
    g.reshape(mean, [1, patches / count, width])
}

/// The sum of the embeddings of a patch's column and row, of the table `key`, which the loader has as `stored`; zero
/// for padding, as in transformers.
fn place_embedding(context: &mut EmitContext, key: &str, stored: [usize; 3]) -> Result<NodeId> {
    let table = context.stacked_weight(key, key, stored)?;
    let given = |context: &EmitContext, input: &str| {
        let missing = || Error::Builder(format!("position embeddings need the input '{input}'"));
        context.find_shared(input).ok_or_else(missing)
    };
    let [columns, rows, live] = ["columns", "rows", "attention_mask"].map(|input| given(context, input));
    let column = context.graph.gather(table, columns?)?;
    let row = context.graph.gather(table, rows?)?;
    let place = context.graph.add(column, row)?;
    let live = context.graph.reshape(live?, context.shape(&[1]))?;
    context.graph.mul(place, live)
}
