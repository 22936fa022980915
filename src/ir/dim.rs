//! Sizes that may still be symbols, and the bindings of symbols.

use std::{collections::BTreeMap, fmt};

use crate::{Error, Result};

/// The name of a size that is known only when a graph is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub &'static str);

/// The symbols that Gemma graphs use.
pub mod sym {
    use super::Symbol;

    /// Sequences in a run, `B`. Graphs are built for a number of sequences: a binding of it is checked against that.
    pub const BATCH: Symbol = Symbol("B");
    /// New tokens in a run, `T`.
    pub const SEQ: Symbol = Symbol("T");
    /// Rows of a caller-held cache.
    pub const PAST_SEQ: Symbol = Symbol("P");
    /// Capacity, in rows, of the resident cache of a full-attention layer, `S`.
    pub const CACHE: Symbol = Symbol("S");
    /// Capacity, in rows, of the resident ring of a sliding-window layer.
    pub const RING: Symbol = Symbol("R");
}

/// A size: a number, or a sum of at most two symbols and a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dim {
    symbols: [Option<Symbol>; 2],
    offset: usize,
}

impl Dim {
    /// The number, if no symbol is left.
    pub fn fixed(self) -> Option<usize> {
        self.symbols.iter().all(Option::is_none).then_some(self.offset)
    }

    /// The sum; `None` where more than two symbols would be left, or the number is too large.
    pub fn checked_add(self, other: Dim) -> Option<Dim> {
        let mut symbols = self.symbols().chain(other.symbols());
        let sum = [symbols.next(), symbols.next()];
        let offset = self.offset.checked_add(other.offset)?;
        symbols.next().is_none().then_some(Dim { symbols: sum, offset })
    }

    /// The symbols of the sum, in order.
    pub fn symbols(self) -> impl Iterator<Item = Symbol> {
        self.symbols.into_iter().flatten()
    }

    /// The number of the sum beside its symbols.
    pub fn offset(self) -> usize {
        self.offset
    }

    /// Replaces each symbol by its number; an unbound symbol is an error.
    pub fn bind(self, binding: &DimBinding) -> Result<usize> {
        self.symbols.iter().flatten().try_fold(self.offset, |sum, symbol| {
            let value = binding.get(*symbol).ok_or_else(|| Error::Input {
                name: symbol.0.into(),
                problem: "this size of the graph is symbolic and has no value; give one in the DimBinding".into(),
            })?;
            sum.checked_add(value)
                .ok_or_else(|| Error::Input { name: symbol.0.into(), problem: format!("{sum} + {value} is no size") })
        })
    }
}

impl From<usize> for Dim {
    fn from(offset: usize) -> Self {
        Dim { symbols: [None; 2], offset }
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Dim { symbols: [Some(symbol), None], offset: 0 }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms: Vec<String> = self.symbols.iter().flatten().map(|s| s.0.to_string()).collect();
        if self.offset > 0 || terms.is_empty() {
            terms.push(self.offset.to_string());
        }
        f.write_str(&terms.join("+"))
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Row-major dimensions, outermost first.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// The scalar shape `[]`.
    pub fn scalar() -> Self {
        Shape(Vec::new())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The innermost dimension, if there is one.
    pub fn last(&self) -> Option<Dim> {
        self.0.last().copied()
    }

    /// The same shape with another innermost dimension.
    pub fn with_last(&self, last: impl Into<Dim>) -> Self {
        let mut dims = self.0.clone();
        if let Some(d) = dims.last_mut() {
            *d = last.into();
        }
        Shape(dims)
    }

    /// The numbers, if no symbol is left.
    pub fn fixed(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.fixed()).collect()
    }

    /// Replaces every symbol.
    ///
    /// # Errors
    /// [`Error::Input`] for a symbol without a value, and for more elements than any device could hold (2⁴⁸) or an
    /// address of this host counts.
    pub fn bind(&self, binding: &DimBinding) -> Result<Vec<usize>> {
        let dims: Vec<usize> = self.0.iter().map(|d| d.bind(binding)).collect::<Result<_>>()?;
        if counts(&dims, usize::BITS) {
            return Ok(dims);
        }
        let most = if usize::BITS > MOST_BITS { format!("2^{MOST_BITS}") } else { format!("2^{} - 1", usize::BITS) };
        Err(Error::Input { name: "sizes".into(), problem: format!("{dims:?} has more than {most} elements") })
    }
}

/// No device has room for more than two to the power of this elements.
const MOST_BITS: u32 = 48;

/// Returns `true` if addresses of so many bits count the elements of a value with these dimensions, and a device may
/// have as many.
fn counts(dims: &[usize], address: u32) -> bool {
    let most = if address > MOST_BITS { 1 << MOST_BITS } else { (1 << address) - 1 };
    let elements = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim as u64));
    elements.is_some_and(|elements| elements <= most)
}

impl<D: Into<Dim>, const N: usize> From<[D; N]> for Shape {
    fn from(dims: [D; N]) -> Self {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(dims.iter().map(|&d| d.into()).collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(Dim::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Values for symbols.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DimBinding(BTreeMap<Symbol, usize>);

impl DimBinding {
    /// Nothing bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds `symbol`.
    pub fn with(mut self, symbol: Symbol, value: usize) -> Self {
        self.0.insert(symbol, value);
        self
    }

    /// Batch B and new tokens T of a prefill graph. B is a number in every graph, and so checked against it, not bound.
    pub fn batch_seq(batch: usize, seq: usize) -> Self {
        Self::new().with(sym::BATCH, batch).with(sym::SEQ, seq)
    }

    /// Batch B and rows P of the caller's cache of a decode graph.
    pub fn batch_past_seq(batch: usize, past: usize) -> Self {
        Self::new().with(sym::BATCH, batch).with(sym::PAST_SEQ, past)
    }

    /// The symbols with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Symbol, usize)> {
        self.0.iter().map(|(symbol, value)| (*symbol, *value))
    }

    /// The value of `symbol`.
    pub fn get(&self, symbol: Symbol) -> Option<usize> {
        self.0.get(&symbol).copied()
    }
}

#[cfg(test)]
mod tests;
