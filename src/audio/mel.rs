//! The mel filterbank of `transformers.audio_utils.mel_filter_bank` with `mel_scale="htk"` and `norm=None`.

use super::SAMPLE_RATE;

/// Triangular filters over the bins of a magnitude spectrum.
pub(super) struct MelFilters {
    filters: Vec<Triangle>,
}

/// The bins of one filter that are not zero.
struct Triangle {
    first_bin: usize,
    weights: Vec<f64>,
}

impl MelFilters {
    /// `mels` filters between two frequencies in Hz, over the `fft_length / 2 + 1` bins of a real FFT at 16 kHz.
    ///
    /// The corners are evenly spaced in mel, the sides straight in Hz. A filter between two bins is all zero.
    pub(super) fn new(fft_length: usize, mels: usize, min_frequency: f64, max_frequency: f64) -> Self {
        let lowest = mel(min_frequency);
        let step = (mel(max_frequency) - lowest) / (mels + 1) as f64;
        let corner = |index: usize| hertz(lowest + step * index as f64);
        let width = f64::from(SAMPLE_RATE) / fft_length as f64;
        let filters = (0..mels).map(|index| {
            let low = corner(index);
            let center = corner(index + 1);
            let high = corner(index + 2);
            let weight = |bin: usize| {
                let frequency = bin as f64 * width;
                ((frequency - low) / (center - low)).min((high - frequency) / (high - center))
            };
            // The conversion saturates at 0; corners are below the Nyquist frequency.
            let first_bin = (low / width).ceil() as usize;
            let bins = first_bin..=fft_length / 2;
            let weights = bins.map(weight).take_while(|weight| *weight >= 0.0).collect();
            Triangle { first_bin, weights }
        });
        Self { filters: filters.collect() }
    }

    /// The filters' sums over a magnitude spectrum, one per mel bin.
    pub(super) fn apply<'a>(&'a self, magnitudes: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.filters.iter().map(|filter| {
            let bins = magnitudes.iter().skip(filter.first_bin);
            bins.zip(&filter.weights).map(|(magnitude, weight)| magnitude * weight).sum()
        })
    }
}

/// Hz to mel, HTK's formula.
fn mel(frequency: f64) -> f64 {
    2595.0 * (1.0 + frequency / 700.0).log10()
}

/// Mel to Hz.
fn hertz(mel: f64) -> f64 {
    700.0 * (10f64.powf(mel / 2595.0) - 1.0)
}
