//! The tokenizer that a GGUF file carries, as Hugging Face's `tokenizer.json` of the same model has it: byte-pair encoding over
//! characters that falls back to bytes, spaces written as `▁`, control tokens set apart.
//!
//! Files of the kind `gemma4` list their merges. Files of the kind `llama` (SentencePiece) have a score a token instead; their merges
//! follow from the scores as Hugging Face's converter derives them. What it loses is restored: llama.cpp writes spaces for the
//! `▁` of tokens that users defined, and one score for all of them; they merge before all others, in the order of their ids.
//!
//! The ids are Hugging Face's. On this vocabulary llama.cpp gives others in two cases: a literal `▁` in a text, which is never
//! merged there and is a space here, and runs of more than 30 spaces, which are cut from the left there and merged pair by pair
//! here.

use std::{collections::HashMap, path::Path};

use tokenizers::{
    AddedToken, Tokenizer,
    decoders::{DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence},
    models::bpe::BPE,
    normalizers::Replace,
};

use super::{frame::Frame, tokenizer::SPACE};
use crate::{
    Result,
    weights::{FileLimits, GgufFiles, GgufMetadata, ReadMode, ReadOptions},
};

/// Longer tokens than any vocabulary has are not split into merges, which takes time in their square.
const MAX_TOKEN: usize = 512;

/// Token types, as `tokenizer.ggml.token_type` numbers them.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Reads the file's metadata (of one in parts: the first), and what it says of the tokens around a text: llama.cpp takes BOS before
/// and nothing after it where the file is silent.
pub(super) fn read(path: &Path, limits: FileLimits) -> Result<(Tokenizer, Frame)> {
    let files = GgufFiles::open(path, ReadOptions { mode: ReadMode::Positioned, limits })?;
    let whole = build(&files.metadata).and_then(|tokenizer| {
        let flag = |key: &str, absent| Ok::<_, String>(Some(files.metadata.flag(key)?.unwrap_or(absent)));
        let (bos, eos) = (flag("tokenizer.ggml.add_bos_token", true)?, flag("tokenizer.ggml.add_eos_token", false)?);
        Ok((tokenizer, Frame { bos, eos }))
    });
    whole.map_err(|problem| files.error(problem))
}

fn build(metadata: &GgufMetadata) -> Result<Tokenizer, String> {
    let kind = metadata.text("tokenizer.ggml.model")?;
    let vocabulary = Vocabulary::of(metadata)?;
    let merges = match kind {
        Some("llama") => vocabulary.merges_by_score(&numbers(metadata, "tokenizer.ggml.scores", &vocabulary)?),
        Some("gemma4") => listed_merges(metadata)?,
        Some(other) => {
            let shown: String = other.chars().take(60).collect();
            return Err(format!("tokenizer.ggml.model is {shown:?}, expected llama or gemma4; is this a Gemma model?"));
        }
        None => return Err("tokenizer.ggml.model is missing: the file carries no tokenizer; give its tokenizer.json".into()),
    };
    let unknown = metadata.size("tokenizer.ggml.unknown_token_id")?.unwrap_or(3);
    let unknown =
        vocabulary.tokens.get(unknown).ok_or_else(|| format!("tokenizer.ggml.unknown_token_id {unknown} is no token"))?;
    let ids = vocabulary.tokens.iter().cloned().zip(0..).collect::<tokenizers::models::bpe::Vocab>();
    let model = BPE::builder().vocab_and_merges(ids, merges).unk_token(unknown.clone()).fuse_unk(true).byte_fallback(true);
    let mut tokenizer = Tokenizer::new(model.build().map_err(|e| format!("its merges do not fit its vocabulary: {e}"))?);
    let space = |from: &str, to: &str| Replace::new(from, to).map_err(|e| e.to_string());
    let decoders: Vec<DecoderWrapper> = vec![space(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    tokenizer.with_normalizer(Some(space(" ", SPACE)?)).with_decoder(Some(Sequence::new(decoders)));
    tokenizer.add_tokens(&vocabulary.added());
    Ok(tokenizer)
}

/// A list of numbers, one a token.
fn numbers(metadata: &GgufMetadata, key: &str, vocabulary: &Vocabulary) -> Result<Vec<f32>, String> {
    let expected = vocabulary.tokens.len();
    let values = metadata.numbers(key)?.ok_or_else(|| format!("{key} is missing"))?;
    match values.len() {
        found if found == expected => Ok(values),
        found => Err(format!("{key} has {found} entries, tokenizer.ggml.tokens {expected}")),
    }
}

/// Merges as the file lists them, best first: two tokens with a space between.
fn listed_merges(metadata: &GgufMetadata) -> Result<Vec<(String, String)>, String> {
    let key = "tokenizer.ggml.merges";
    let listed = metadata.texts(key)?.ok_or_else(|| format!("{key} is missing"))?;
    let pair = |merge: &&str| {
        let mut spaces = merge.char_indices().skip(1).filter(|(_, c)| *c == ' ');
        let (at, _) = spaces.next().ok_or_else(|| format!("{key}: {merge:?}, expected two tokens and a space between"))?;
        Ok((merge[..at].to_string(), merge[at + 1..].to_string()))
    };
    listed.iter().map(pair).collect()
}

/// Tokens by id, as Hugging Face spells them.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
}

impl Vocabulary {
    fn of(metadata: &GgufMetadata) -> Result<Self, String> {
        let key = "tokenizer.ggml.tokens";
        let texts = metadata.texts(key)?.ok_or_else(|| format!("{key} is missing"))?;
        let tokens: Vec<String> = texts.into_iter().map(str::to_string).collect();
        let mut vocabulary = Self { tokens, types: Vec::new() };
        let types = numbers(metadata, "tokenizer.ggml.token_type", &vocabulary)?;
        vocabulary.types = types.into_iter().map(|ty| ty as i32).collect();
        for (token, ty) in vocabulary.tokens.iter_mut().zip(&vocabulary.types) {
            if *ty == USER_DEFINED {
                *token = token.replace(' ', SPACE);
            }
        }
        // The byte of a tab is the tab itself, so that tokens of several tabs can be merged from it.
        if !vocabulary.tokens.iter().any(|token| token == "\t")
            && let Some(tab) = vocabulary.tokens.iter_mut().find(|token| token.as_str() == "<0x09>")
        {
            *tab = "\t".into();
        }
        match vocabulary.twice() {
            Some(problem) => Err(format!("{key}: {problem}")),
            None => Ok(vocabulary),
        }
    }

    /// Two ids of one text, of which only one could be decoded.
    fn twice(&self) -> Option<String> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        self.tokens.iter().enumerate().find_map(|(id, token)| {
            let earlier = ids.insert(token.as_str(), id)?;
            let shown: String = token.chars().take(60).collect();
            Some(format!("{earlier} and {id} are both {shown:?}"))
        })
    }

    /// Tokens that are looked for in a text before anything is merged.
    fn added(&self) -> Vec<AddedToken> {
        let added = |(token, ty): (&String, &i32)| match *ty {
            CONTROL | USER_DEFINED => Some(AddedToken::from(token.clone(), *ty == CONTROL).normalized(false)),
            _ => None,
        };
        self.tokens.iter().zip(&self.types).filter_map(added).collect()
    }

    /// Every pair of tokens that makes a token, best first: those of user-defined tokens by id and by the length of the first part,
    /// then the others by score and by the parts' ids.
    fn merges_by_score(&self, scores: &[f32]) -> Vec<(String, String)> {
        let ids: HashMap<&str, usize> = self.tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, token)| token.len() <= MAX_TOKEN) {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut pairs: Vec<[usize; 2]> = cuts.filter_map(|(a, b)| Some([*ids.get(a)?, *ids.get(b)?])).collect();
            match self.types[id] {
                USER_DEFINED => first.extend(pairs),
                _ => {
                    pairs.sort_unstable();
                    rest.extend(pairs.into_iter().map(|pair| (self.score(id, scores), pair)));
                }
            }
        }
        rest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let pairs = first.into_iter().chain(rest.into_iter().map(|(_, pair)| pair));
        pairs.map(|[a, b]| (self.tokens[a].clone(), self.tokens[b].clone())).collect()
    }

    /// The rank of a token among those that may be merged; control tokens and bytes come last, as their scores say nothing.
    fn score(&self, id: usize, scores: &[f32]) -> f32 {
        if self.types[id] == NORMAL { scores[id] } else { f32::NEG_INFINITY }
    }
}
