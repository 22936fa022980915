//! Soft tokens as bytes: for each picture and clip five numbers of 8 bytes (position of the first, modality, placeholder,
//! number of rows, numbers of a row), and its rows as f32, all little-endian.

use super::saved;
use crate::{
    Result,
    prompt::{Modality, Prompt, SoftSpan, SoftTokens},
};

const HEAD: usize = 40;

/// Bytes of all of them.
pub(super) fn byte_len(spans: &[SoftSpan]) -> u64 {
    spans.iter().map(|span| (HEAD + size_of_val(span.rows.values())) as u64).sum()
}

/// Hands over the bytes of one.
pub(super) fn write(span: &SoftSpan, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let rows = &span.rows;
    let modality = u64::from(rows.modality() == Modality::Audio);
    let numbers = [span.start as u64, modality, u64::from(rows.placeholder()), rows.len() as u64, rows.width() as u64];
    numbers.iter().try_for_each(|number| put(&number.to_le_bytes()))?;
    let values: Vec<u8> = rows.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    put(&values)
}

/// The prompt of these ids with the soft tokens of `bytes` among them.
pub(super) fn read(tokens: Vec<u32>, mut bytes: &[u8]) -> Result<Prompt> {
    let mut prompt = Prompt::new();
    let mut text = 0;
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or_else(cut)?;
        let number =
            |index: usize| head.get(8 * index..8 * index + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
        let [start, modality, placeholder, count, width] = [0, 1, 2, 3, 4].map(number);
        let len = count.checked_mul(width).and_then(|values| values.checked_mul(4)).and_then(|len| usize::try_from(len).ok());
        let (values, rest) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(cut)?;
        let modality = match modality {
            0 => Modality::Image,
            1 => Modality::Audio,
            other => return Err(saved(format!("has soft tokens of the unknown modality {other}: corrupt"))),
        };
        let placeholder = u32::try_from(placeholder).map_err(|_| saved(format!("has the token id {placeholder}: corrupt")))?;
        let values = values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let soft = SoftTokens::new(modality, placeholder, width as usize, values)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(soft.len());
        let before = tokens.get(text..start).filter(|_| end <= tokens.len());
        prompt.push(before.ok_or_else(|| saved(format!("has soft tokens at {start} to {end} of {}: corrupt", tokens.len())))?);
        prompt.push(soft);
        (text, bytes) = (end, rest);
    }
    prompt.push(&tokens[text..]);
    Ok(prompt)
}

fn cut() -> crate::Error {
    saved("has soft tokens that are cut: corrupt".into())
}
