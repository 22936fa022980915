//! Picture files, and their names as people give them.
#![allow(dead_code)] // Each example uses a part.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gemmaflow::image::{Image, ImageLimits};

/// A picture from its file.
pub fn open(path: &Path) -> Result<Image> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Image::from_bytes(&bytes, &ImageLimits::default()).with_context(|| path.display().to_string())
}

/// The files that a line names, as terminals write those that are dropped on them: apart by spaces, with quotes or
/// backslashes where names have spaces. A line that is a file's whole name is that file.
pub fn files(line: &str) -> Vec<PathBuf> {
    let line = line.trim();
    if line.is_empty() || Path::new(line).is_file() {
        return Some(line).filter(|line| !line.is_empty()).map(PathBuf::from).into_iter().collect();
    }
    words(line, cfg!(windows)).into_iter().map(PathBuf::from).collect()
}

/// The words of a line as a shell reads them. `plain_backslash`: a backslash is part of a name.
pub fn words(line: &str, plain_backslash: bool) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) if !plain_backslash => word.get_or_insert_default().extend(chars.next()),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
