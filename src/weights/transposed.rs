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
mod tests {
    use super::*;
    use crate::{
        Error,
        error::WeightError,
        quant::DType,
        weights::{WeightLoader, WeightMap},
    };

    fn loader() -> WeightMap {
        let bytes: Vec<u8> = (0..5 * 7 * 2).collect();
        let matrix = Tensor::from_bytes("m", DType::BF16, vec![5, 7], bytes).unwrap();
        let numbers: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let wide = Tensor::from_f32("w", vec![2, 3], &numbers);
        WeightMap::from_tensors(vec![matrix, wide, Tensor::from_f32("v", vec![6], &numbers)])
    }

    #[test]
    fn a_transposed_matrix_has_its_elements_exchanged_and_its_type_kept() {
        let tensor = loader().take_transposed("m").unwrap();
        assert_eq!((tensor.dtype(), tensor.shape(), tensor.byte_len()), (DType::BF16, &[7, 5][..], 70));
        let mut all = vec![0; 70];
        tensor.read_bytes(0, &mut all).unwrap();
        for (k, n) in (0..7).flat_map(|k| (0..5).map(move |n| (k, n))) {
            let from = (n * 7 + k) as u8 * 2;
            assert_eq!(all[(k * 5 + n) * 2..][..2], [from, from + 1], "{k} {n}");
        }
        // Any part, also one that begins and ends within an element.
        for (start, len) in [(0, 1), (3, 9), (11, 40), (69, 1), (5, 0)] {
            let mut part = vec![0; len];
            tensor.read_bytes(start, &mut part).unwrap();
            assert_eq!(part, all[start..start + len], "{start} {len}");
        }
        assert_eq!(loader().take_transposed("w").unwrap().to_f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn matrices_of_pieces_are_transposed_each() {
        // Two matrices [2, 3] of pieces of two bytes.
        let tensor = Tensor::from_bytes("m", DType::F16, vec![2, 2, 3], (0..24).collect()).unwrap();
        let tensor = transposed_each(tensor, [2, 3], 2, vec![2, 3, 2]);
        let expected: Vec<u8> = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].into_iter().flat_map(|x| [2 * x, 2 * x + 1]).collect();
        for (start, len) in [(0, 24), (1, 3), (5, 14), (12, 12), (23, 1)] {
            let mut part = vec![0; len];
            tensor.read_bytes(start, &mut part).unwrap();
            assert_eq!(part, expected[start..start + len], "{start} {len}");
        }
    }

    #[test]
    fn what_is_no_matrix_is_refused_and_stays() {
        let mut loader = loader();
        let text = loader.take_transposed("v").unwrap_err().to_string();
        assert!(text.contains("'v'") && text.contains("[6]"), "{text}");
        assert_eq!(loader.take("v").unwrap().len(), 6);
        assert!(matches!(loader.take_transposed("v"), Err(Error::Weight(WeightError::Missing { .. }))));
    }
}
