//! Videos as folders of frames.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Most frames of a video that are shown, as transformers' processor has it.
pub const MOST: usize = 32;

/// Endings of the names of pictures.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The pictures of a folder in the order of their names, 2 before 10; other files are passed over.
pub fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{shown}: expected a folder of frames"))? {
        let path = entry.with_context(|| shown.to_string())?.path();
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if ending.is_some_and(|ending| PICTURES.contains(&ending.as_str())) {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        bail!(
            "{shown}: no file of this folder is a picture by its name (.png, .jpg, .jpeg, .webp); write frames of a video into \
             it, as `ffmpeg -i film.mp4 -vf fps=1 {shown}/%04d.png` does"
        );
    }
    pictures.sort_by_cached_key(|path| (order(path), path.clone()));
    Ok(pictures)
}

/// A file's name as words, each with the number behind it.
fn order(path: &Path) -> Vec<(String, u128)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut rest = name.as_str();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(digits);
        let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        let (number, next) = behind.split_at(end);
        parts.push((word.to_string(), number.parse().unwrap_or(0)));
        rest = next;
    }
    parts
}

/// The frames that are shown of a video of so many, from 0: `MOST` at equal distances, or all where they are fewer.
pub fn shown(frames: usize) -> Vec<usize> {
    let shown = frames.min(MOST);
    (0..shown).map(|at| at * frames / shown).collect()
}
