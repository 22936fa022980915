//! Fusions: ops that another op's kernel computes on the way.
//!
//! Lowering finds them (`lower/fuse`), [`Emit`](super::emit::Emit) carries them, and the op that owns the kernel
//! matches on them.

use super::ops::{RmsNorm, Rope};

/// An op, or several, that the kernel of another op computes too. `V` names a value: a node while fusions are found, an
/// argument of the kernel when it is emitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Fusion<V> {
    /// Of a product: a second product of the same operand. The epilogue takes both results, as GeGLU does. Its weight.
    Pair(V),
    /// Of a product of one row: more products of the same operand, whose weights follow this one's in memory, in their
    /// order. The results follow each other too and are one output.
    Concatenated(Vec<V>),
    /// Of products: the norm of their operand. The first input is then the operand of the norm.
    NormPrologue(FusedNorm<V>),
    /// Of a norm: a norm of its result, which is the second output.
    SecondNorm(FusedNorm<V>),
    /// Of an attention over one new token: norm and rotation of query and key, and both writes into the caches. The
    /// inputs are then the projected query and the caches before the writes.
    DecodePrologue(DecodePrologue<V>),
    /// Of a product of one row: the maximum of each block of so many neighbouring results, a multiple of 64. They are
    /// the second output: u32 that are ordered as the numbers are; the kernel finds zeros there.
    BlockMaxima(usize),
}

/// A norm within another kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedNorm<V> {
    /// Its attributes.
    pub op: RmsNorm,
    /// Its weight; `None` without one.
    pub gain: Option<V>,
}

/// The ops between the projections and an attention over one new token.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodePrologue<V> {
    /// The projected key.
    pub key: V,
    /// The value.
    pub value: V,
    /// Cosines and sines of the new position.
    pub table: V,
    /// The rotation of query and key.
    pub rope: Rope,
    /// The norms of query and key.
    pub norms: Option<[FusedNorm<V>; 2]>,
}

impl<V> Fusion<V> {
    /// The values that the kernel reads for it.
    pub fn values(&self) -> Vec<&V> {
        match self {
            Self::Pair(weight) => vec![weight],
            Self::Concatenated(weights) => weights.iter().collect(),
            Self::NormPrologue(norm) | Self::SecondNorm(norm) => norm.gain.iter().collect(),
            Self::DecodePrologue(prologue) => prologue.values(),
            Self::BlockMaxima(_) => Vec::new(),
        }
    }

    /// The same with other values, in the order of [`values`](Self::values).
    ///
    /// # Errors
    /// The first of `place`.
    pub fn try_map<W, E>(&self, mut place: impl FnMut(&V) -> Result<W, E>) -> Result<Fusion<W>, E> {
        Ok(match self {
            Self::Pair(weight) => Fusion::Pair(place(weight)?),
            Self::Concatenated(weights) => Fusion::Concatenated(weights.iter().map(place).collect::<Result<_, E>>()?),
            Self::NormPrologue(norm) => Fusion::NormPrologue(norm.try_map(&mut place)?),
            Self::SecondNorm(norm) => Fusion::SecondNorm(norm.try_map(&mut place)?),
            Self::DecodePrologue(prologue) => Fusion::DecodePrologue(prologue.try_map(&mut place)?),
            Self::BlockMaxima(block) => Fusion::BlockMaxima(*block),
        })
    }
}

impl<V> FusedNorm<V> {
    fn try_map<W, E>(&self, place: &mut impl FnMut(&V) -> Result<W, E>) -> Result<FusedNorm<W>, E> {
        Ok(FusedNorm { op: self.op.clone(), gain: self.gain.as_ref().map(place).transpose()? })
    }
}

impl<V> DecodePrologue<V> {
    fn values(&self) -> Vec<&V> {
        let gains = self.norms.iter().flatten().filter_map(|norm| norm.gain.as_ref());
        [&self.key, &self.value, &self.table].into_iter().chain(gains).collect()
    }

    fn try_map<W, E>(&self, place: &mut impl FnMut(&V) -> Result<W, E>) -> Result<DecodePrologue<W>, E> {
        Ok(DecodePrologue {
            key: place(&self.key)?,
            value: place(&self.value)?,
            table: place(&self.table)?,
            rope: self.rope.clone(),
            norms: match &self.norms {
                Some([query, key]) => Some([query.try_map(place)?, key.try_map(place)?]),
                None => None,
            },
        })
    }
}
