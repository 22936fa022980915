//! How far a kernel may be from the reference in a case of its op.

/// f32's unit of the last place at 1.
pub(crate) const EPS: f64 = f32::EPSILON as f64;

/// The magnitude that an error is measured against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// The result itself.
    Result,
    /// The op on the absolute values of its operands: Σ|x·w| for a product.
    Absolute,
    /// The largest absolute value of operand `n`.
    Largest(usize),
}

/// |found − expected| ≤ relative · scale + absolute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Part of the scale that an error may be.
    pub relative: f64,
    /// The scale.
    pub scale: Scale,
    /// An error that is allowed besides.
    pub absolute: f64,
}

impl Tolerance {
    /// The same bits: the op moves elements, widens them without rounding, rounds them to nearest in the same way, or
    /// chooses one.
    pub const EXACT: Self = Self::new(0.0, Scale::Result, 0.0);

    pub(crate) const fn new(relative: f64, scale: Scale, absolute: f64) -> Self {
        Self { relative, scale, absolute }
    }

    /// The relative error of a sum of `n` products against Σ|products|, in any order: at most n·ε, and about √n·ε with
    /// rounding errors that are independent (Higham & Mary 2019).
    pub(crate) fn of_sum(n: usize) -> f64 {
        4.0 * (n as f64).sqrt().max(1.0) * EPS
    }
}
