//! Weights by name.

use std::collections::BTreeMap;

use super::{HEAD_KEY, StoredHead, Tensor, foreign::Foreign, kept, transposed::transposed};
use crate::{Error, Result, error::WeightError, quant::DType};

/// Facts of a weight that are known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// The element type in storage.
    pub dtype: DType,
    /// Row-major dimensions.
    pub shape: &'a [usize],
}

/// Weights by name, each to be taken once.
///
/// Keys are Hugging Face's names without the checkpoint's prefix: `layers.0.mlp.up_proj.weight`, `lm_head.weight`;
/// [`WeightPosition`](crate::gemma::WeightPosition) makes them. Weights that nobody takes do no harm; loading a model
/// tells of those that it does not know, by a warning.
pub trait WeightLoader: Send {
    /// How many weights are left.
    fn len(&self) -> usize;

    /// True if no weight is left.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type and shape of a weight; reads none of its bytes.
    ///
    /// # Errors
    /// [`WeightError::Missing`] names the nearest key that is left; [`WeightError::Type`] where the file has a type
    /// that no weight here may have.
    fn peek(&self, key: &str) -> Result<TensorInfo<'_>>;

    /// Hands over a weight: typed bytes, shared with the file.
    ///
    /// # Errors
    /// As [`peek`](Self::peek); a weight that cannot be taken stays.
    fn take(&mut self, key: &str) -> Result<Tensor>;

    /// Hands over a matrix `[N, K]` as `[K, N]`, in its storage type. The bytes are rearranged as they are read, a
    /// portion at a time; nothing is widened, and no second copy of the matrix is made.
    ///
    /// # Errors
    /// As [`take`](Self::take); [`Error::Input`] for a weight that has not two dimensions or is in a packed format,
    /// whose blocks lie along its rows. A weight that cannot be taken stays.
    fn take_transposed(&mut self, key: &str) -> Result<Tensor> {
        let TensorInfo { dtype, shape } = self.peek(key)?;
        let problem = match (shape, dtype.scalar_bytes()) {
            ([_, _], Some(size)) => return Ok(transposed(self.take(key)?, size)),
            ([_, _], None) => format!("is {dtype}, blocks of a packed format cannot be transposed; use take()"),
            _ => format!("has shape {shape:?}, only a weight of two dimensions can be transposed; use take()"),
        };
        Err(Error::Input { name: key.to_string(), problem })
    }

    /// The keys that are left, in ascending order.
    fn remaining_keys(&self) -> Vec<String>;

    /// The architecture that the file itself names, in the file's words. Safetensors name none.
    fn arch_hint(&self) -> Option<&str>;

    /// The kind of LM head, as long as neither it nor the embedding was taken. Compares the two, a little at a time.
    /// This default compares nothing: a head with a key is taken for one that is not the embedding.
    ///
    /// # Errors
    /// Those of reading the two.
    fn stored_head(&self) -> Result<StoredHead> {
        match self.peek(HEAD_KEY) {
            Err(Error::Weight(WeightError::Missing { .. })) => Ok(StoredHead::Absent),
            _ => Ok(StoredHead::Own),
        }
    }
}

/// Weights in a map; also what a file's loader fills.
#[derive(Debug, Default, Clone)]
pub struct WeightMap {
    tensors: BTreeMap<String, Tensor>,
    /// Weights of an element type that [`DType`] lacks, with the type's name.
    foreign: BTreeMap<String, Foreign>,
    /// True if the embedding's key is that of a head without an embedding in the file.
    pub(super) head_alone: bool,
}

impl WeightMap {
    /// Weights under the tensors' own names. Of two with one name the later stays.
    pub fn from_tensors(tensors: Vec<Tensor>) -> Self {
        let tensors = tensors.into_iter().map(|t| (t.name().to_string(), t)).collect();
        Self { tensors, ..Self::default() }
    }

    /// All that is left in a loader, weights of foreign types among it.
    ///
    /// # Errors
    /// Those of taking a weight.
    pub(crate) fn take_all(loader: &mut dyn WeightLoader) -> Result<Self> {
        let mut all = Self::default();
        for key in loader.remaining_keys() {
            match loader.take(&key) {
                Ok(tensor) => all.insert(tensor),
                Err(Error::Weight(WeightError::Type { found, advice, .. })) => {
                    all.insert_foreign(&key, Foreign { name: found, advice })
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The same weights, with bytes that stay in memory once somebody asks for that.
    pub(crate) fn kept(mut self) -> Self {
        self.tensors = self.tensors.into_iter().map(|(key, tensor)| (key, kept(tensor))).collect();
        self
    }

    /// A weight that was not taken.
    pub(super) fn get(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    /// Gives the weight `from` the key `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(tensor) = self.tensors.remove(from) {
            self.insert(tensor.renamed(to));
        } else if let Some(foreign) = self.foreign.remove(from) {
            self.insert_foreign(to, foreign);
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.tensors.contains_key(key) || self.foreign.contains_key(key)
    }

    pub(crate) fn insert(&mut self, tensor: Tensor) {
        self.tensors.insert(tensor.name().to_string(), tensor);
    }

    /// Keeps what a file holds under `key`: a tensor, or an element type that no weight here may have.
    pub(crate) fn insert_read(&mut self, key: &str, read: Result<Tensor, Foreign>) {
        match read {
            Ok(tensor) => self.insert(tensor),
            Err(foreign) => self.insert_foreign(key, foreign),
        }
    }

    pub(super) fn insert_foreign(&mut self, key: &str, foreign: Foreign) {
        self.foreign.insert(key.to_string(), foreign);
    }

    /// Takes over every weight of another map.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.tensors.append(&mut other.tensors);
        self.foreign.append(&mut other.foreign);
    }

    /// Takes out the weights whose keys are `wanted`.
    pub(crate) fn split_off(&mut self, wanted: impl Fn(&str) -> bool) -> Self {
        Self {
            tensors: self.tensors.extract_if(.., |key, _| wanted(key)).collect(),
            foreign: self.foreign.extract_if(.., |key, _| wanted(key)).collect(),
            head_alone: false,
        }
    }

    fn absent(&self, key: &str) -> Error {
        match self.foreign.get(key) {
            Some(Foreign { name, advice }) => {
                Error::Weight(WeightError::Type { name: key.to_string(), found: name.clone(), advice: advice.clone() })
            }
            None => Error::Weight(WeightError::Missing { name: key.to_string(), nearest: nearest(key, self.tensors.keys()) }),
        }
    }
}

impl WeightLoader for WeightMap {
    fn len(&self) -> usize {
        self.tensors.len() + self.foreign.len()
    }

    fn peek(&self, key: &str) -> Result<TensorInfo<'_>> {
        match self.tensors.get(key) {
            Some(tensor) => Ok(TensorInfo { dtype: tensor.dtype(), shape: tensor.shape() }),
            None => Err(self.absent(key)),
        }
    }

    fn take(&mut self, key: &str) -> Result<Tensor> {
        self.tensors.remove(key).ok_or_else(|| self.absent(key))
    }

    fn remaining_keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.tensors.keys().chain(self.foreign.keys()).cloned().collect();
        keys.sort_unstable();
        keys
    }

    fn arch_hint(&self) -> Option<&str> {
        None
    }

    fn stored_head(&self) -> Result<StoredHead> {
        self.compare_head()
    }
}

/// The key at the smallest edit distance, if it is near enough to be a likely slip (a third of the length).
pub(crate) fn nearest<'a>(wanted: &str, keys: impl Iterator<Item = &'a String>) -> Option<String> {
    let limit = 3.max(wanted.len() / 3);
    keys.filter(|key| key.len().abs_diff(wanted.len()) <= limit)
        .map(|key| (edit_distance(wanted.as_bytes(), key.as_bytes()), key))
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, key)| key.clone())
}

/// Levenshtein's distance in bytes.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
