//! Videos as folders of frames.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Most frames of a video that are shown, as transformers' processor has it.
pub const MOST: usize = 32;

/// Endings of the names of pictures.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The pictures of a folder in the order of their names; other files are passed over.
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
    pictures.sort();
    Ok(pictures)
}

/// The frames that are shown of a video of so many, from 0: `MOST` at equal distances, or all where they are fewer.
pub fn shown(frames: usize) -> Vec<usize> {
    let shown = frames.min(MOST);
    (0..shown).map(|at| at * frames / shown).collect()
}
