//! A key-value cache in the caller's hands, between runs of the stateless graphs.
//!
//! A prefill with `export_kv` and every decode step return their first output (`logits`, or `hidden` from a prefill
//! without head) and then `k_0`, `v_0`, `k_1`, `v_1`, …, each `[B, rows, K·H]` in f32. The next step takes them as
//! `past_k_0`, `past_v_0`, …

use crate::{
    Error, Result,
    ir::{Data, Value},
};

/// The longest context that a configuration may have.
const LONGEST: usize = 1 << 30;

/// K (after RoPE) and V of every layer on the host.
///
/// A decode graph takes each sequence's live rows first, in the order of their positions, and counts them by
/// `position`. Where a batch has unequal lengths a prefill with padding on the left, and every decode step, whose new
/// row is the last, leave other rows between: [`live_rows_first`](Self::live_rows_first) closes the gaps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KvCacheState {
    /// Rows of each sequence.
    pub past_len: usize,
    /// K of each layer, row-major `[B, past_len, K·H]`.
    pub layers_k: Vec<Vec<f32>>,
    /// V of each layer, row-major `[B, past_len, K·H]`.
    pub layers_v: Vec<Vec<f32>>,
}

impl KvCacheState {
    /// Moves the live rows of each sequence to the front, in order, and drops what is then behind the longest. `live`
    /// `[B, past_len]` is 1 for live rows and 0 between: the `attention_mask` after a prefill; after a decode step for
    /// each sequence [`bucket_decode_mask`] of its rows before the step and the rows that the graph took. Returns the
    /// number of live rows of each sequence, which is the next step's `position`.
    ///
    /// # Errors
    /// [`Error::Input`] where `live` is not a number of whole sequences, or does not fit K and V.
    pub fn live_rows_first(&mut self, live: &[f32]) -> Result<Vec<u32>> {
        let rows = self.past_len;
        if rows == 0 || live.is_empty() || !live.len().is_multiple_of(rows) {
            return Err(wrong("live", format!("found {} entries, expected [B, {rows}] of at least one row", live.len())));
        }
        let batch = live.len() / rows;
        let layers = self.layers_k.iter_mut().chain(&mut self.layers_v);
        if let Some(found) = layers.map(|layer| layer.len()).find(|len| !len.is_multiple_of(live.len())) {
            return Err(wrong(
                "live",
                format!("K and V have {found} elements, which are no rows of {batch} sequences of {rows}"),
            ));
        }
        let counts: Vec<usize> = live.chunks(rows).map(|mask| mask.iter().filter(|keep| **keep >= 0.5).count()).collect();
        let longest = counts.iter().copied().max().unwrap_or(0);
        for layer in self.layers_k.iter_mut().chain(&mut self.layers_v) {
            let width = layer.len() / live.len();
            let mut moved = vec![0.0; batch * longest * width];
            for (b, mask) in live.chunks(rows).enumerate() {
                let kept = (0..rows).filter(|row| mask[*row] >= 0.5);
                for (to, from) in kept.enumerate() {
                    let source = &layer[(b * rows + from) * width..][..width];
                    moved[(b * longest + to) * width..][..width].copy_from_slice(source);
                }
            }
            *layer = moved;
        }
        self.past_len = longest;
        Ok(counts.into_iter().map(|count| count as u32).collect())
    }
}

/// The cache from the outputs of a prefill graph built with `export_kv`: its first output, `logits` or `hidden`, is
/// passed over. K and V are copied.
///
/// # Errors
/// [`Error::Input`] where an output is missing, is called something else, or has another type or shape than the rest
/// implies.
pub fn kv_from_prefill_outputs(outputs: &[(String, Value)], layers: usize) -> Result<KvCacheState> {
    check_names(outputs, &["logits", "hidden"], layers)?;
    collect(outputs[1..].to_vec())
}

/// Logits `[B, 1, V]` and the cache with the new row, from the outputs of a decode graph.
///
/// # Errors
/// As [`kv_from_prefill_outputs`].
pub fn split_decode_logits_kv(mut outputs: Vec<(String, Value)>, layers: usize) -> Result<(Vec<f32>, KvCacheState)> {
    check_names(&outputs, &["logits"], layers)?;
    let (name, logits) = outputs.remove(0);
    let batch = match logits.shape[..] {
        [batch, 1, _] => batch,
        _ => return Err(wrong(&name, format!("found shape {:?}, expected [B, 1, V]", logits.shape))),
    };
    if let Some((name, value)) = outputs.iter().find(|(_, value)| value.shape.first() != Some(&batch)) {
        return Err(wrong(name, format!("found shape {:?}, expected a batch of {batch} as the logits have", value.shape)));
    }
    Ok((numbers(&name, logits)?, collect(outputs)?))
}

/// The keep-mask of a decode step whose cache has `upper` rows, the first `past` of them live. It has `upper + 1`
/// entries: 1 for the live rows and for the new one, which is at index `upper`, and 0 between. It is for a graph built
/// with `dynamic_past` whose `position` is `past`; a graph with a static past rotates at its own past.
///
/// # Errors
/// [`Error::Input`] when `past` exceeds `upper`.
pub fn bucket_decode_mask(past: usize, upper: usize) -> Result<Vec<f32>> {
    if past > upper {
        return Err(wrong("mask", format!("{past} live rows do not fit a bucket of {upper}; take the next larger bucket")));
    }
    if upper > LONGEST {
        return Err(wrong("mask", format!("a bucket of {upper} rows, expected at most {LONGEST}")));
    }
    Ok((0..=upper).map(|row| f32::from(u8::from(row < past || row == upper))).collect())
}

/// Checks that the outputs are one of `first`, then K and V of each layer, in order.
fn check_names(outputs: &[(String, Value)], first: &[&str], layers: usize) -> Result<()> {
    let expected = layers.saturating_mul(2).saturating_add(1);
    if outputs.len() != expected {
        let problem = format!(
            "found {} outputs, expected {expected}: {}, then K and V of {layers} layers; was the graph built with export_kv?",
            outputs.len(),
            first.join(" or ")
        );
        return Err(wrong("outputs", problem));
    }
    if !first.contains(&outputs[0].0.as_str()) {
        return Err(wrong(&outputs[0].0, format!("found as the first output, expected {}", first.join(" or "))));
    }
    for (index, (name, _)) in outputs[1..].iter().enumerate() {
        let expected = format!("{}_{}", if index % 2 == 0 { "k" } else { "v" }, index / 2);
        if *name != expected {
            return Err(wrong(name, format!("found as output {}, expected '{expected}'", index + 1)));
        }
    }
    Ok(())
}

/// K and V in turn, each `[B, rows, K·H]` with one B and one number of rows for all.
fn collect(outputs: Vec<(String, Value)>) -> Result<KvCacheState> {
    let mut state = KvCacheState::default();
    let mut first = None;
    for (index, (name, value)) in outputs.into_iter().enumerate() {
        let shape = value.shape.clone();
        let [batch, rows, _] = shape[..] else {
            return Err(wrong(&name, format!("found shape {shape:?}, expected [B, rows, K·H]")));
        };
        let (b, r) = *first.get_or_insert((batch, rows));
        if (batch, rows) != (b, r) {
            return Err(wrong(&name, format!("found shape {shape:?}, expected [{b}, {r}, K·H] as the outputs before have")));
        }
        let values = numbers(&name, value)?;
        let sink = if index % 2 == 0 { &mut state.layers_k } else { &mut state.layers_v };
        sink.push(values);
        let k = state.layers_k.last().map_or(0, Vec::len);
        let v = state.layers_v.last().map_or(0, Vec::len);
        if index % 2 == 1 && k != v {
            return Err(wrong(&name, format!("found {v} elements, expected {k} as its layer's K has")));
        }
    }
    state.past_len = first.map_or(0, |(_, rows)| rows);
    Ok(state)
}

/// The elements of an f32 value, as many as its shape says.
fn numbers(name: &str, value: Value) -> Result<Vec<f32>> {
    let dtype = value.dtype();
    let shape = value.shape.clone();
    let expected = value.len();
    match value.data {
        Data::F32(values) if values.len() == expected => Ok(values),
        Data::F32(values) => Err(wrong(name, format!("found {} elements, its shape {shape:?} has {expected}", values.len()))),
        _ => Err(wrong(name, format!("found {dtype} values, expected f32"))),
    }
}

fn wrong(name: &str, problem: String) -> Error {
    Error::Input { name: name.to_string(), problem }
}

#[cfg(test)]
mod tests;
