//! Soft tokens as bytes: four numbers of 8 bytes (modality, placeholder, number of rows, numbers of a row), and the rows
//! as f32, all little-endian.

use super::{Modality, SoftTokens};
use crate::{Error, Result};

const HEAD: usize = 32;

/// Bytes of one.
pub(crate) fn byte_len(rows: &SoftTokens) -> u64 {
    (HEAD + size_of_val(rows.values())) as u64
}

/// Hands over the bytes of one.
pub(crate) fn write(rows: &SoftTokens, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let modality = u64::from(rows.modality() == Modality::Audio);
    let numbers = [modality, u64::from(rows.placeholder()), rows.len() as u64, rows.width() as u64];
    numbers.iter().try_for_each(|number| put(&number.to_le_bytes()))?;
    let values: Vec<u8> = rows.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    put(&values)
}

/// The first of `bytes`, and the bytes after it. No number in them makes it take memory that the bytes do not fill.
///
/// # Errors
/// [`Error::Saved`] for bytes that are cut or corrupt.
pub(crate) fn read(bytes: &[u8]) -> Result<(SoftTokens, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD).ok_or_else(cut)?;
    let (words, _) = head.as_chunks::<8>();
    let [modality, placeholder, count, width] = [0, 1, 2, 3].map(|index| words.get(index).map_or(0, |w| u64::from_le_bytes(*w)));
    let len = count.checked_mul(width).and_then(|values| values.checked_mul(4)).and_then(|len| usize::try_from(len).ok());
    let (values, rest) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(cut)?;
    let modality = match modality {
        0 => Modality::Image,
        1 => Modality::Audio,
        other => return Err(Error::Saved(format!("has soft tokens of the unknown modality {other}: corrupt"))),
    };
    let placeholder = u32::try_from(placeholder).map_err(|_| Error::Saved(format!("has the token id {placeholder}: corrupt")))?;
    let (values, _) = values.as_chunks::<4>();
    let values = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let rows = SoftTokens::new(modality, placeholder, width as usize, values);
    Ok((rows.map_err(|error| Error::Saved(format!("has {error}: corrupt")))?, rest))
}

pub(crate) fn cut() -> Error {
    Error::Saved("has soft tokens that are cut: corrupt".into())
}
