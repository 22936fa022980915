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

    /// This tolerance of sums of `n` products, where operands are rounded to f16.
    pub(crate) fn of_half_products(self, n: usize) -> Self {
        // Each operand is off by 2⁻¹¹ of itself at most and so a product by 2⁻¹⁰; over n products whose errors are
        // independent that is 2⁻¹⁰/√n of Σ|products|, here with room for 7 standard deviations of operands in ±1. Below
        // 2⁻¹⁴ f16 rounds to multiples of 2⁻²⁴.
        let n = n as f64;
        let rounding = f64::min(1.0, 4.0 / n.sqrt()) * f64::exp2(-10.0);
        Self::new(self.relative + rounding, Scale::Absolute, n * f64::exp2(-24.0))
    }

    /// The relative error of a sum of `n` products against Σ|products|, in any order: at most n·ε, and about √n·ε with
    /// rounding errors that are independent (Higham & Mary 2019).
    pub(crate) fn of_sum(n: usize) -> f64 {
        4.0 * (n as f64).sqrt().max(1.0) * EPS
    }
}
