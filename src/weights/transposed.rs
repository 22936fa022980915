//! A matrix read with rows and columns exchanged.

use std::sync::Arc;

use super::{Tensor, TensorSource};
use crate::Result;

/// The tensor `[N, K]`, of elements of `size` bytes, as `[K, N]`.
pub(crate) fn transposed(matrix: Tensor, size: usize) -> Tensor {
    let [rows, columns] = [0, 1].map(|axis| matrix.shape().get(axis).copied().unwrap_or(1));
    transposed_each(matrix, [rows, columns], size, vec![columns, rows])
}

/// The tensor as matrices `[rows, columns]` of pieces of `size` bytes, one after the other, each transposed; as a
/// tensor of `shape`, which has as many elements.
pub(crate) fn transposed_each(tensor: Tensor, [rows, columns]: [usize; 2], size: usize, shape: Vec<usize>) -> Tensor {
    let name = tensor.name().to_string();
    let dtype = tensor.dtype();
    Tensor::new(name, dtype, shape, Arc::new(Transposed { tensor, rows, columns, size }), 0)
}

/// The pieces of each matrix `[rows, columns]` of a tensor in the order of `[columns, rows]`.
struct Transposed {
    tensor: Tensor,
    rows: usize,
    columns: usize,
    /// Bytes of a piece.
    size: usize,
}

impl TensorSource for Transposed {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let matrix = self.rows * self.columns * self.size;
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let skip = at % matrix;
            let count = rest.len().min(matrix - skip);
            let (now, later) = rest.split_at_mut(count);
            self.read_one(at - skip, skip, now)?;
            (at, rest) = (at + count, later);
        }
        Ok(())
    }
}

impl Transposed {
    /// Reads bytes of the matrix that begins at `matrix`, `start` of its own and later ones: of each of its rows the
    /// columns that `out` touches.
    fn read_one(&self, matrix: usize, start: usize, out: &mut [u8]) -> Result<()> {
        let size = self.size;
        // Bytes of one row of the result.
        let width = self.rows * size;
        let end = start + out.len();
        let first = start / width;
        let last = (end - 1) / width;
        debug_assert!(last < self.columns, "a read ends inside the matrix");
        let mut part = vec![0u8; (last + 1 - first) * size];
        for row in 0..self.rows {
            self.tensor.read_bytes(matrix + (row * self.columns + first) * size, &mut part)?;
            for (column, piece) in (first..=last).zip(part.chunks_exact(size)) {
                let begin = column * width + row * size;
                // A read may begin or end within a piece.
                let from = start.saturating_sub(begin).min(size);
                let to = end.saturating_sub(begin).min(size);
                if from < to {
                    out[begin + from - start..begin + to - start].copy_from_slice(&piece[from..to]);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
