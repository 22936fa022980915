//! Names of weights in Hugging Face's checkpoints and in GGUF files, both ways.

use std::borrow::Cow;

use super::{
    LayerWeight, WeightPosition,
    row::{Gguf, Row, WeightKind},
};
use crate::{
    gemma::{Embedder, GemmaArch},
    ir::ops::Gain,
    weights::HEAD_KEY,
};

/// Whose names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convention {
    HuggingFace,
    Gguf,
}

impl Convention {
    /// The part of a layer's names before the layer's number.
    const fn layers_prefix(self) -> &'static str {
        match self {
            Convention::HuggingFace => "layers.",
            Convention::Gguf => "blk.",
        }
    }

    /// The row's name, without the prefix of the layer.
    fn name(self, row: &Row, arch: GemmaArch) -> Option<&'static str> {
        match self {
            Convention::HuggingFace => row.hugging_face(arch),
            Convention::Gguf => row.gguf(arch),
        }
    }
}

impl WeightPosition {
    /// Hugging Face's name, without the checkpoint's prefix; `None` where `arch` has no such weight.
    pub fn hugging_face(self, arch: GemmaArch) -> Option<String> {
        self.foreign(arch, Convention::HuggingFace)
    }

    /// llama.cpp's name in a GGUF file; `None` where `arch` has no such weight or llama.cpp no such architecture.
    pub fn gguf(self, arch: GemmaArch) -> Option<String> {
        self.foreign(arch, Convention::Gguf)
    }

    /// The position that Hugging Face calls `name` (without the checkpoint's prefix) in a model of `arch`.
    pub fn from_hugging_face(arch: GemmaArch, name: &str) -> Option<Self> {
        Self::from_foreign(arch, name, Convention::HuggingFace)
    }

    /// The position that llama.cpp calls `name` in a model of `arch`.
    pub fn from_gguf(arch: GemmaArch, name: &str) -> Option<Self> {
        Self::from_foreign(arch, name, Convention::Gguf)
    }

    fn foreign(self, arch: GemmaArch, convention: Convention) -> Option<String> {
        let (row, number) = self.row();
        let name = convention.name(&row, arch)?;
        match self {
            WeightPosition::Layer(layer, _) => Some(format!("{}{layer}.{name}", convention.layers_prefix())),
            _ => (number < row.most).then(|| name.replacen("{}", &(row.first + number).to_string(), 1)),
        }
    }

    fn from_foreign(arch: GemmaArch, name: &str, convention: Convention) -> Option<Self> {
        let Some(rest) = name.strip_prefix(convention.layers_prefix()) else {
            return Self::known(arch, 0).find(|end| end.foreign(arch, convention).as_deref() == Some(name));
        };
        let (layer, weight) = rest.split_once('.')?;
        let found = LayerWeight::ALL.iter().find(|own| convention.name(&own.row(), arch) == Some(weight))?;
        let position = WeightPosition::Layer(layer.parse().ok()?, *found);
        // A number that is spelt otherwise, such as 03, is no layer's.
        (position.foreign(arch, convention).as_deref() == Some(name)).then_some(position)
    }
}

/// How the values of a GGUF tensor stand to the loader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GgufValues {
    /// The same.
    Same,
    /// 1 more: gains of norms, in families that count them from 1.
    PlusOne,
}

/// The loader's key of a tensor that llama.cpp calls `name` in a model of `architecture`, and how its values stand to
/// the loader's. A tensor without a name of Hugging Face's keeps its own, and its values.
pub(crate) fn gguf_key(architecture: &str, name: &str) -> (String, GgufValues) {
    known_gguf_key(architecture, name).unwrap_or_else(|| (name.to_string(), GgufValues::Same))
}

fn known_gguf_key(architecture: &str, name: &str) -> Option<(String, GgufValues)> {
    let drafter = GemmaArch::of_drafter(architecture);
    let arch = GemmaArch::of_architecture(architecture).or(drafter)?;
    let position = WeightPosition::from_gguf(arch, name)?;
    if matches!(position, WeightPosition::DraftInput | WeightPosition::DraftOutput) && drafter.is_none() {
        // In another model's file they are of a drafter that came with it.
        return None;
    }
    let plus_one = position.kind() == WeightKind::Norm && arch.gain() == Gain::OnePlus;
    let values = if plus_one { GgufValues::PlusOne } else { GgufValues::Same };
    Some((position.hugging_face(arch)?, values))
}

/// The loader's keys of the matrices that llama.cpp stacks in the tensor `name` of three dimensions, `count` of them;
/// `None` where it is no such stack.
pub(crate) fn gguf_stack(architecture: &str, name: &str, count: usize) -> Option<Vec<String>> {
    let arch = GemmaArch::of_architecture(architecture)?;
    let is_stack = |position: WeightPosition| matches!(position.row().0.gguf, Gguf::Stack(own) if own == name);
    let position = WeightPosition::NUMBERED.iter().find(|position| is_stack(position(0)))?;
    position(0).hugging_face(arch)?;
    (0..count).map(|number| position(number).hugging_face(arch)).collect()
}

/// The loader's key of the weight of dense module `j`, which has a file of its own in sentence-transformers' layout.
pub(crate) fn dense_key(j: usize) -> String {
    let (row, _) = WeightPosition::EmbeddingDense(j).row();
    row.hugging_face.replacen("{}", &(row.first + j).to_string(), 1)
}

/// Hugging Face's name of the order in which a drafter's centroids have the tokens, `[V]` in 64-bit integers.
pub(crate) const TOKEN_ORDER: &str = "masked_embedding.token_ordering";

/// Prefixes of text weights' names, by the class that saved them; the first that fits is taken off.
const PREFIXES: [&str; 4] = ["model.language_model.", "language_model.model.", "model.", "language_model."];

/// Parts of a name by which the weights of other modalities are known.
const OTHER_MODALITIES: [&str; 3] = ["vision", "audio", "multi_modal_projector"];

/// The names of the weights by which an embedder of Gemma 3n embeds ids: its table, the norm of a row, and the
/// projection, which other families have as well.
pub(crate) fn embedder_weights(embedder: Embedder) -> [String; 3] {
    let prefix = embedder.prefix();
    ["embedding", "hard_embedding_norm", "embedding_projection"].map(|part| format!("{prefix}.{part}.weight"))
}

/// A weight's name without the checkpoint's prefix; `None` for weights of vision and audio towers and their projectors,
/// but for those that ids of the text model are embedded by.
pub(crate) fn text_weight(name: &str) -> Option<Cow<'_, str>> {
    let own = name.strip_prefix("model.").unwrap_or(name);
    if [Embedder::Vision, Embedder::Audio].into_iter().flat_map(embedder_weights).any(|weight| weight == own) {
        return Some(own.into());
    }
    if OTHER_MODALITIES.iter().any(|part| name.contains(part)) {
        return None;
    }
    if name.strip_prefix("language_model.") == Some(HEAD_KEY) {
        return Some(HEAD_KEY.into());
    }
    Some(PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).into())
}

/// The name of a weight of a vision or audio tower, or of a projector, as released models have it; `None` for text's.
///
/// transformers 4 saves `model.vision_tower.vision_model.…`, 5 `vision_tower.…`; in memory the patch embedder of Gemma 4
/// 12B lies in `embed_vision`.
pub(crate) fn tower_weight(name: &str) -> Option<Cow<'_, str>> {
    if !OTHER_MODALITIES.iter().any(|part| name.contains(part)) {
        return None;
    }
    let name = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = name.strip_prefix("vision_tower.vision_model.") {
        return Some(format!("vision_tower.{rest}").into());
    }
    if let Some(rest) = name.strip_prefix("embed_vision.") {
        if let Some(rest) = rest.strip_prefix("multimodal_embedder.") {
            return Some(format!("embed_vision.{rest}").into());
        }
        if PATCH_EMBEDDER.iter().any(|part| rest.starts_with(part)) {
            return Some(format!("vision_embedder.{rest}").into());
        }
    }
    Some(name.into())
}

/// The parts of Gemma 4 12B's patch embedder.
const PATCH_EMBEDDER: [&str; 3] = ["patch_", "pos_norm", "pos_embedding"];
