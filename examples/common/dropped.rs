//! Names of files as people give them.

use std::path::{Path, PathBuf};

/// The files that a line names, as terminals write those that are dropped on them: apart by spaces, with quotes or
/// backslashes where names have spaces. A line that is the whole name of a file or folder is that one.
pub fn files(line: &str) -> Vec<PathBuf> {
    let line = line.trim();
    if line.is_empty() || Path::new(line).exists() {
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
