//! One row of the table of weights.

use crate::gemma::{GemmaArch, GemmaConfig, family::Family};

/// A size of a weight by the configuration and the weight's number: of its layer, or among those of one kind.
type Shape = fn(&GemmaConfig, usize) -> Vec<usize>;

/// The kind of arithmetic that a weight takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightKind {
    /// The gain of a norm. GGUF files have 1 added where the family counts gains from 1.
    Norm,
    /// A matrix that is multiplied with a vector.
    Matrix,
    /// A table whose rows are looked up.
    Table,
    /// The matrices of all experts.
    Experts,
    /// Factors that are multiplied in, one by one.
    Factor,
}

/// llama.cpp's name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gguf {
    /// Of a tensor.
    Tensor(&'static str),
    /// Of one tensor that stacks the matrices of all numbers.
    Stack(&'static str),
    /// llama.cpp has no such tensor.
    None,
}

/// Everything about one weight.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// The name in this crate.
    pub(super) name: &'static str,
    /// The name in Hugging Face's checkpoints, without the prefix of the checkpoint and of the layer.
    pub(super) hugging_face: &'static str,
    /// That name in families that have another.
    pub(super) renamed: &'static [(GemmaArch, &'static str)],
    /// The name in GGUF files, without the prefix of the layer.
    pub(super) gguf: Gguf,
    pub(super) kind: WeightKind,
    pub(super) shape: Shape,
    /// The families whose files may hold the weight.
    pub(super) families: fn(&Family) -> bool,
    /// True if a model of these families reads the weight with this number.
    pub(super) present: fn(&GemmaConfig, usize) -> bool,
    /// How many there are at most, in rows with a number; `{}` stands for it in names.
    pub(super) most: usize,
    /// The first number in foreign names.
    pub(super) first: usize,
}

impl Row {
    const fn new(kind: WeightKind, name: &'static str, hugging_face: &'static str, gguf: Gguf, shape: Shape) -> Self {
        Self { name, hugging_face, renamed: &[], gguf, kind, shape, families: |_| true, present: |_, _| true, most: 1, first: 0 }
    }

    /// The gain of a norm of the stream, `[D]`.
    pub(super) const fn norm(name: &'static str, hugging_face: &'static str, gguf: &'static str) -> Self {
        Self::new(WeightKind::Norm, name, hugging_face, Gguf::Tensor(gguf), |config, _| vec![config.hidden_size])
    }

    /// A matrix `[out, in]`.
    pub(super) const fn matrix(name: &'static str, hugging_face: &'static str, gguf: &'static str, shape: Shape) -> Self {
        Self::new(WeightKind::Matrix, name, hugging_face, Gguf::Tensor(gguf), shape)
    }

    /// A table `[rows, width]`.
    pub(super) const fn table(name: &'static str, hugging_face: &'static str, gguf: &'static str, shape: Shape) -> Self {
        Self::new(WeightKind::Table, name, hugging_face, Gguf::Tensor(gguf), shape)
    }

    /// Matrices `[E, out, in]`.
    pub(super) const fn experts(name: &'static str, hugging_face: &'static str, gguf: &'static str, shape: Shape) -> Self {
        Self::new(WeightKind::Experts, name, hugging_face, Gguf::Tensor(gguf), shape)
    }

    /// Factors.
    pub(super) const fn factor(name: &'static str, hugging_face: &'static str, gguf: &'static str, shape: Shape) -> Self {
        Self::new(WeightKind::Factor, name, hugging_face, Gguf::Tensor(gguf), shape)
    }

    /// Only files of these families may hold it.
    pub(super) const fn of(self, families: fn(&Family) -> bool) -> Self {
        Self { families, ..self }
    }

    /// Only these models read it.
    pub(super) const fn when(self, present: fn(&GemmaConfig, usize) -> bool) -> Self {
        Self { present, ..self }
    }

    /// Another shape.
    pub(super) const fn sized(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Another name in Hugging Face's checkpoints of some families.
    pub(super) const fn renamed(self, renamed: &'static [(GemmaArch, &'static str)]) -> Self {
        Self { renamed, ..self }
    }

    /// One tensor in GGUF files for all numbers.
    pub(super) const fn stacked(self, name: &'static str) -> Self {
        Self { gguf: Gguf::Stack(name), ..self }
    }

    /// No name in GGUF files.
    pub(super) const fn not_in_gguf(self) -> Self {
        Self { gguf: Gguf::None, ..self }
    }

    /// At most so many of them, numbered from `first` in foreign names.
    pub(super) const fn numbered(self, most: usize, first: usize) -> Self {
        Self { most, first, ..self }
    }

    /// Hugging Face's name in `arch`.
    pub(super) fn hugging_face(&self, arch: GemmaArch) -> Option<&'static str> {
        let renamed = self.renamed.iter().find(|(family, _)| *family == arch).map(|(_, name)| *name);
        (self.families)(&arch.family()).then_some(renamed.unwrap_or(self.hugging_face))
    }

    /// llama.cpp's name in `arch`.
    pub(super) fn gguf(&self, arch: GemmaArch) -> Option<&'static str> {
        let family = arch.family();
        match self.gguf {
            Gguf::Tensor(name) if !family.architectures.is_empty() && (self.families)(&family) => Some(name),
            _ => None,
        }
    }
}
