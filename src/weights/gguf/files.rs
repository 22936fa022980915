//! A GGUF model's files: one, or parts that belong together.

use std::{collections::HashSet, sync::Arc};

use super::{
    header::{self, Entry},
    metadata::Metadata,
    siblings::siblings,
};
use crate::{
    Error, Result,
    files::ModelPath,
    weights::{ReadMode, ReadOptions, Tensor, source::FileSource},
};

/// One file and its tensors, in the order of their bytes.
pub(crate) struct GgufPart {
    pub(crate) path: ModelPath,
    pub(crate) file: Arc<FileSource>,
    pub(crate) tensors: Vec<Entry>,
}

/// A model's headers: the first file's metadata, and every file's tensors.
pub(crate) struct GgufFiles {
    pub(crate) metadata: Metadata,
    pub(crate) parts: Vec<GgufPart>,
}

impl GgufFiles {
    /// Opens a file and, where it is the first of several parts, the others beside it.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be opened, [`Error::Format`] where a header lies or the parts do not belong
    /// together.
    pub(crate) fn open(path: &ModelPath, options: ReadOptions) -> Result<Self> {
        let (first, metadata) = part(path, options)?;
        let bad = |problem: String| Error::Format { path: path.to_path_buf(), problem };
        let split = Split::of(&metadata).map_err(bad)?;
        let mut parts = vec![first];
        if split.count > 1 {
            for path in siblings(path, &split, &metadata, options)? {
                let (part, metadata) = part(&path, options)?;
                split.check(parts.len(), &metadata).map_err(|problem| Error::Format { path: path.to_path_buf(), problem })?;
                parts.push(part);
            }
            check_together(&parts, &split).map_err(bad)?;
        }
        Ok(Self { metadata, parts })
    }

    /// Every tensor by the file's own name; of a type that is not one of ours the number.
    #[cfg(feature = "lora")]
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, Result<Tensor, String>)> {
        let entries = self.parts.iter().flat_map(|part| part.tensors.iter().map(|entry| (&part.file, entry)));
        entries.map(|(file, entry)| {
            let tensor = |dtype| Tensor::new(&entry.name, dtype, entry.shape.clone(), file.clone(), entry.offset);
            (entry.name.clone(), entry.dtype.map(tensor).map_err(|number| format!("type number {number}")))
        })
    }

    /// A tensor's entry by the file's own name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Entry> {
        self.parts.iter().flat_map(|part| &part.tensors).find(|entry| entry.name == name)
    }

    /// The values of a small tensor by the file's own name; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Format`] for a type that is not read here or more values than `most`; [`Error::Io`] where the file
    /// cannot be read.
    pub(crate) fn values(&self, name: &str, most: usize) -> Result<Option<Vec<f32>>> {
        let entries = self.parts.iter().flat_map(|part| part.tensors.iter().map(|entry| (&part.file, entry)));
        let Some((file, entry)) = entries.into_iter().find(|(_, entry)| entry.name == name) else { return Ok(None) };
        let count = entry.shape.iter().fold(1usize, |all, size| all.saturating_mul(*size));
        match &entry.dtype {
            Ok(dtype) if count <= most => {
                Tensor::new(name, *dtype, entry.shape.clone(), file.clone(), entry.offset).to_f32().map(Some)
            }
            Ok(_) => Err(file.format(format!("tensor '{name}' has {count} values, expected {most} at most"))),
            Err(number) => Err(file.format(format!("tensor '{name}' has type number {number}"))),
        }
    }

    /// `general.architecture`.
    pub(crate) fn architecture(&self) -> Result<&str> {
        match self.metadata.text("general.architecture") {
            Ok(Some(name)) => Ok(name),
            Ok(None) => match self.metadata.text("general.type") {
                Ok(Some("imatrix")) => {
                    Err(self.error("an importance matrix, by which models are quantised; open the model's own file".into()))
                }
                _ => Err(self.error("general.architecture is missing; is this a model's GGUF file?".into())),
            },
            Err(problem) => Err(self.error(problem)),
        }
    }

    /// An error of the first file.
    pub(crate) fn error(&self, problem: String) -> Error {
        let path = self.parts.first().map(|part| part.path.to_path_buf()).unwrap_or_default();
        Error::Format { path, problem }
    }
}

pub(super) fn part(path: &ModelPath, options: ReadOptions) -> Result<(GgufPart, Metadata)> {
    let file = FileSource::open(path)?;
    let header = header::read(&file, &options.limits)?;
    let file = if options.mode == ReadMode::Mapped { file.map()? } else { file };
    Ok((GgufPart { path: path.clone(), file: Arc::new(file), tensors: header.tensors }, header.metadata))
}

/// A part's place among the parts.
#[derive(PartialEq)]
pub(super) struct Split {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) tensors: Option<usize>,
}

impl Split {
    pub(super) fn of(metadata: &Metadata) -> Result<Self, String> {
        Ok(Self {
            index: metadata.size("split.no")?.unwrap_or(0),
            count: metadata.size("split.count")?.unwrap_or(1),
            tensors: metadata.size("split.tensors.count")?,
        })
    }

    /// Checks that `metadata` is that of part `index` of the same model.
    fn check(&self, index: usize, metadata: &Metadata) -> Result<(), String> {
        let found = Self::of(metadata)?;
        let expected = Self { index, ..*self };
        if found == expected {
            return Ok(());
        }
        let shown = |s: &Self| format!("split.no {}, split.count {}, split.tensors.count {:?}", s.index, s.count, s.tensors);
        Err(format!("{}, but the first part implies {}; fetch the parts again", shown(&found), shown(&expected)))
    }
}

fn check_together(parts: &[GgufPart], split: &Split) -> Result<(), String> {
    let mut names = HashSet::new();
    for entry in parts.iter().flat_map(|part| &part.tensors) {
        if !names.insert(&entry.name) {
            return Err(format!("tensor '{}' is in two of its parts", entry.name));
        }
    }
    match split.tensors {
        Some(expected) if expected != names.len() => {
            Err(format!("its {} parts have {} tensors, split.tensors.count is {expected}", parts.len(), names.len()))
        }
        _ => Ok(()),
    }
}
