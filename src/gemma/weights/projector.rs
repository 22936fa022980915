//! llama.cpp's names of the weights of towers, in the files of projectors (`mmproj`), and what its converter does to
//! their values.

use crate::gemma::config::Projector;

/// How a tensor of a projector's file becomes the weight of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProjectorValues {
    /// The same values; the shape as [`ProjectorWeight`] says.
    Same,
    /// 1 more.
    PlusOne,
    /// ln(1 + eˣ) of them.
    Softplus,
    /// The last three dimensions are channel, row, column for the checkpoint's row, column, channel, which are one.
    ChannelsFirst,
    /// The last dimension is channel, row, column in one for the checkpoint's row, column, channel in one.
    FlatChannelsFirst,
    /// The first two dimensions are exchanged.
    Exchanged,
    /// The same values, as rows that can be read as columns.
    Transposable,
}

/// The dimensions of a weight, where the file has others for the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProjectorShape {
    /// As in the file.
    Same,
    /// None, for a number by itself.
    Scalar,
    /// One, without those of size 1.
    Flat,
    /// `[C, 1, K]`, which is `[C, K]` in some files.
    Depthwise,
}

/// A weight by its place in a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProjectorWeight {
    /// Its key, Hugging Face's name.
    pub(crate) key: String,
    pub(crate) values: ProjectorValues,
    pub(crate) shape: ProjectorShape,
}

/// What follows the names of a row.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// `.weight` and `.bias` in both.
    Module,
    /// A module of its own around the product, with the product's bounds beside that.
    Clipped,
    /// `.weight`, which the checkpoint has not.
    Parameter,
    /// Nothing in either, or `.weight` in the file.
    Bare,
}

/// Weights of one name, with `{}` for a number.
#[derive(Clone, Copy)]
struct Row {
    file: &'static str,
    checkpoint: &'static str,
    ends: Ends,
    values: ProjectorValues,
    shape: ProjectorShape,
}

/// A module with the values of the checkpoint.
const fn module(file: &'static str, checkpoint: &'static str) -> Row {
    Row { file, checkpoint, ends: Ends::Module, values: ProjectorValues::Same, shape: ProjectorShape::Same }
}

const fn clipped(file: &'static str, checkpoint: &'static str) -> Row {
    Row { ends: Ends::Clipped, ..module(file, checkpoint) }
}

const fn parameter(file: &'static str, checkpoint: &'static str) -> Row {
    Row { ends: Ends::Parameter, ..module(file, checkpoint) }
}

const fn bare(file: &'static str, checkpoint: &'static str) -> Row {
    Row { ends: Ends::Bare, ..module(file, checkpoint) }
}

impl Row {
    const fn with(self, values: ProjectorValues) -> Self {
        Self { values, ..self }
    }

    const fn depthwise(self) -> Self {
        Self { shape: ProjectorShape::Depthwise, ..self }
    }

    /// The weight that the file calls `name`; `None` where that is no name of this row's.
    fn weight(&self, name: &str) -> Option<ProjectorWeight> {
        let (number, end) = self.matched(name)?;
        let (replaced, shape) = match (self.ends, end) {
            (Ends::Module, ".weight" | ".bias") => (end, self.shape),
            (Ends::Clipped, ".weight") => (".linear.weight", self.shape),
            (Ends::Clipped, ".input_min" | ".input_max" | ".output_min" | ".output_max") => (end, ProjectorShape::Scalar),
            (Ends::Parameter, ".weight") | (Ends::Bare, "" | ".weight") => ("", self.shape),
            _ => return None,
        };
        let key = self.checkpoint.replacen("{}", number, 1) + replaced;
        Some(ProjectorWeight { key, values: self.values, shape })
    }

    /// The number in a name of this row's, and what follows.
    fn matched<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let Some((before, after)) = self.file.split_once("{}") else { return Some(("", name.strip_prefix(self.file)?)) };
        let rest = name.strip_prefix(before)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = rest.split_at(digits);
        // A number that is spelt otherwise, such as 03, is no layer's.
        let is_number = number.parse::<usize>().is_ok_and(|parsed| parsed.to_string() == number);
        is_number.then_some((number, rest.strip_prefix(after)?))
    }
}

use ProjectorValues::{ChannelsFirst, Exchanged, FlatChannelsFirst, PlusOne, Softplus, Transposable};

const SIGLIP: &[Row] = &[
    module("v.patch_embd", "vision_tower.embeddings.patch_embedding"),
    module("v.position_embd", "vision_tower.embeddings.position_embedding"),
    module("v.blk.{}.ln1", "vision_tower.encoder.layers.{}.layer_norm1"),
    module("v.blk.{}.ln2", "vision_tower.encoder.layers.{}.layer_norm2"),
    module("v.blk.{}.attn_q", "vision_tower.encoder.layers.{}.self_attn.q_proj"),
    module("v.blk.{}.attn_k", "vision_tower.encoder.layers.{}.self_attn.k_proj"),
    module("v.blk.{}.attn_v", "vision_tower.encoder.layers.{}.self_attn.v_proj"),
    module("v.blk.{}.attn_out", "vision_tower.encoder.layers.{}.self_attn.out_proj"),
    module("v.blk.{}.ffn_up", "vision_tower.encoder.layers.{}.mlp.fc1"),
    module("v.blk.{}.ffn_down", "vision_tower.encoder.layers.{}.mlp.fc2"),
    module("v.post_ln", "vision_tower.post_layernorm"),
    parameter("mm.input_projection", "multi_modal_projector.mm_input_projection_weight").with(Transposable),
    module("mm.soft_emb_norm", "multi_modal_projector.mm_soft_emb_norm").with(PlusOne),
];

const VISION_4: &[Row] = &[
    module("v.patch_embd", "vision_tower.patch_embedder.input_proj").with(ChannelsFirst),
    parameter("v.position_embd", "vision_tower.patch_embedder.position_embedding_table"),
    module("v.blk.{}.ln1", "vision_tower.encoder.layers.{}.input_layernorm"),
    module("v.blk.{}.ln2", "vision_tower.encoder.layers.{}.pre_feedforward_layernorm"),
    module("v.blk.{}.attn_post_norm", "vision_tower.encoder.layers.{}.post_attention_layernorm"),
    module("v.blk.{}.ffn_post_norm", "vision_tower.encoder.layers.{}.post_feedforward_layernorm"),
    module("v.blk.{}.attn_q_norm", "vision_tower.encoder.layers.{}.self_attn.q_norm"),
    module("v.blk.{}.attn_k_norm", "vision_tower.encoder.layers.{}.self_attn.k_norm"),
    clipped("v.blk.{}.attn_q", "vision_tower.encoder.layers.{}.self_attn.q_proj"),
    clipped("v.blk.{}.attn_k", "vision_tower.encoder.layers.{}.self_attn.k_proj"),
    clipped("v.blk.{}.attn_v", "vision_tower.encoder.layers.{}.self_attn.v_proj"),
    clipped("v.blk.{}.attn_out", "vision_tower.encoder.layers.{}.self_attn.o_proj"),
    clipped("v.blk.{}.ffn_gate", "vision_tower.encoder.layers.{}.mlp.gate_proj"),
    clipped("v.blk.{}.ffn_up", "vision_tower.encoder.layers.{}.mlp.up_proj"),
    clipped("v.blk.{}.ffn_down", "vision_tower.encoder.layers.{}.mlp.down_proj"),
    bare("v.std_bias", "vision_tower.std_bias"),
    bare("v.std_scale", "vision_tower.std_scale"),
    module("mm.input_projection", "embed_vision.embedding_projection"),
];

const UNIFIED_VISION: &[Row] = &[
    module("v.patch_norm.1", "vision_embedder.patch_ln1").with(FlatChannelsFirst),
    module("v.patch_norm.2", "vision_embedder.patch_ln2"),
    module("v.patch_norm.3", "vision_embedder.pos_norm"),
    parameter("v.position_embd", "vision_embedder.pos_embedding").with(Exchanged),
    module("mm.input_projection", "embed_vision.embedding_projection"),
];

const AUDIO_4: &[Row] = &[
    module("a.conv1d.{}.norm", "audio_tower.subsample_conv_projection.layer{}.norm"),
    module("a.conv1d.{}", "audio_tower.subsample_conv_projection.layer{}.conv"),
    module("a.input_projection", "audio_tower.subsample_conv_projection.input_proj_linear"),
    module("a.pre_encode.out", "audio_tower.output_proj"),
    module("a.blk.{}.attn_pre_norm", "audio_tower.layers.{}.norm_pre_attn"),
    module("a.blk.{}.attn_post_norm", "audio_tower.layers.{}.norm_post_attn"),
    module("a.blk.{}.ln2", "audio_tower.layers.{}.norm_out"),
    module("a.blk.{}.ffn_norm", "audio_tower.layers.{}.feed_forward1.pre_layer_norm"),
    clipped("a.blk.{}.ffn_up", "audio_tower.layers.{}.feed_forward1.ffw_layer_1"),
    clipped("a.blk.{}.ffn_down", "audio_tower.layers.{}.feed_forward1.ffw_layer_2"),
    module("a.blk.{}.ffn_post_norm", "audio_tower.layers.{}.feed_forward1.post_layer_norm"),
    module("a.blk.{}.ffn_norm_1", "audio_tower.layers.{}.feed_forward2.pre_layer_norm"),
    clipped("a.blk.{}.ffn_up_1", "audio_tower.layers.{}.feed_forward2.ffw_layer_1"),
    clipped("a.blk.{}.ffn_down_1", "audio_tower.layers.{}.feed_forward2.ffw_layer_2"),
    module("a.blk.{}.ffn_post_norm_1", "audio_tower.layers.{}.feed_forward2.post_layer_norm"),
    clipped("a.blk.{}.attn_q", "audio_tower.layers.{}.self_attn.q_proj"),
    clipped("a.blk.{}.attn_k", "audio_tower.layers.{}.self_attn.k_proj"),
    clipped("a.blk.{}.attn_v", "audio_tower.layers.{}.self_attn.v_proj"),
    clipped("a.blk.{}.attn_out", "audio_tower.layers.{}.self_attn.post"),
    module("a.blk.{}.attn_k_rel", "audio_tower.layers.{}.self_attn.relative_k_proj"),
    bare("a.blk.{}.per_dim_scale", "audio_tower.layers.{}.self_attn.per_dim_scale").with(Softplus),
    // The norms of the convolution have each other's names.
    module("a.blk.{}.conv_norm", "audio_tower.layers.{}.lconv1d.pre_layer_norm"),
    module("a.blk.{}.norm_conv", "audio_tower.layers.{}.lconv1d.conv_norm"),
    clipped("a.blk.{}.conv_pw1", "audio_tower.layers.{}.lconv1d.linear_start"),
    clipped("a.blk.{}.conv_pw2", "audio_tower.layers.{}.lconv1d.linear_end"),
    module("a.blk.{}.conv_dw", "audio_tower.layers.{}.lconv1d.depthwise_conv1d").depthwise(),
    module("mm.a.input_projection", "embed_audio.embedding_projection"),
];

const AUDIO_3N: &[Row] = &[
    module("a.conv1d.{}.norm", "audio_tower.subsample_conv_projection.conv_{}.norm"),
    module("a.conv1d.{}", "audio_tower.subsample_conv_projection.conv_{}.conv"),
    module("a.pre_encode.out", "audio_tower.subsample_conv_projection.input_proj_linear"),
    module("a.blk.{}.ln1", "audio_tower.conformer.{}.attention.pre_attn_norm"),
    module("a.blk.{}.ln2", "audio_tower.conformer.{}.attention.post_norm"),
    module("a.blk.{}.layer_pre_norm", "audio_tower.conformer.{}.norm"),
    module("a.blk.{}.ffn_norm", "audio_tower.conformer.{}.ffw_layer_start.pre_layer_norm"),
    module("a.blk.{}.ffn_up", "audio_tower.conformer.{}.ffw_layer_start.ffw_layer_1"),
    module("a.blk.{}.ffn_down", "audio_tower.conformer.{}.ffw_layer_start.ffw_layer_2"),
    module("a.blk.{}.ffn_post_norm", "audio_tower.conformer.{}.ffw_layer_start.post_layer_norm"),
    module("a.blk.{}.ffn_norm_1", "audio_tower.conformer.{}.ffw_layer_end.pre_layer_norm"),
    module("a.blk.{}.ffn_up_1", "audio_tower.conformer.{}.ffw_layer_end.ffw_layer_1"),
    module("a.blk.{}.ffn_down_1", "audio_tower.conformer.{}.ffw_layer_end.ffw_layer_2"),
    module("a.blk.{}.ffn_post_norm_1", "audio_tower.conformer.{}.ffw_layer_end.post_layer_norm"),
    module("a.blk.{}.attn_q", "audio_tower.conformer.{}.attention.attn.q_proj"),
    module("a.blk.{}.attn_k", "audio_tower.conformer.{}.attention.attn.k_proj"),
    module("a.blk.{}.attn_v", "audio_tower.conformer.{}.attention.attn.v_proj"),
    module("a.blk.{}.attn_out", "audio_tower.conformer.{}.attention.post"),
    module("a.blk.{}.linear_pos", "audio_tower.conformer.{}.attention.attn.relative_position_embedding.pos_proj"),
    bare("a.blk.{}.per_dim_scale", "audio_tower.conformer.{}.attention.attn.per_dim_scale"),
    module("a.blk.{}.conv_norm", "audio_tower.conformer.{}.lconv1d.pre_layer_norm"),
    module("a.blk.{}.norm_conv", "audio_tower.conformer.{}.lconv1d.conv_norm"),
    module("a.blk.{}.conv_pw1", "audio_tower.conformer.{}.lconv1d.linear_start"),
    module("a.blk.{}.conv_pw2", "audio_tower.conformer.{}.lconv1d.linear_end"),
    module("a.blk.{}.conv_dw", "audio_tower.conformer.{}.lconv1d.depthwise_conv1d").depthwise(),
    module("mm.a.embedding", "embed_audio.embedding"),
    module("mm.a.hard_emb_norm", "embed_audio.hard_embedding_norm"),
    module("mm.a.soft_emb_norm", "embed_audio.soft_embedding_norm"),
    module("mm.a.input_projection", "embed_audio.embedding_projection"),
];

const UNIFIED_AUDIO: &[Row] = &[module("mm.a.input_projection", "embed_audio.embedding_projection")];

const MOBILENET: &[Row] = &[
    module("mm.embedding", "embed_vision.embedding"),
    module("mm.hard_emb_norm", "embed_vision.hard_embedding_norm"),
    module("mm.soft_emb_norm", "embed_vision.soft_embedding_norm"),
    module("mm.input_projection", "embed_vision.embedding_projection"),
];

impl Projector {
    const fn rows(self) -> &'static [Row] {
        match self {
            Self::Siglip => SIGLIP,
            Self::MobileNet => MOBILENET,
            Self::Vision4 => VISION_4,
            Self::UnifiedVision => UNIFIED_VISION,
            Self::Audio3n => AUDIO_3N,
            Self::Audio4 => AUDIO_4,
            Self::UnifiedAudio => UNIFIED_AUDIO,
        }
    }
}

/// The weight that a file of this projector calls `name`; `None` for a tensor of another modality or of no use.
pub(crate) fn projector_weight(projector: Projector, name: &str) -> Option<ProjectorWeight> {
    match projector {
        Projector::MobileNet => timm_weight(name),
        Projector::UnifiedVision => patch_weight(name),
        _ => None,
    }
    .or_else(|| projector.rows().iter().find_map(|row| row.weight(name)))
}

/// The projection of patches in Gemma 4 12B, whose bias is not of channels.
fn patch_weight(name: &str) -> Option<ProjectorWeight> {
    let (end, values) = match name.strip_prefix("v.patch_embd.")? {
        "weight" => ("weight", FlatChannelsFirst),
        "bias" => ("bias", ProjectorValues::Same),
        _ => return None,
    };
    Some(ProjectorWeight { key: format!("vision_embedder.patch_dense.{end}"), values, shape: ProjectorShape::Same })
}

/// MobileNet's tower has timm's names, but for the blocks.
fn timm_weight(name: &str) -> Option<ProjectorWeight> {
    const TOWER: &str = "vision_tower.timm_model";
    let own = name.strip_prefix("v.")?;
    let key = match own.strip_prefix("blk.") {
        Some(block) => format!("{TOWER}.blocks.{block}"),
        None if own.starts_with("conv_stem.") || own.starts_with("msfa.") => format!("{TOWER}.{own}"),
        None => return None,
    };
    let is_row = own.ends_with(".bias") || own.ends_with(".gamma");
    let shape = if is_row { ProjectorShape::Flat } else { ProjectorShape::Same };
    Some(ProjectorWeight { key, values: ProjectorValues::Same, shape })
}
