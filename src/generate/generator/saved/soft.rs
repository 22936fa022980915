//! Soft tokens as bytes: for each picture and clip the position of its first, in 8 bytes, and then
//! [its own](crate::prompt::saved).

use super::saved;
use crate::{
    Result,
    prompt::{
        Prompt, SoftSpan,
        saved::{self as rows, cut},
    },
};

/// Bytes of all of them.
pub(super) fn byte_len(spans: &[SoftSpan]) -> u64 {
    spans.iter().map(|span| 8 + rows::byte_len(&span.rows)).sum()
}

/// Hands over the bytes of one.
pub(super) fn write(span: &SoftSpan, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    put(&(span.start as u64).to_le_bytes())?;
    rows::write(&span.rows, put)
}

/// The prompt of these ids with the soft tokens of `bytes` among them.
pub(super) fn read(tokens: Vec<u32>, mut bytes: &[u8]) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    let mut text = 0;
    while !bytes.is_empty() {
        let (start, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let (soft, rest) = rows::read(rest)?;
        let start = usize::try_from(u64::from_le_bytes(*start)).unwrap_or(usize::MAX);
        let end = start.saturating_add(soft.len());
        let before = tokens.get(text..start).filter(|_| end <= tokens.len());
        prompt.push(before.ok_or_else(|| saved(format!("has soft tokens at {start} to {end} of {}: corrupt", tokens.len())))?);
        prompt.push(soft);
        (text, bytes) = (end, rest);
    }
    prompt.push(&tokens[text..]);
    Ok(prompt)
}
