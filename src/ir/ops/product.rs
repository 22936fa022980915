//! Products with stored weights, on host arrays.

use std::{borrow::Cow, ops::Range};

use super::MatMul;
use crate::{
    Result,
    ir::{Data, Value},
    weights::Tensor,
};

/// The most rows of x that read a weight as it is stored; more read it widened.
const FEW: usize = 4;

/// Bytes of a weight that a thread has in its cache at a time.
const BYTES: usize = 1 << 16;

/// Rows of a weight that are widened at a time, for many rows of x.
const WIDENED: usize = 64;

/// A matrix `[N, K]` that rows of f32 are multiplied by.
pub(super) struct Matrix<'a> {
    weight: &'a Value,
    /// The elements, where they are no stored weight.
    host: Cow<'a, [f32]>,
    inner: usize,
}

/// Memory that a thread keeps from one piece of work to the next.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    wide: Vec<f32>,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(weight: &'a Value) -> Result<Self> {
        let host = match &weight.data {
            Data::Stored(_) => Cow::default(),
            _ => weight.to_f32()?,
        };
        Ok(Self { weight, host, inner: weight.shape.last().copied().unwrap_or(1) })
    }

    /// Has the weight in memory, for the products to come.
    pub(super) fn keep(&self) -> Result<()> {
        match &self.weight.data {
            Data::Stored(tensor) => tensor.keep(&|| Ok(())),
            _ => Ok(()),
        }
    }

    /// Rows of the weight that are worth the work of a thread, for `rows` rows of x.
    pub(super) fn tile(&self, rows: usize) -> usize {
        let row = self.weight.dtype().row_bytes(self.inner).unwrap_or(1).max(1) as usize;
        if rows > FEW { WIDENED } else { (BYTES / row).max(1) }
    }

    /// `out[m, n] = Σₖ x[m, k] · W[n, k]` for the rows n of `part`: a function of these numbers, whatever the rows
    /// beside them.
    pub(super) fn multiply(&self, x: &[f32], part: Range<usize>, scratch: &mut Scratch) -> Result<Vec<f32>> {
        let inner = self.inner;
        let columns = part.len();
        let rows = x.len() / inner.max(1);
        let mut out = vec![0.0; rows * columns];
        if rows <= FEW {
            self.few(x, part, scratch, &mut out)?;
            return Ok(transposed(out, columns, rows));
        }
        let wide = match &self.weight.data {
            Data::Stored(tensor) => {
                scratch.wide.resize(columns * inner, 0.0);
                tensor.read_f32(part.start * inner, &mut scratch.wide)?;
                &scratch.wide[..]
            }
            _ => &self.host[part.start * inner..][..columns * inner],
        };
        MatMul::multiply(&mut out, x, wide, [rows, inner, columns], (1, inner as isize));
        Ok(out)
    }

    /// `out[n, m]`.
    fn few(&self, x: &[f32], part: Range<usize>, scratch: &mut Scratch, out: &mut [f32]) -> Result<()> {
        match &self.weight.data {
            Data::Stored(tensor) => {
                let row = row_bytes(tensor, self.inner);
                let stored = tensor.bytes(part.start * row, part.len() * row, &mut scratch.bytes)?;
                tensor.rows()?.multiply(stored, x, self.inner, out);
            }
            _ => {
                let own = &self.host[part.start * self.inner..part.end * self.inner];
                crate::quant::rows::F32.multiply(bytemuck::cast_slice(own), x, self.inner, out);
            }
        }
        Ok(())
    }
}

fn row_bytes(tensor: &Tensor, inner: usize) -> usize {
    let (elements, bytes) = tensor.dtype().block();
    inner / elements * bytes
}

/// `[n, m]` as `[m, n]`.
fn transposed(from: Vec<f32>, n: usize, m: usize) -> Vec<f32> {
    if m == 1 {
        return from;
    }
    (0..m).flat_map(|row| (0..n).map(move |column| (column, row))).map(|(column, row)| from[column * m + row]).collect()
}
