//! MobileNet-V5, Gemma 3n's vision tower. Source: `mobilenetv5.py` and `_efficientnet_blocks.py` in timm, and
//! `modeling_gemma3n.py` in transformers.

mod blocks;
mod parts;

use parts::{Block, dims, norm};

use super::{Embedder, attend, soft_embedding};
use crate::{
    Error, Result,
    flow::{BlockStage, EmitContext},
    gemma::MobileNetConfig,
    ir::{
        NodeId,
        ops::{Broadcast, Concat, Permute},
    },
};

/// The beginning of the weights' names.
const TOWER: &str = "vision_tower.timm_model";

/// A picture `[1, 1, 3·S²]`, row, column, channel, values from 0 to 1, to soft tokens `[1, N, D]`.
///
/// Which blocks there are, and of which sizes, is read off the names and shapes of the weights. All values between are
/// `[1, rows, columns, channels]`.
#[derive(Debug, Clone)]
pub struct MobileNetStage {
    config: MobileNetConfig,
    /// D of the text model.
    width: usize,
}

impl MobileNetStage {
    /// The tower of `config` for a text model of `width`.
    pub fn new(config: MobileNetConfig, width: usize) -> Self {
        Self { config, width }
    }

    /// The last two stages' results, the finer first.
    fn stages(&self, context: &mut EmitContext, picture: NodeId) -> Result<[NodeId; 2]> {
        let mut x = context.scoped("vision.stem", |context| parts::stem(context, picture))?;
        let mut ends = Vec::new();
        for (stage, blocks) in blocks_of(context).into_iter().enumerate() {
            for block in 0..blocks {
                let scope = format!("vision.stage.{stage}.block.{block}");
                // The first block of a stage halves the picture.
                let stride = if block == 0 { 2 } else { 1 };
                let block = Block { name: format!("{TOWER}.blocks.{stage}.{block}"), stride };
                x = context.scoped(&scope, |context| block.emit(context, x))?;
            }
            ends.push(x);
        }
        match ends[..] {
            [.., fine, coarse] => Ok([fine, coarse]),
            _ => Err(Error::Unsupported(format!("a tower '{TOWER}' of {} stages, expected two or more,", ends.len()))),
        }
    }

    /// Joins two stages and takes the means of squares (timm: `MobileNetV5MultiScaleFusionAdapter`), `[1, N, E]`.
    fn fuse(&self, context: &mut EmitContext, [fine, coarse]: [NodeId; 2]) -> Result<NodeId> {
        let [_, rows, columns, _] = dims(context, fine)?;
        let coarse = enlarged(context, coarse, [rows, columns])?;
        let both = context.graph.push(Concat { axis: 3 }, &[fine, coarse])?;
        let y = blocks::bottleneck(context, both, &format!("{TOWER}.msfa.ffn"), 1)?;
        let tokens = self.config.soft_tokens_per_image;
        let side = tokens.isqrt();
        let width = context.width(y)?;
        if !rows.is_multiple_of(side) || rows != columns {
            return Err(Error::Unsupported(format!("means of {rows}×{columns} places in {side}² squares")));
        }
        let pooled = rows / side;
        let g = &mut *context.graph;
        let squares = g.reshape(y, [side, pooled, side, pooled, width])?;
        let squares = g.push(Permute { order: vec![0, 2, 4, 1, 3] }, &[squares])?;
        let squares = g.reshape(squares, [1, tokens, width, pooled * pooled])?;
        let mean = g.mean(squares)?;
        let mean = g.reshape(mean, [1, tokens, width])?;
        norm(context, mean, &format!("{TOWER}.msfa.norm"))
    }

    /// Refuses a tower with weights that no block takes: it would be another one.
    fn refuse_left(context: &EmitContext) -> Result<()> {
        match context.keys_left(TOWER).first() {
            Some(key) => Err(Error::Unsupported(format!("the vision tower's weight '{key}', which no known block has,"))),
            None => Ok(()),
        }
    }
}

/// Blocks of each stage, as the names of the weights number them.
fn blocks_of(context: &EmitContext) -> Vec<usize> {
    let mut counts: Vec<usize> = Vec::new();
    for key in context.keys_left(&format!("{TOWER}.blocks")) {
        let mut numbers = key[TOWER.len()..].split('.').filter_map(|part| part.parse::<usize>().ok());
        // More stages or blocks than any tower has are no numbers of them.
        if let (Some(stage @ ..64), Some(block @ ..1024)) = (numbers.next(), numbers.next()) {
            counts.resize(counts.len().max(stage + 1), 0);
            counts[stage] = counts[stage].max(block + 1);
        }
    }
    counts
}

/// The picture of `[rows, columns]` whose places take the nearest of `x`, both multiples of its own.
fn enlarged(context: &mut EmitContext, x: NodeId, [rows, columns]: [usize; 2]) -> Result<NodeId> {
    let [_, height, width, channels] = dims(context, x)?;
    if !rows.is_multiple_of(height) || !columns.is_multiple_of(width) {
        return Err(Error::Unsupported(format!("enlarging {height}×{width} places to {rows}×{columns}")));
    }
    let g = &mut *context.graph;
    let apart = g.reshape(x, [height, 1, width, 1, channels])?;
    let shape = [height, rows / height, width, columns / width, channels].into();
    let repeated = g.push(Broadcast { shape }, &[apart])?;
    g.reshape(repeated, [1, rows, columns, channels])
}

impl BlockStage for MobileNetStage {
    fn emit(&self, context: &mut EmitContext, patches: NodeId) -> Result<NodeId> {
        let size = self.config.image_size;
        let picture = context.graph.reshape(patches, [1, size, size, 3])?;
        let ends = self.stages(context, picture)?;
        let x = context.scoped("vision.fusion", |context| self.fuse(context, ends))?;
        let x = context.graph.label(x, "vision.tower");
        Self::refuse_left(context)?;
        let width = context.width(x)?;
        let scaled = context.graph.scale(x, (width as f32).sqrt())?;
        soft_embedding(context, scaled, Embedder::Vision, self.width, self.config.rms_norm_eps)
    }
}
