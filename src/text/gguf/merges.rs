//! Merges: as a file lists them, or as they follow from a SentencePiece vocabulary's scores.

use super::vocabulary::Vocabulary;
use crate::weights::GgufMetadata;

/// Longer tokens than any vocabulary has are not split into merges, which takes time in their square.
const MAX_TOKEN: usize = 512;

/// Merges as the file lists them, best first: two tokens with a space between.
pub(super) fn listed(metadata: &GgufMetadata) -> Result<Vec<(String, String)>, String> {
    let key = "tokenizer.ggml.merges";
    let listed = metadata.texts(key)?.ok_or_else(|| format!("{key} is missing"))?;
    let pair = |merge: &&str| {
        let mut spaces = merge.char_indices().skip(1).filter(|(_, c)| *c == ' ');
        let (at, _) = spaces.next().ok_or_else(|| format!("{key}: {merge:?}, expected two tokens and a space between"))?;
        Ok((merge[..at].to_string(), merge[at + 1..].to_string()))
    };
    listed.iter().map(pair).collect()
}

/// A pair of tokens that makes a token.
struct Merge<'a> {
    parts: [&'a str; 2],
    /// The ids of the parts.
    ids: [u32; 2],
    /// The score of what it makes.
    score: f32,
    /// Characters of the parts.
    chars: [usize; 2],
}

/// Every pair of tokens that makes a token, best first: those of white space and other defined tokens, then the others
/// by score.
///
/// Hugging Face's converters differ in what follows among equal scores. The one of Gemma 1's `tokenizer.json`
/// (`pairwise`) takes tokens by id and pairs by their parts' ids: 32 spaces are two tokens of 16. That of every later
/// one takes the longest left part, then the longest right part: 32 spaces are the token of 31 and one more.
pub(super) fn by_score(vocabulary: &Vocabulary, pairwise: bool) -> Vec<(String, String)> {
    let mut merges = Vec::new();
    for (id, token) in vocabulary.strings().filter(|(_, token)| token.len() <= MAX_TOKEN) {
        let score = match vocabulary.score(id) {
            _ if vocabulary.is_defined(id) => f32::INFINITY,
            // Zeros of either sign are equal.
            Some(score) => score + 0.0,
            // Control tokens and bytes, whose scores say nothing.
            None => f32::NEG_INFINITY,
        };
        let length = token.chars().count();
        let cuts = token.char_indices().enumerate().skip(1).map(|(left, (at, _))| (left, token.split_at(at)));
        let first = merges.len();
        merges.extend(cuts.filter_map(|(left, (a, b))| {
            let ids = [vocabulary.id(a)?, vocabulary.id(b)?];
            Some(Merge { parts: [a, b], ids, score, chars: [left, length - left] })
        }));
        merges[first..].sort_by_key(|merge| merge.ids);
    }
    if pairwise {
        merges.sort_by(|a, b| b.score.total_cmp(&a.score));
    } else {
        merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.chars.cmp(&a.chars)));
    }
    merges.into_iter().map(|Merge { parts: [a, b], .. }| (a.to_string(), b.to_string())).collect()
}
