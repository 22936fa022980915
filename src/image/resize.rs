//! Resizing to the bit as torchvision does it on the CPU (`resize` with `antialias`): integers throughout, first along
//! rows, then along columns, with a picture of bytes in between.

use rayon::prelude::*;

/// The shape of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle (PIL's number 2).
    Bilinear,
    /// Keys' cubic with a = −½ (PIL's number 3).
    Bicubic,
}

impl Filter {
    /// Samples of the original on either side, where none is dropped.
    fn radius(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Channels of a pixel.
const CHANNELS: usize = 3;

/// Weights of all samples along one axis, in fixed point.
pub(super) struct Axis {
    /// For each sample the first of the original and its weights.
    taps: Vec<(usize, Vec<i32>)>,
    /// Bits after the point.
    bits: u32,
}

impl Axis {
    /// Weights from `from` samples to `to`, both at least 1.
    pub(super) fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        let support = filter.radius() * scale.max(1.0);
        let inverse = 1.0 / scale.max(1.0);
        let floats: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|sample| {
                let centre = scale * (sample as f64 + 0.5);
                // Casts saturate below at 0.
                let first = (centre - support + 0.5) as usize;
                let end = ((centre + support + 0.5) as usize).min(from);
                let mut weights: Vec<f64> = (first..end).map(|j| filter.weight((j as f64 - centre + 0.5) * inverse)).collect();
                let sum: f64 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= sum);
                (first, weights)
            })
            .collect();
        let largest = floats.iter().flat_map(|(_, weights)| weights).fold(0.0, |most: f64, weight| most.max(*weight));
        let bits = bits_of(largest);
        let one = f64::from(1u32 << bits);
        let rounded = |weight: f64| (weight * one + 0.5_f64.copysign(weight)) as i32;
        let taps = floats.into_iter().map(|(first, weights)| (first, weights.into_iter().map(rounded).collect())).collect();
        Self { taps, bits }
    }

    /// The taps of each sample and the bits after the point.
    #[cfg(test)]
    pub(super) fn taps(&self) -> (&[(usize, Vec<i32>)], u32) {
        (&self.taps, self.bits)
    }

    fn rounded(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }

    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// Each row of `width` pixels to one of as many as there are samples.
    pub(super) fn along_rows(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let mut out = vec![0; pixels.len() / (width * CHANNELS) * self.taps.len() * CHANNELS];
        let rows = out.par_chunks_exact_mut(self.taps.len() * CHANNELS).zip(pixels.par_chunks_exact(width * CHANNELS));
        rows.for_each(|(out, row)| {
            for (pixel, (first, weights)) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(&self.taps) {
                let mut sums = [self.half(); CHANNELS];
                let (samples, _) = row[first * CHANNELS..].as_chunks::<CHANNELS>();
                for (sample, weight) in samples.iter().zip(weights) {
                    sums.iter_mut().zip(sample).for_each(|(sum, value)| *sum += weight * i32::from(*value));
                }
                *pixel = sums.map(|sum| self.rounded(sum));
            }
        });
        out
    }

    /// The columns of rows of `stride` bytes to as many rows as there are samples.
    fn along_columns(&self, pixels: &[u8], stride: usize) -> Vec<u8> {
        let mut out = vec![0; stride * self.taps.len()];
        out.par_chunks_exact_mut(stride).zip(&self.taps).for_each(|(out, (first, weights))| {
            let mut sums = vec![self.half(); stride];
            for (row, weight) in pixels.chunks_exact(stride).skip(*first).zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * i32::from(*value));
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = self.rounded(sum));
        });
        out
    }
}

/// The most bits with which the largest weight is a 16-bit number, 22 at most; torch tries them from below.
fn bits_of(largest: f64) -> u32 {
    (1..=22).take_while(|bits| (0.5 + largest * f64::from(1u32 << bits)) as i64 <= 0x7fff).last().unwrap_or(1)
}

/// RGB pixels `[height, width, 3]` at another size. A size that stays is not filtered.
pub(super) fn resize(pixels: &[u8], [width, height]: [usize; 2], [to_width, to_height]: [usize; 2], filter: Filter) -> Vec<u8> {
    let mut out = pixels.to_vec();
    if to_width != width {
        out = Axis::new(width, to_width, filter).along_rows(&out, width);
    }
    if to_height != height {
        out = Axis::new(height, to_height, filter).along_columns(&out, to_width * CHANNELS);
    }
    out
}
