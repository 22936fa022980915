//! The order in which the centroids of a drafter's head have the tokens.

use std::sync::Arc;

use crate::{
    Error, Result,
    gemma::{GemmaDrafterConfig, ORDERED_EMBED, TOKEN_ORDER},
    weights::{Tensor, TensorSource},
};

/// Tokens by centroid.
#[derive(Debug, Clone)]
pub(crate) struct TokenOrder {
    /// `[C, V/C]`, a permutation.
    tokens: Arc<[u32]>,
    /// V/C.
    of_each: usize,
}

impl TokenOrder {
    /// From the tensor `[V, 2]` of 64-bit integers as pairs.
    pub(crate) fn read(tensor: &Tensor, config: &GemmaDrafterConfig) -> Result<Self> {
        let vocab = config.layers.vocab_size;
        let wrong = |problem: String| Err(Error::Config(format!("weight '{TOKEN_ORDER}': {problem}")));
        if tensor.shape() != [vocab, 2] || tensor.byte_len() != vocab * 8 {
            return wrong(format!("found {:?}, expected {vocab} integers of 64 bits", tensor.shape()));
        }
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_bytes(0, &mut bytes)?;
        let mut tokens = Vec::with_capacity(vocab);
        let mut seen = vec![false; vocab];
        for token in bytemuck::pod_collect_to_vec::<u8, u64>(&bytes) {
            match usize::try_from(token).ok().and_then(|token| seen.get_mut(token)) {
                Some(seen) if !*seen => *seen = true,
                _ => return wrong(format!("{token} is there twice or is no token, expected each of {vocab} once")),
            }
            tokens.push(token as u32);
        }
        Ok(Self { tokens: tokens.into(), of_each: vocab / config.centroids.map_or(1, |centroids| centroids.num_centroids) })
    }

    /// The rows of `embed` `[V, D]` in this order.
    pub(crate) fn ordered(&self, embed: Tensor) -> Tensor {
        let dtype = embed.dtype();
        let shape = embed.shape().to_vec();
        let row = embed.byte_len() / self.tokens.len().max(1);
        let source = OrderedRows { embed, tokens: self.tokens.clone(), row: row.max(1) };
        Tensor::new(ORDERED_EMBED, dtype, shape, Arc::new(source), 0)
    }

    /// The token of the largest of the logits `[k, V/C]` of the tokens of the centroids that `chosen` `[2, k]` begins
    /// with; of equals the first.
    pub(crate) fn likeliest(&self, logits: &[f32], chosen: &[f32]) -> Option<u32> {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))?.0;
        let centroid = *chosen.get(best / self.of_each)? as usize;
        self.tokens.get(centroid * self.of_each + best % self.of_each).copied()
    }
}

/// Rows of a matrix in another order.
struct OrderedRows {
    embed: Tensor,
    tokens: Arc<[u32]>,
    /// Bytes of a row.
    row: usize,
}

impl TensorSource for OrderedRows {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let row = at / self.row;
            let within = at % self.row;
            let (part, after) = rest.split_at_mut(rest.len().min(self.row - within));
            let token = self.tokens.get(row).copied().unwrap_or(0) as usize;
            self.embed.read_bytes(token * self.row + within, part)?;
            at += part.len();
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
