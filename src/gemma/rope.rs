//! Rotary embedding on the host: inverse frequencies and tables of cosines and sines.
//!
//! Su et al., "RoFormer" (arXiv 2104.09864). The arithmetic is done in f32 in the order in which transformers does it,
//! so that inverse frequencies and angles have the same bits; cosine and sine of the f32 angle are then taken in f64
//! and rounded. Pure functions: shapes in letters are H head dimension, T positions.

use crate::{
    Error, Result,
    gemma::{RopeConfig, RopeScaling},
    ir::ops::cos_sin,
};

/// The H/2 inverse frequencies `theta^(-2j/H)`, j = 0 to H/2 − 1. Exponent, power and reciprocal are each rounded to
/// f32.
pub fn default_inv_freq(theta: f32, head_dim: usize) -> Vec<f32> {
    let power = |j: usize| f64::from(theta).powf(f64::from((2 * j) as f32 / head_dim as f32)) as f32;
    (0..head_dim / 2).map(|j| 1.0 / power(j)).collect()
}

/// The H/2 inverse frequencies of a table, scaled as `rope` says and divided by `factors` (a checkpoint's
/// `rope_freqs.weight`).
///
/// # Errors
/// [`Error::Config`] where `head_dim` is odd or zero; [`Error::Input`] where `factors` has not H/2 entries, or one that
/// is zero or not finite.
pub fn resolve_inv_freq(rope: &RopeConfig, head_dim: usize, factors: Option<&[f32]>) -> Result<Vec<f32>> {
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(Error::Config(format!("head_dim is {head_dim}, rotary embedding needs a positive even number")));
    }
    let mut inv_freq = default_inv_freq(rope.theta, head_dim);
    match rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => inv_freq.iter_mut().for_each(|f| *f /= factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let length = original_max_position_embeddings as f32;
            inv_freq.iter_mut().for_each(|f| *f = llama3(*f, factor, low_freq_factor, high_freq_factor, length));
        }
        RopeScaling::Proportional { partial_rotary_factor, factor } => {
            let rotated = (f64::from(partial_rotary_factor) * head_dim as f64 / 2.0) as usize;
            inv_freq.iter_mut().for_each(|f| *f /= factor);
            inv_freq.iter_mut().skip(rotated).for_each(|f| *f = 0.0);
        }
    }
    let Some(factors) = factors else { return Ok(inv_freq) };
    let refuse = |problem| Err(Error::Input { name: "rope factors".into(), problem });
    if factors.len() != inv_freq.len() {
        return refuse(format!("{} entries, expected head_dim/2 = {}", factors.len(), inv_freq.len()));
    }
    if let Some(j) = factors.iter().position(|f| !f.is_finite() || *f == 0.0) {
        return refuse(format!("entry {j} is {}, expected a finite number other than zero", factors[j]));
    }
    inv_freq.iter_mut().zip(factors).for_each(|(f, factor)| *f /= factor);
    Ok(inv_freq)
}

/// Llama 3.1's scaling of one inverse frequency, by its wavelength 2π/f in tokens.
fn llama3(f: f32, factor: f32, low: f32, high: f32, length: f32) -> f32 {
    let wavelength = std::f32::consts::TAU / f;
    if wavelength > length / low {
        f / factor
    } else if wavelength < length / high {
        f
    } else {
        let smooth = (length / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// Cosines and sines `[T, H/2]` of positions 0 to `max_pos` − 1, row-major.
pub fn build_rope_tables(inv_freq: &[f32], max_pos: usize) -> (Vec<f32>, Vec<f32>) {
    (0..max_pos).flat_map(|pos| inv_freq.iter().map(move |&f| cos_sin(f, pos))).unzip()
}

/// Cosines and sines `[H/2]` of one position: the row `pos` of [`build_rope_tables`].
pub fn rope_slice(inv_freq: &[f32], pos: usize) -> (Vec<f32>, Vec<f32>) {
    inv_freq.iter().map(|&f| cos_sin(f, pos)).unzip()
}

#[cfg(test)]
mod tests;
