//! Findings about the kernels of one device, as data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How safe the kernels of an op must be, because one of those made for the device was wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Without cooperative matrices.
    NoMatrices,
    /// Without subgroup operations as well.
    Portable,
}

impl Fallback {
    /// The words used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Fallback::NoMatrices => "without cooperative matrices",
            Fallback::Portable => "portable",
        }
    }
}

/// Kernels that compute the same, of which a device may be faster with one or the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alternatives {
    /// The kernels' shader and the sizes that it works on.
    pub work: String,
    /// How many there are, at least two. The first is the one that an estimate prefers.
    pub count: usize,
}

/// Findings of the self-test and of timings on one device with one driver: which kernels are right, which were
/// replaced, which are fastest.
///
/// The default knows nothing: every op takes the kernel that an estimate prefers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelChoices {
    fallbacks: BTreeMap<String, Fallback>,
    fastest: BTreeMap<String, usize>,
    right: BTreeSet<u64>,
}

impl KernelChoices {
    /// Returns `true` if nothing is known.
    pub fn is_empty(&self) -> bool {
        self.fallbacks.is_empty() && self.fastest.is_empty() && self.right.is_empty()
    }

    /// How safe the kernels of the op called `op` must be; `None` where none of them was wrong.
    pub fn fallback(&self, op: &str) -> Option<Fallback> {
        self.fallbacks.get(op).copied()
    }

    /// The ops whose kernels were replaced, by name.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&str, Fallback)> {
        self.fallbacks.iter().map(|(op, fallback)| (op.as_str(), *fallback))
    }

    /// Which of some [`Alternatives`] was fastest, by what they work on; nothing where none was timed.
    pub fn fastest(&self) -> impl Iterator<Item = (&str, usize)> {
        self.fastest.iter().map(|(work, chosen)| (work.as_str(), *chosen))
    }

    /// How many kernels were found right.
    pub fn tested(&self) -> usize {
        self.right.len()
    }

    /// The same without timings: every op takes its first choice.
    pub fn untimed(&self) -> Self {
        Self { fastest: BTreeMap::new(), ..self.clone() }
    }

    /// The one of `alternatives` to take, by its number.
    pub(crate) fn of(&self, alternatives: &Alternatives) -> usize {
        self.fastest.get(&alternatives.work).copied().filter(|chosen| *chosen < alternatives.count).unwrap_or(0)
    }

    pub(crate) fn is_timed(&self, alternatives: &Alternatives) -> bool {
        self.fastest.contains_key(&alternatives.work)
    }

    pub(crate) fn take(&mut self, alternatives: &Alternatives, chosen: usize) {
        self.fastest.insert(alternatives.work.clone(), chosen);
    }

    /// Adds later findings.
    pub(crate) fn learn(&mut self, later: Self) {
        for (op, fallback) in later.fallbacks {
            let known = self.fallbacks.entry(op).or_insert(fallback);
            *known = (*known).max(fallback);
        }
        self.fastest.extend(later.fastest);
        self.right.extend(later.right);
    }

    pub(crate) fn fall_back(&mut self, op: &str, to: Fallback) {
        self.fallbacks.insert(op.to_owned(), to);
    }

    pub(crate) fn is_right(&self, kernel: u64) -> bool {
        self.right.contains(&kernel)
    }

    pub(crate) fn found_right(&mut self, kernel: u64) {
        self.right.insert(kernel);
    }
}

#[cfg(test)]
mod tests;
