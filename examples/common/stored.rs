//! Random weights that are said to be packed: right shapes, made at once, for measurements and for lowering.

use std::{collections::HashMap, sync::Arc};

use gemmaflow::{
    ir::{DType, Packed},
    weights::{Tensor, TensorInfo, TensorSource, WeightLoader, WeightMap},
};
use half::f16;

/// Bytes of the pattern that a matrix repeats, about.
const PATTERN: usize = 1 << 20;

/// The weights of a map, its matrices and stacks of them in a packed format: those that packing a checkpoint packs. In
/// Q8_0 and Q4_0, whose blocks begin with their factor, the numbers are as large as the map's random ones.
pub struct Stored<'a> {
    weights: &'a mut WeightMap,
    format: Packed,
    /// By the columns of a matrix.
    patterns: HashMap<usize, Arc<Pattern>>,
}

impl<'a> Stored<'a> {
    pub fn new(weights: &'a mut WeightMap, format: Packed) -> Self {
        Self { weights, format, patterns: HashMap::new() }
    }

    fn packs(&self, info: &TensorInfo<'_>) -> bool {
        matches!(info.shape, [_, row] | [_, _, row] if row.is_multiple_of(self.format.block_elements()))
    }

    fn pattern(&mut self, columns: usize) -> Arc<Pattern> {
        let format = self.format;
        self.patterns.entry(columns).or_insert_with(|| Arc::new(Pattern::new(format, columns))).clone()
    }
}

impl WeightLoader for Stored<'_> {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn peek(&self, key: &str) -> gemmaflow::Result<TensorInfo<'_>> {
        let info = self.weights.peek(key)?;
        let dtype = if self.packs(&info) { DType::Packed(self.format) } else { info.dtype };
        Ok(TensorInfo { dtype, ..info })
    }

    fn take(&mut self, key: &str) -> gemmaflow::Result<Tensor> {
        let packs = self.packs(&self.weights.peek(key)?);
        let tensor = self.weights.take(key)?;
        let columns = tensor.shape().last().copied().unwrap_or(0);
        if !packs {
            return Ok(tensor);
        }
        Ok(Tensor::new(key, DType::Packed(self.format), tensor.shape().to_vec(), self.pattern(columns), 0))
    }

    fn remaining_keys(&self) -> Vec<String> {
        self.weights.remaining_keys()
    }

    fn arch_hint(&self) -> Option<&str> {
        None
    }
}

/// Blocks of random bytes, again and again.
struct Pattern(Vec<u8>);

impl Pattern {
    /// Numbers in about ±√(3/columns), as `random_weights` has them: all of Q8_0's 8 bits and Q4_0's 4 bits as they
    /// come.
    fn new(format: Packed, columns: usize) -> Self {
        let largest = if format.name() == "Q8_0" { 128.0 } else { 8.0 };
        let factor = f16::from_f32((3.0 / columns as f32).sqrt() / largest).to_le_bytes();
        let bytes = format.block_bytes();
        let mut state = 0x9E37_79B9_u32;
        let mut blocks: Vec<u8> = (0..PATTERN / bytes * bytes).map(|_| noise(&mut state)).collect();
        for block in blocks.chunks_exact_mut(bytes) {
            block[..2].copy_from_slice(&factor);
        }
        Self(blocks)
    }
}

fn noise(state: &mut u32) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    (*state >> 24) as u8
}

impl TensorSource for Pattern {
    fn read(&self, offset: u64, out: &mut [u8]) -> gemmaflow::Result<()> {
        let Self(blocks) = self;
        let (mut at, mut rest) = (offset as usize % blocks.len(), out);
        while !rest.is_empty() {
            let count = rest.len().min(blocks.len() - at);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&blocks[at..at + count]);
            (at, rest) = (0, later);
        }
        Ok(())
    }
}
