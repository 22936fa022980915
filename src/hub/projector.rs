//! The projector of a GGUF model (llama.cpp's `mmproj`) among the files of its repository.

use std::cmp::Reverse;

use super::name::{is_plain, split};
use crate::gemma::is_projector_name;

/// The projector that llama.cpp's `-hf` takes for the text model at `text`: in the nearest folder from there up; in it
/// the one whose bits are nearest to the text's, as the names say them; of several the first by name. Names come from
/// strangers, so only plain paths are taken.
pub(super) fn choose(files: &[String], text: &str) -> Option<String> {
    if is_projector(text) {
        return None;
    }
    let wanted = bits(text);
    let fits = |file: &&String| is_projector(file) && file.split('/').all(is_plain) && is_towards(folder(file), text);
    let rank = |file: &&String| (Reverse(folder(file).len()), bits(file).abs_diff(wanted), (*file).clone());
    files.iter().filter(fits).min_by_key(rank).cloned()
}

/// True for a projector's file by its name, which is whole.
fn is_projector(file: &str) -> bool {
    is_projector_name(name(file)) && split(&name(file).to_ascii_lowercase()).is_none()
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn name(file: &str) -> &str {
    file.rsplit_once('/').map_or(file, |(_, name)| name)
}

/// True for a folder that `text` lies in or below; the repository itself is "".
fn is_towards(folder: &str, text: &str) -> bool {
    folder.is_empty() || text.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The bits of a weight that a file's name tells behind its last '-' or '.': 4 of `Q4_K_M`, 16 of `BF16`, else 0.
fn bits(file: &str) -> u32 {
    let whole = split(file).map_or(file, |(stem, ..)| stem);
    let stem = name(whole).trim_end_matches(".gguf").trim_end_matches(".GGUF");
    let Some((_, tag)) = stem.rsplit_once(['-', '.']) else { return 0 };
    let digits = tag.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
