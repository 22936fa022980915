//! The tokenizer that a GGUF file carries, as Hugging Face's `tokenizer.json` of the same model has it: byte-pair
//! encoding over characters that falls back to bytes, spaces written as `▁`, control tokens set apart.
//!
//! Files of the kind `gemma4` list their merges. Files of the kind `llama` (SentencePiece) have a score a token
//! instead; their merges follow from the scores as Hugging Face's converter derives them (`merges.rs`).
//!
//! The ids are Hugging Face's. llama.cpp gives others for a literal `▁` in a text, which is never merged there and is a
//! space here, and for white space in Gemma 1, whose `tokenizer.json` merges runs pair by pair.

mod merges;
mod vocabulary;

use tokenizers::{
    NormalizerWrapper, Tokenizer,
    decoders::{DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence},
    models::bpe::BPE,
    normalizers::{Prepend, Replace, Sequence as Normalizers},
};

use super::{
    control::{Named, is_marker},
    frame::Frame,
    listed::Listed,
    tokenizer::{Facts, SPACE},
};
use crate::{
    Result,
    files::ModelPath,
    weights::{FileLimits, GgufFiles, GgufMetadata, ReadMode, ReadOptions},
};
use vocabulary::Vocabulary;

/// Reads the file's metadata (of one in parts: the first), and what it says of the tokens around a text: llama.cpp
/// takes BOS before and nothing after it where the file is silent.
pub(super) fn read(path: &ModelPath, limits: FileLimits) -> Result<(Tokenizer, Facts)> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    build(&files.metadata).map_err(|problem| files.error(problem))
}

fn build(metadata: &GgufMetadata) -> Result<(Tokenizer, Facts), String> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    let pairwise = metadata.text("general.architecture")? == Some("gemma");
    let vocabulary = Vocabulary::of(metadata, kind == Some("llama") && !pairwise)?;
    let merges = match kind {
        Some("llama") => merges::by_score(&vocabulary, pairwise),
        Some("gemma4") => merges::listed(metadata)?,
        Some(other) => {
            let shown: String = other.chars().take(60).collect();
            return Err(format!("tokenizer.ggml.model is {shown:?}, expected llama or gemma4; is this a Gemma model?"));
        }
        None => return Err("tokenizer.ggml.model is missing: the file carries no tokenizer; give its tokenizer.json".into()),
    };
    let unknown = vocabulary.unknown(metadata.size("tokenizer.ggml.unknown_token_id")?)?;
    let model =
        BPE::builder().vocab_and_merges(vocabulary.by_string(), merges).unk_token(unknown).fuse_unk(true).byte_fallback(true);
    let mut tokenizer = Tokenizer::new(model.build().map_err(|e| format!("its merges do not fit its vocabulary: {e}"))?);
    let space = |from: &str, to: &str| Replace::new(from, to).map_err(|e| e.to_string());
    let decoders: Vec<DecoderWrapper> = vec![space(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    let mut normalizer: NormalizerWrapper = space(" ", SPACE)?.into();
    if metadata.flag("tokenizer.ggml.add_space_prefix")? == Some(true) {
        normalizer = Normalizers::new(vec![Prepend::new(SPACE.into()).into(), normalizer]).into();
    }
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| format!("its normaliser: {e}"))?;
    tokenizer.with_decoder(Some(Sequence::new(decoders)));
    tokenizer.add_tokens(vocabulary.added()).map_err(|e| format!("its added tokens: {e}"))?;
    Ok((tokenizer, facts(metadata, &vocabulary)?))
}

fn facts(metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Facts, String> {
    let named = named(metadata, vocabulary)?;
    let id = |key: &str| Ok::<_, String>(metadata.size(key)?.filter(|id| *id < vocabulary.len()).map(|id| id as u32));
    let frame = Frame {
        bos: Some(metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true)),
        eos: Some(metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false)),
        bos_id: id("tokenizer.ggml.bos_token_id")?,
        eos_id: id("tokenizer.ggml.eos_token_id")?,
    };
    let listed = Listed { aliases: vocabulary.aliases(), size: vocabulary.len() };
    Ok(Facts { frame, named, listed })
}

/// The tokens that keys such as `tokenizer.ggml.eot_token_id` name. Some converters write fixed numbers there (Gemma
/// 1's `prefix_token_id`), which are ordinary words in a vocabulary that was cut down: such tokens stay text.
fn named(metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Named, String> {
    let mut named = Named::default();
    let keys = metadata.keys().filter(|key| key.starts_with("tokenizer.ggml."));
    for key in keys.filter(|key| key.ends_with("_token_id") || key.ends_with("_token_ids")) {
        for id in metadata.token_ids(key) {
            if vocabulary.string(id).is_some_and(is_marker) {
                named.ids.insert(id as u32);
            }
        }
    }
    named.ids.extend(vocabulary.control());
    Ok(named)
}
