//! Heads and widths of the layers of a GGUF file.

use std::collections::BTreeMap;

use super::{LayerKind, LayerOverrides, gguf_keys::Keys};
use crate::{Error, Result, weights::GgufFiles};

/// Sizes of the layers.
pub(super) struct LayerSizes {
    /// The model's own: heads are those of sliding layers, the width of the FFW is that of the first layer.
    pub(super) usual: UsualSizes,
    /// The head dimension of full layers.
    pub(super) wide_head: usize,
    /// Those of every layer.
    pub(super) of_layers: BTreeMap<usize, LayerOverrides>,
}

/// Sizes of layers that have none of their own.
pub(super) struct UsualSizes {
    pub(super) head_dim: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) intermediate_size: usize,
}

/// Reads the sizes of all layers.
pub(super) fn layer_sizes(heads: &Heads) -> Result<LayerSizes> {
    let Heads { keys, kinds, .. } = *heads;
    let wide_head = heads.dim("", LayerKind::Full, None)?;
    let head_dim = heads.dim("_swa", LayerKind::Sliding, Some(wide_head))?;
    let dim_of = |kind: LayerKind| if kind == LayerKind::Full { wide_head } else { head_dim };
    let kv_heads = match keys.of_layers("attention.head_count_kv", kinds.len())? {
        Some(given) => given,
        None => heads.kv_heads(dim_of),
    };
    let widths = keys.of_layers("feed_forward_length", kinds.len())?;
    let widths = keys.required("feed_forward_length", widths)?;
    let usual_layer = kinds.iter().position(|kind| *kind == LayerKind::Sliding).unwrap_or(0);
    let of_layers = kinds.iter().zip(kv_heads.iter().zip(&widths)).map(|(kind, (kv_heads, width))| LayerOverrides {
        head_dim: Some(dim_of(*kind)),
        num_key_value_heads: Some(*kv_heads),
        intermediate_size: Some(*width),
    });
    Ok(LayerSizes {
        usual: UsualSizes {
            head_dim,
            num_key_value_heads: kv_heads.get(usual_layer).copied().unwrap_or(0),
            intermediate_size: widths.first().copied().unwrap_or(0),
        },
        wide_head,
        of_layers: of_layers.enumerate().collect(),
    })
}

/// The heads where their keys are absent, by the shapes of the tensors that make them.
pub(super) struct Heads<'a> {
    pub(super) keys: &'a Keys<'a>,
    pub(super) files: &'a GgufFiles,
    pub(super) kinds: &'a [LayerKind],
    pub(super) count: usize,
    pub(super) hidden_size: usize,
}

impl Heads<'_> {
    fn rows(&self, layer: usize, tensor: &str) -> Option<usize> {
        self.files.tensor(&format!("blk.{layer}.{tensor}.weight"))?.shape.first().copied()
    }

    /// The head dimension of the layers that `suffix` stands for, the same for keys, values and rotation. Without the
    /// key and without a tensor that shows it `other`, or what the model's width leaves for a head, which the shapes of
    /// the weights must bear out.
    fn dim(&self, suffix: &str, kind: LayerKind, other: Option<usize>) -> Result<usize> {
        let [key, value, rotated] = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
            .map(|key| self.keys.size(&format!("{key}{suffix}")));
        let layer = self.kinds.iter().position(|own| *own == kind);
        let shown = layer.or(other.is_none().then_some(0)).and_then(|layer| self.shown(layer));
        let head_dim = key?.or(shown).or(other).unwrap_or(self.hidden_size / self.count.max(1));
        if let Some(value) = value?.filter(|value| *value != head_dim) {
            return Err(Error::Unsupported(format!("attention.value_length{suffix} {value} beside key_length {head_dim}: it")));
        }
        if let Some(rotated) = rotated?.filter(|rotated| *rotated != head_dim) {
            let key = self.keys.full(&format!("rope.dimension_count{suffix}"));
            return Err(Error::Config(format!("{key} is {rotated}, expected the head dimension, {head_dim}")));
        }
        Ok(head_dim)
    }

    /// The head dimension that the tensors of `layer` show: the length of the norm of queries, or the rows of their
    /// projection.
    fn shown(&self, layer: usize) -> Option<usize> {
        let projected = || self.rows(layer, "attn_q").filter(|rows| rows.is_multiple_of(self.count.max(1)));
        self.rows(layer, "attn_q_norm").or_else(|| Some(projected()? / self.count.max(1)))
    }

    /// The KV heads of each layer; of one without keys of its own those of the last layer of its kind, of all without
    /// tensors those of queries.
    fn kv_heads(&self, dim_of: impl Fn(LayerKind) -> usize) -> Vec<usize> {
        let own = |layer: usize| Some(self.rows(layer, "attn_k")? / dim_of(self.kinds[layer]).max(1));
        let last = |layer: usize| (0..layer).rev().filter(|other| self.kinds[*other] == self.kinds[layer]).find_map(own);
        (0..self.kinds.len()).map(|layer| own(layer).or_else(|| last(layer)).unwrap_or(self.count)).collect()
    }
}
