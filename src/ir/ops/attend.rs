//! The meaning of attention on host arrays, without the score matrix of its definition: keys that a query does not see
//! cost nothing.

use rayon::prelude::*;

use super::{Attention, DEAD_KEY};
use crate::{
    Result,
    ir::{Data, FixedType, Value},
};

/// Partial sums of a dot product: as many as a vector register or two hold.
const LANES: usize = 16;

/// The value of [`Attention`]: dot products and sums over keys in f32, as in a matrix product, all else in f64.
pub(super) fn attend(op: &Attention, inputs: &[&Value], output: &FixedType) -> Result<Data> {
    let q = inputs[0].to_f32()?;
    let k = inputs[1].to_f32()?;
    let v = inputs[2].to_f32()?;
    let bounds = positions(inputs[3])?;
    let keys = positions(inputs[4])?;
    let keep = inputs.get(5).map(|keep| keep.to_f32()).transpose()?;
    let new = output.shape[1];
    let heads = output.shape[2];
    let width = output.shape[3];
    let cached = inputs[1].shape[1];
    let kv_heads = inputs[1].shape[2];
    // Positions first: every head of a query sees the same keys.
    let visible = |query: usize| -> Vec<usize> {
        let first = query / new * cached;
        let kept = |row: usize| keep.as_ref().is_none_or(|keep| keep[row] >= 0.5);
        let [from, to] = [bounds[2 * query], bounds[2 * query + 1]];
        let sees = |key: i32| key < DEAD_KEY && (from..=to).contains(&key);
        (first..first + cached).filter(|&row| sees(keys[row]) && kept(row)).collect()
    };
    let mut out = vec![0.0; output.len()];
    out.par_chunks_mut((heads * width).max(1)).enumerate().for_each(|(query, out)| {
        let rows = visible(query);
        let of_heads = q[query * heads * width..].chunks_exact(width.max(1)).zip(out.chunks_exact_mut(width.max(1)));
        for (head, (q, out)) in of_heads.enumerate() {
            let kv_head = head / (heads / kv_heads);
            let row = |row: usize| (row * kv_heads + kv_head) * width..(row * kv_heads + kv_head + 1) * width;
            let scores = rows.iter().map(|&r| score(op, dot(q, &k[row(r)]))).collect();
            for (&r, weight) in rows.iter().zip(softmax(scores)) {
                out.iter_mut().zip(&v[row(r)]).for_each(|(out, v)| *out += weight * v);
            }
        }
    });
    Ok(Data::F32(out))
}

fn positions(value: &Value) -> Result<Vec<i32>> {
    match &value.data {
        Data::I32(positions) => Ok(positions.clone()),
        _ => Ok(value.to_indices()?.into_iter().map(|i| i as i32).collect()),
    }
}

fn score(op: &Attention, product: f32) -> f64 {
    let scaled = f64::from(product) * f64::from(op.scale);
    op.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh())
}

fn softmax(mut scores: Vec<f64>) -> impl Iterator<Item = f32> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f64 = scores.iter().sum();
    scores.into_iter().map(move |score| (score / sum) as f32)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let a_parts = a.chunks_exact(LANES);
    let b_parts = b.chunks_exact(LANES);
    let rest: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        (0..LANES).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f32>() + rest
}
