//! The keys of a GGUF file's architecture, in all spellings in use, and what becomes of those that nobody reads.

use std::{cell::RefCell, collections::BTreeSet};

use super::{absent::Defaults, unknown};
use crate::{Error, Result, weights::GgufMetadata};

/// Keys as llama.cpp's converter writes them, and the names that other programs have for them: Ollama's converter for
/// Gemma 3 and converters that write for it.
#[rustfmt::skip]
const SPELLINGS: &[(&str, &[&str])] = &[
    ("rope.freq_base", &["rope.global.freq_base"]),
    ("rope.freq_base_swa", &["rope.local.freq_base", "rope.local_freq_base"]),
    ("rope.scaling.factor", &["rope.scale_linear"]),
    ("attention.layer_norm_rms_epsilon", &["attention.layer_norm_epsilon"]),
    ("attn_logit_softcapping", &["attn_logit_softcap"]),
    ("final_logit_softcapping", &["final_logit_softcap"]),
    ("attention.shared_kv_layers", &["attention.num_kv_shared_layers"]),
];

/// Keys that only Ollama's converter and its like write.
const OLLAMA: &[&str] = &["rope.global.freq_base", "rope.local.freq_base", "mm.tokens_per_image", "vision.block_count"];

/// Keys with a word of the mathematics that say nothing of how text is computed, by how they begin.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "vision.", "audio.", "mm.", "clip.", "vocab_size", "tensor_data_layout", "nextn_predict_layers", "rope.scaling.original_context_length",
    "rope.scaling.finetuned", "pooling_type", "classifier.", "use_parallel_residual", "rope.dimension_sections", "adapter.",
    "expert_weights_norm", "expert_gating_func", "quantization",
];

/// The keys of one architecture.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a GgufMetadata,
    pub(super) defaults: Defaults,
    prefix: &'a str,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a GgufMetadata, prefix: &'a str) -> Self {
        Self { metadata, prefix, defaults: Defaults::gguf(prefix), read: RefCell::default() }
    }

    /// The key with the architecture before it, which counts as read.
    pub(super) fn full(&self, key: &str) -> String {
        let full = format!("{}.{key}", self.prefix);
        self.read.borrow_mut().insert(full.clone());
        full
    }

    fn has(&self, full: &str) -> bool {
        self.metadata.keys().any(|key| key == full)
    }

    /// The key in the spelling that the file has; two that contradict each other are refused.
    fn spelt(&self, key: &str) -> Result<String> {
        let others = SPELLINGS.iter().find(|(usual, _)| *usual == key).map_or(&[][..], |(_, others)| others);
        let spellings = std::iter::once(&key).chain(others).map(|key| self.full(key));
        let there: Vec<String> = spellings.filter(|full| self.has(full)).collect();
        let number = |full: &String| self.metadata.number(full).map_err(Error::Config);
        for (first, second) in there.iter().zip(there.iter().skip(1)) {
            if number(first)? != number(second)? {
                return Err(Error::Config(format!("{first} and {second} say different things; remove one")));
            }
        }
        Ok(there.into_iter().next().unwrap_or_else(|| self.full(key)))
    }

    /// True for files of Ollama's converter, and of converters that write for it.
    pub(super) fn has_ollama_keys(&self) -> bool {
        let tokenizer = ["tokenizer.ggml.add_padding_token", "tokenizer.ggml.add_unknown_token"];
        OLLAMA.iter().any(|key| self.has(&format!("{}.{key}", self.prefix))) || tokenizer.iter().any(|key| self.has(key))
    }

    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::Config(format!("{}.{key} is missing; was the file made by another converter?", self.prefix)))
    }

    /// A size, or an array with the same size for every layer.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let key = self.spelt(key)?;
        let Some(sizes) = self.metadata.sizes(&key).map_err(Error::Config)? else { return Ok(None) };
        match sizes.split_first() {
            Some((first, rest)) if rest.iter().all(|size| size == first) => Ok(Some(*first)),
            _ => Err(Error::Unsupported(format!("{key} that differs from layer to layer"))),
        }
    }

    /// A size; where the key is absent what the table says, and where that says nothing an error.
    pub(super) fn size_or_default(&self, key: &str) -> Result<usize> {
        let given = self.size(key)?;
        self.required(key, given.or_else(|| self.defaults.size(key)))
    }

    /// A size of each layer: an array of them, or one for all.
    pub(super) fn of_layers(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let key = self.spelt(key)?;
        let Some(sizes) = self.metadata.sizes(&key).map_err(Error::Config)? else { return Ok(None) };
        match sizes[..] {
            [size] => Ok(Some(vec![size; layers])),
            _ if sizes.len() == layers => Ok(Some(sizes)),
            _ => Err(Error::Config(format!("{key} has {} entries, the model {layers} layers", sizes.len()))),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.number(&self.spelt(key)?).map_err(Error::Config)
    }

    /// As [`size_or_default`](Self::size_or_default), a number.
    pub(super) fn number_or_default(&self, key: &str) -> Result<f32> {
        let given = self.number(key)?;
        self.required(key, given.or_else(|| self.defaults.number(key)))
    }

    /// A softcap, where 0 means none.
    pub(super) fn cap(&self, key: &str) -> Result<Option<f32>> {
        match self.number(key)? {
            Some(cap) => Ok(Some(cap).filter(|cap| *cap != 0.0)),
            None => self.defaults.cap(key).ok_or_else(|| {
                let key = self.full(key);
                Error::Config(format!(
                    "{key} is missing; models of the family differ in it. Add the key: 0 for none, or the cap, such as 30"
                ))
            }),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.text(&self.full(key)).map_err(Error::Config)
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{key}");
        let Some(id) = self.metadata.size(&key).map_err(Error::Config)?.or_else(|| self.defaults.size(&key)) else {
            return Ok(None);
        };
        u32::try_from(id).map(Some).map_err(|_| Error::Config(format!("{key} is {id}, which is no token")))
    }

    /// Settles the keys of the architecture that nobody has read: those with a word of the mathematics are refused by
    /// name, others are told by one warning.
    pub(super) fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        let mut ignored = Vec::new();
        let own = self.metadata.keys().filter(|key| !read.contains(*key));
        for (key, rest) in own.filter_map(|key| Some((key, key.strip_prefix(self.prefix)?.strip_prefix('.')?))) {
            if HARMLESS.iter().any(|known| rest.starts_with(known)) {
                continue;
            }
            let shown = self.metadata.shown(key);
            if unknown::is_mathematics(rest) {
                let problem = "is not known here and may change what the model computes; remove the key if it does not";
                return Err(Error::Config(format!("{key} = {shown} {problem}")));
            }
            ignored.push(key);
        }
        if !ignored.is_empty() {
            tracing::warn!(keys = ignored.join(", "), "the file has keys that nothing here reads");
        }
        Ok(())
    }
}
