//! Rows of an embedder's table as the text model takes them, computed the first time that one is read.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::{Tensor, TensorSource};
use crate::{Result, quant::DType};

/// The weights of one embedder (Gemma 3n): a row of its table becomes `norm(W · (norm(row) ∘ γ))`.
pub(crate) struct EmbedderWeights {
    /// Rows `[N, E]`.
    pub(crate) table: Tensor,
    /// γ `[E]`.
    pub(crate) gain: Tensor,
    /// W `[D, E]`.
    pub(crate) projection: Tensor,
    /// Added under the root of both norms.
    pub(crate) eps: f64,
}

/// The rows of all embedders, one's after the other's, `[rows, width]` in f32. Their sums are taken in f64.
pub(crate) fn embedded(name: &str, [rows, width]: [usize; 2], embedders: Vec<EmbedderWeights>) -> Tensor {
    let source = Embedded { embedders, computed: OnceLock::new() };
    Tensor::new(name, DType::F32, vec![rows, width], Arc::new(source), 0)
}

struct Embedded {
    embedders: Vec<EmbedderWeights>,
    computed: OnceLock<Vec<f32>>,
}

impl TensorSource for Embedded {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let values = match self.computed.get() {
            Some(values) => values,
            None => {
                let rows = self.embedders.iter().map(EmbedderWeights::rows).collect::<Result<Vec<_>>>()?.concat();
                self.computed.get_or_init(|| rows)
            }
        };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

impl EmbedderWeights {
    fn rows(&self) -> Result<Vec<f32>> {
        let gain = self.gain.to_f32()?;
        let width = gain.len().max(1);
        let table = self.table.to_f32()?;
        let mut normed: Vec<f64> = Vec::with_capacity(table.len());
        for row in table.chunks_exact(width) {
            let root = self.root(row.iter().map(|x| f64::from(*x)), width);
            normed.extend(row.iter().zip(&gain).map(|(x, gain)| f64::from(*x) / root * f64::from(*gain)));
        }
        let out = self.projection.shape().first().copied().unwrap_or(0);
        let column = |n: usize| -> Result<Vec<f64>> {
            let mut weight = vec![0.0; width];
            self.projection.read_f32(n * width, &mut weight)?;
            let product = |row: &[f64]| row.iter().zip(&weight).map(|(x, w)| x * f64::from(*w)).sum();
            Ok(normed.chunks_exact(width).map(product).collect())
        };
        let columns = (0..out).into_par_iter().map(column).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::with_capacity(normed.len() / width * out);
        for row in 0..normed.len() / width {
            let root = self.root(columns.iter().map(|column| column[row]), out);
            rows.extend(columns.iter().map(|column| (column[row] / root) as f32));
        }
        Ok(rows)
    }

    /// The root of the mean of squares.
    fn root(&self, row: impl Iterator<Item = f64>, count: usize) -> f64 {
        (row.map(|x| x * x).sum::<f64>() / count as f64 + self.eps).sqrt()
    }
}

#[cfg(test)]
mod tests;
