//! Names of models and files. They come from strangers, so a name that could lead out of its folder is refused.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{Error, Result, error::HubError};

/// A model on the hub: `owner/name`, or `owner/name/file.gguf` for one GGUF file of a repository.
///
/// Of a GGUF file in parts, name the first, `…-00001-of-0000N.gguf`; the others come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    repository: String,
    /// The GGUF file's path in the repository.
    file: Option<String>,
}

impl HubModel {
    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The GGUF file's path in the repository; none for a checkpoint.
    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The GGUF file and its further parts; none for a checkpoint.
    pub(super) fn parts(&self) -> Option<Vec<String>> {
        let file = self.file.as_ref()?;
        Some(match split(file) {
            Some((stem, _, count)) => (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf")).collect(),
            None => vec![file.clone()],
        })
    }

    /// Where the model lies in the folder of its repository.
    pub(super) fn within(&self, folder: PathBuf) -> PathBuf {
        match &self.file {
            Some(file) => folder.join(file),
            None => folder,
        }
    }
}

/// True for the name of a commit: 40 hexadecimal digits.
pub(super) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

impl FromStr for HubModel {
    type Err = Error;

    /// # Errors
    /// [`HubError::Name`] for what the hub does not allow, or what is no plain path of a GGUF file.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |problem: &str| Error::Hub(HubError::Name { name: text.to_string(), problem: problem.to_string() });
        let mut parts = text.splitn(3, '/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return Err(wrong("it has no '/'"));
        };
        if let Some(problem) = [owner, name].iter().find_map(|part| repository_part(part)) {
            return Err(wrong(problem));
        }
        let file = parts.next().map(str::to_string);
        if let Some(file) = &file {
            if !file.ends_with(".gguf") || !file.split('/').all(is_plain) {
                return Err(wrong("what follows the repository's name must be the plain path of a .gguf file"));
            }
            if split(file).is_some_and(|(_, index, _)| index != 1) {
                return Err(wrong("name the first of a file's parts"));
            }
        }
        Ok(Self { repository: format!("{owner}/{name}"), file })
    }
}

/// The fault of an owner's or a repository's name, by the hub's own rules. `--` stands for `/` in the cache.
fn repository_part(part: &str) -> Option<&'static str> {
    let edge = |c: char| c == '.' || c == '-';
    match part {
        "" => Some("a part of it is empty"),
        _ if part.len() > 96 => Some("a part of it is longer than 96 characters"),
        _ if !part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) => {
            Some("a part of it has other characters than letters, digits, '.', '_' and '-'")
        }
        _ if part.starts_with(edge) || part.ends_with(edge) => Some("a part of it begins or ends with '.' or '-'"),
        _ if part.contains("..") || part.contains("--") => Some("it contains '..' or '--'"),
        _ => None,
    }
}

/// Returns `true` if a name is that of a file in its folder, on every system: no separator, no drive, no way up.
pub(super) fn is_plain(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c);
    !name.is_empty() && name.len() <= 255 && !name.contains(forbidden) && !name.ends_with(['.', ' '])
}

/// The shards that the index at `path` names, if all of them are plain file names.
pub(super) fn plain(path: &Path, shards: BTreeSet<String>) -> Result<BTreeSet<String>> {
    match shards.iter().find(|shard| !is_plain(shard)) {
        None => Ok(shards),
        Some(shard) => {
            let problem = format!("a tensor lies in {shard:?}, expected a plain file name");
            Err(Error::Format { path: path.to_path_buf(), problem })
        }
    }
}

/// `STEM-00002-of-00003.gguf` in its stem, index and count.
pub(super) fn split(file: &str) -> Option<(&str, usize, usize)> {
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5 && !digits.starts_with('+'));
    let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    Some((stem, number(index)?, number(count)?)).filter(|(_, index, count)| index <= count)
}

#[cfg(test)]
mod tests;
