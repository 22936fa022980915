//! Gate and up projections of experts that a file holds as two stacks.

use std::sync::Arc;

use crate::{
    Error, Result,
    error::WeightError,
    gemma::gguf_key,
    weights::{Tensor, TensorSource, WeightLoader, WeightMap},
};

const GATE: &str = ".ffn_gate_exps.weight";
const UP: &str = ".ffn_up_exps.weight";
const BOTH: &str = ".ffn_gate_up_exps.weight";

/// Makes one stack `[E, 2·F, D]` of each `blk.N.ffn_gate_exps` and `blk.N.ffn_up_exps` `[E, F, D]`: of every expert the
/// gate, then the up projection (docs/gemma.md, GGUF files).
///
/// # Errors
/// Says which two differ in format or shape, or which has no other.
pub(super) fn join(weights: &mut WeightMap, architecture: &str) -> Result<(), String> {
    let gates = weights.remaining_keys().into_iter().filter_map(|key| key.strip_suffix(GATE).map(str::to_owned));
    for block in gates.collect::<Vec<_>>() {
        let (key, _) = gguf_key(architecture, &format!("{block}{BOTH}"));
        let missing = |error| match error {
            Error::Weight(WeightError::Missing { .. }) => format!("there is no tensor '{block}{UP}' beside '{block}{GATE}'"),
            other => other.to_string(),
        };
        let up = weights.take(&format!("{block}{UP}")).map_err(missing)?;
        let gate = weights.take(&format!("{block}{GATE}")).map_err(|error| error.to_string())?;
        let shape = gate.shape().to_vec();
        let dtype = gate.dtype();
        let ([experts, rows, columns], true) = (&shape[..], up.shape() == shape && up.dtype() == dtype) else {
            let [gate, up] = [&gate, &up].map(|tensor| format!("{} {:?}", tensor.dtype(), tensor.shape()));
            return Err(format!("tensors '{block}{GATE}' ({gate}) and '{block}{UP}' ({up}) are no two stacks of one format"));
        };
        if weights.contains(&key) {
            return Err(format!("tensor '{block}{GATE}': there is already a weight '{key}'"));
        }
        let both = vec![*experts, 2 * rows, *columns];
        let slab = gate.byte_len() / (*experts).max(1);
        weights.insert(Tensor::new(key, dtype, both, Arc::new(Interleaved { parts: [gate, up], slab }), 0));
    }
    Ok(())
}

/// Pieces of `slab` bytes from two tensors in turn.
struct Interleaved {
    parts: [Tensor; 2],
    slab: usize,
}

impl TensorSource for Interleaved {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let piece = at / self.slab;
            let skip = at % self.slab;
            let count = rest.len().min(self.slab - skip);
            let (now, later) = rest.split_at_mut(count);
            self.parts[piece % 2].read_bytes(piece / 2 * self.slab + skip, now)?;
            (at, rest) = (at + count, later);
        }
        Ok(())
    }
}
