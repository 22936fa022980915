//! Random weights of a real model's shape, for measurements without a checkpoint.

#[cfg(feature = "audio")]
mod audio;
mod mobilenet;
mod towers;

use std::sync::Arc;

#[cfg(feature = "audio")]
pub use audio::random_audio_weights;
use half::{bf16, f16};
pub use towers::random_vision_weights;

use super::GemmaConfig;
use crate::{
    Error, Result,
    error::WeightError,
    ir::{DType, ops::Gain},
    weights::{RANDOM, RandomFill, Tensor, TensorSource, WeightMap},
};

/// Norm gains that count from 1 deviate from it by at most this.
const GAIN_SCALE: f32 = 0.02;

/// Weights of every layer that the configuration runs, made when they are read or, without host memory, on the device.
///
/// Matrices `[rows, columns]`, and those of each expert, are uniform in ±√(3/columns): each keeps the root mean square
/// of what it is given, so that activations and logits stay near 1. So are gains that do not count from 1. The same
/// seed gives the same bits everywhere.
///
/// # Errors
/// [`Error::Config`] for a configuration that does not fit together, [`WeightError::Type`] for integers and packed
/// formats.
pub fn random_weights(config: &GemmaConfig, dtype: DType, seed: u32) -> Result<WeightMap> {
    config.validate()?;
    let size = element_bytes(dtype)?;
    let tensors = config.weights().enumerate().filter_map(|(index, position)| {
        let name = position.hugging_face(config.arch)?;
        let shape = config.weight_shape(position);
        let scale = match shape[..] {
            [_, columns] | [_, _, columns] => (3.0 / columns as f32).sqrt(),
            _ if config.arch.gain() == Gain::OnePlus => GAIN_SCALE,
            _ => 3.0f32.sqrt(),
        };
        let fill = RandomFill { seed: pcg(pcg(seed).wrapping_add(index as u32)), scale };
        Some(Tensor::new(name, dtype, shape, Arc::new(RandomSource { fill, dtype, size }), 0))
    });
    Ok(WeightMap::from_tensors(tensors.collect()))
}

/// Bytes of an element of random weights.
fn element_bytes(dtype: DType) -> Result<usize> {
    match (dtype, dtype.scalar_bytes()) {
        (DType::F32 | DType::F16 | DType::BF16, Some(size)) => Ok(size),
        _ => {
            Err(Error::Weight(WeightError::Type { name: "random".into(), found: dtype.to_string(), advice: RANDOM.to_string() }))
        }
    }
}

/// The values of one tensor. `shaders/fill_random.wgsl` makes the same bits on a device.
struct RandomSource {
    fill: RandomFill,
    dtype: DType,
    /// Bytes of an element.
    size: usize,
}

impl RandomSource {
    /// The stored bytes of an element, two of four for 16-bit types.
    fn element(&self, index: u64) -> [u8; 4] {
        let RandomFill { seed, scale } = self.fill;
        // Above 2³² elements the sequence repeats.
        let bits = pcg(pcg(index as u32 ^ pcg(seed)).wrapping_add(seed.wrapping_mul(0x9e37_79b9)));
        // 24 bits make steps that f32 holds exactly.
        let value = ((bits >> 8) as f32 / 8_388_608.0 - 1.0) * scale;
        match self.dtype {
            DType::F16 => u32::from(f16::from_f32(value).to_bits()).to_le_bytes(),
            DType::BF16 => u32::from(bf16::from_f32(value).to_bits()).to_le_bytes(),
            _ => value.to_le_bytes(),
        }
    }
}

impl TensorSource for RandomSource {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let size = self.size;
        let mut index = offset / size as u64;
        let mut from = (offset % size as u64) as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut((size - from).min(rest.len()));
            now.copy_from_slice(&self.element(index)[from..from + now.len()]);
            (rest, index, from) = (later, index + 1, 0);
        }
        Ok(())
    }

    fn random(&self) -> Option<RandomFill> {
        Some(self.fill)
    }
}

/// PCG (RXS-M-XS, 32 bits), O'Neill 2014.
fn pcg(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

#[cfg(test)]
mod tests;
