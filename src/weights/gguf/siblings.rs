//! Where the other parts of a model lie: by the name that llama.cpp gives them, else by what the files beside the first
//! one say.

use std::collections::BTreeMap;

use super::{
    files::{Split, part},
    metadata::Metadata,
};
use crate::{
    Error, Result,
    files::ModelPath,
    weights::{ReadMode, ReadOptions, is_gguf},
};

/// Parts of a model at most.
const MOST: usize = 99_999;

/// Keys that all parts of a model share where they have them.
const SHARED: [&str; 2] = ["general.architecture", "general.name"];

/// The paths of the parts after the first, in order, for the file at `path`, whose metadata is given.
///
/// # Errors
/// [`Error::Format`] where the file is not the first part, or parts are not to be found.
pub(super) fn siblings(path: &ModelPath, split: &Split, metadata: &Metadata, options: ReadOptions) -> Result<Vec<ModelPath>> {
    let count = split.count;
    let bad = |problem: String| Err(Error::Format { path: path.to_path_buf(), problem });
    if count > MOST {
        return bad(format!("split.count is {count}, expected {MOST} at most"));
    }
    let named = Name::of(path, split);
    if split.index != 0 {
        let first = named.map_or("the part whose split.no is 0".to_string(), |name| name.of_part(0));
        return bad(format!("part {} of {count}; open {first}", split.index + 1));
    }
    if let Some(name) = named {
        return Ok((1..count).map(|index| name.part(index)).collect());
    }
    let found = by_contents(path, split, metadata, options)?;
    if found.keys().copied().eq(1..count) && found.values().all(|paths| paths.len() == 1) {
        return Ok(found.into_values().flatten().collect());
    }
    let there: Vec<String> = found.iter().map(|(index, paths)| format!("{} ({} times)", index + 1, paths.len())).collect();
    let expected = format!("NAME-{:05}-of-{count:05}.gguf", 1);
    let there = if there.is_empty() { "none".to_string() } else { there.join(", ") };
    bad(format!(
        "part 1 of {count}, and of the others each must lie beside it, once; found {there}; the name {expected} and its like tell \
         parts of several models apart"
    ))
}

/// A part's name around its number: `NAME-00001-of-00003.gguf`, with or without an extension.
struct Name<'a> {
    path: &'a ModelPath,
    before: &'a str,
    after: &'a str,
    count: usize,
}

impl<'a> Name<'a> {
    fn of(path: &'a ModelPath, split: &Split) -> Option<Self> {
        let number = format!("{:05}-of-{:05}", split.index + 1, split.count);
        let (before, after) = path.file_name()?.rsplit_once(&number)?;
        Some(Self { path, before, after, count: split.count })
    }

    fn of_part(&self, index: usize) -> String {
        format!("{}{:05}-of-{:05}{}", self.before, index + 1, self.count, self.after)
    }

    fn part(&self, index: usize) -> ModelPath {
        self.path.with_file_name(self.of_part(index))
    }
}

/// The GGUF files beside `path` that say they are other parts of the same model, by their place. A file with
/// llama.cpp's name of a part belongs to those that are called like it, and is none of them.
fn by_contents(
    path: &ModelPath,
    split: &Split,
    metadata: &Metadata,
    options: ReadOptions,
) -> Result<BTreeMap<usize, Vec<ModelPath>>> {
    let folder = path.folder();
    let options = ReadOptions { mode: ReadMode::Positioned, ..options };
    let mut found: BTreeMap<usize, Vec<ModelPath>> = BTreeMap::new();
    for other in folder.entries().map_err(|source| Error::Io { path: folder.to_path_buf(), source })? {
        if !is_gguf(&other) {
            continue;
        }
        // A file that cannot be read is no part.
        let Ok((_, own)) = part(&other, options) else { continue };
        let Ok(place) = Split::of(&own) else { continue };
        let shared = SHARED.iter().all(|key| match (metadata.text(key), own.text(key)) {
            (Ok(Some(first)), Ok(Some(other))) => first == other,
            _ => true,
        });
        let unnamed = Name::of(&other, &place).is_none();
        if shared && unnamed && place.index > 0 && place.count == split.count && place.tensors == split.tensors {
            found.entry(place.index).or_default().push(other);
        }
    }
    Ok(found)
}
