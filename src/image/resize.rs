//! Resizing to the bit as torchvision does it on the CPU (`resize` with `antialias`).
//!
//! Integers throughout: first along rows, then along columns, with a row of bytes in between. The rule is that of
//! `UpSampleKernelAVXAntialias` in ATen.

#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

/// The shape of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle (PIL's `resample` 2).
    Bilinear,
    /// Keys' cubic with a = −½ (PIL's `resample` 3).
    Bicubic,
}

impl Filter {
    /// Samples of the original on either side of the centre, where none is dropped.
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

/// The fewest rows of the result that are a task of their own. Neighbouring tasks share some rows of the original.
const TASK_ROWS: usize = 32;

/// Weights of all samples along one axis, in fixed point.
struct Axis {
    /// For each sample those of the original that it is made of.
    spans: Vec<Range<usize>>,
    /// The weights of all spans, one after the other.
    weights: Vec<i16>,
    /// Bits after the point.
    bits: u32,
}

impl Axis {
    /// Weights from `from` samples to `to`, both at least 1; `None` for as many, which are not filtered.
    fn new(from: usize, to: usize, filter: Filter) -> Option<Self> {
        if from == to {
            return None;
        }
        let scale = from as f64 / to as f64;
        let support = filter.radius() * scale.max(1.0);
        let centre = |sample: usize| scale * (sample as f64 + 0.5);
        let span = |sample: usize| {
            // A cast takes numbers below 0 to 0.
            let start = (centre(sample) - support + 0.5) as usize;
            let end = ((centre(sample) + support + 0.5) as usize).min(from);
            start..end
        };
        let spans: Vec<Range<usize>> = (0..to).map(span).collect();
        // In f64 the weights of a long axis take several times the picture's memory, so they are made twice.
        let mut floats = Vec::new();
        let mut largest = 0.0_f64;
        for (sample, span) in spans.iter().enumerate() {
            normalised(span, centre(sample), scale, filter, &mut floats);
            largest = floats.iter().fold(largest, |most, weight| most.max(*weight));
        }
        let bits = bits_of(largest);
        let one = f64::from(1u32 << bits);
        let mut weights = Vec::with_capacity(spans.iter().map(Range::len).sum());
        for (sample, span) in spans.iter().enumerate() {
            normalised(span, centre(sample), scale, filter, &mut floats);
            weights.extend(floats.iter().map(|weight| (weight * one + 0.5_f64.copysign(*weight)) as i16));
        }
        Some(Self { spans, weights, bits })
    }

    /// The samples of the original and their weights, for each sample.
    fn taps(&self) -> impl Iterator<Item = (&Range<usize>, &[i16])> {
        let mut rest = self.weights.as_slice();
        self.spans.iter().map_while(move |span| {
            let (weights, after) = rest.split_at_checked(span.len())?;
            rest = after;
            Some((span, weights))
        })
    }

    /// Half of the lowest bit of a byte, which every sum begins with.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn rounded(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }

    /// A row of pixels to one of as many as there are samples.
    fn along_row(&self, row: &[u8], out: &mut [u8]) {
        let (pixels, _) = row.as_chunks::<CHANNELS>();
        for (out, (span, weights)) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(self.taps()) {
            let mut sums = [self.half(); CHANNELS];
            for ([r, g, b], weight) in pixels.get(span.clone()).unwrap_or_default().iter().zip(weights) {
                let weight = i32::from(*weight);
                let [red, green, blue] = &mut sums;
                *red += weight * i32::from(*r);
                *green += weight * i32::from(*g);
                *blue += weight * i32::from(*b);
            }
            *out = sums.map(|sum| self.rounded(sum));
        }
    }
}

/// The weights of a span, whose sum is 1 (ATen: `_compute_indices_min_size_weights_aa`).
fn normalised(span: &Range<usize>, centre: f64, scale: f64, filter: Filter, weights: &mut Vec<f64>) {
    let inverse = 1.0 / scale.max(1.0);
    weights.clear();
    weights.extend(span.clone().map(|sample| filter.weight((sample as f64 - centre + 0.5) * inverse)));
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// The most bits with which the largest weight is a number of 16 bits with a sign, 22 at most. ATen tries them from below.
fn bits_of(largest: f64) -> u32 {
    let fits = |bits: &u32| (0.5 + largest * f64::from(1u32 << bits)) as i64 <= i64::from(i16::MAX);
    (1..=22).take_while(fits).last().unwrap_or(1)
}

/// RGB pixels `[height, width, 3]` at another size. An axis that keeps its length is not filtered.
///
/// Beside the result it takes memory for the weights, and four bytes for each of the result's.
pub(super) fn resize(pixels: &[u8], [width, height]: [usize; 2], [to_width, to_height]: [usize; 2], filter: Filter) -> Vec<u8> {
    let columns = Axis::new(width, to_width, filter);
    let rows = Axis::new(height, to_height, filter);
    let stride = width * CHANNELS;
    let to_stride = to_width * CHANNELS;
    let Some(rows) = rows else {
        let Some(columns) = columns else { return pixels.to_vec() };
        let mut out = vec![0; to_stride * to_height];
        let lines = out.par_chunks_exact_mut(to_stride).zip(pixels.par_chunks_exact(stride));
        lines.for_each(|(out, row)| columns.along_row(row, out));
        return out;
    };
    let mut out = vec![0; to_stride * to_height];
    let task = to_height.div_ceil(rayon::current_num_threads() * 2).max(TASK_ROWS);
    let taps: Vec<(&Range<usize>, &[i16])> = rows.taps().collect();
    let source = Source { pixels, stride, columns: columns.as_ref(), to_stride };
    out.par_chunks_mut(to_stride * task)
        .zip(taps.par_chunks(task))
        .for_each(|(out, taps)| source.along_columns(&rows, taps, out));
    out
}

/// Rows of the original, and how each is resized.
struct Source<'a> {
    pixels: &'a [u8],
    /// Bytes of a row.
    stride: usize,
    columns: Option<&'a Axis>,
    /// Bytes of a row once it is resized.
    to_stride: usize,
}

impl Source<'_> {
    /// Rows of the result from their taps. Each row of the original is resized once, and added to all that it is a part of.
    fn along_columns(&self, axis: &Axis, taps: &[(&Range<usize>, &[i16])], out: &mut [u8]) {
        let start = taps.first().map_or(0, |(span, _)| span.start);
        let end = taps.last().map_or(0, |(span, _)| span.end);
        let mut sums = vec![axis.half(); out.len()];
        let mut resized = vec![0; self.to_stride];
        // Spans begin and end in ascending order, so that those which hold a row are neighbours.
        let mut done = 0;
        for (at, row) in self.pixels.chunks_exact(self.stride).enumerate().take(end).skip(start) {
            let row = match self.columns {
                Some(columns) => {
                    columns.along_row(row, &mut resized);
                    resized.as_slice()
                }
                None => row,
            };
            done += taps.iter().skip(done).take_while(|(span, _)| span.end <= at).count();
            let open = taps.iter().skip(done).take_while(|(span, _)| span.start <= at);
            for (sums, (span, weights)) in sums.chunks_exact_mut(self.to_stride).skip(done).zip(open) {
                let weight = weights.get(at - span.start).copied().unwrap_or_default();
                add(sums, row, weight);
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = axis.rounded(sum));
    }
}

/// Adds a row, times its weight. Both factors have 16 bits, which vector units multiply without widening them first.
fn add(sums: &mut [i32], row: &[u8], weight: i16) {
    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += i32::from(weight) * i32::from(i16::from(*value)));
}
