//! Log-mel features, as transformers' `Gemma4AudioFeatureExtractor` and `Gemma3nAudioFeatureExtractor` make them.

use std::f64::consts::TAU;

use rustfft::{Fft, FftDirection, algorithm::Radix4, num_complex::Complex};

use super::{SAMPLE_RATE, mel::MelFilters};
use crate::error::AudioError;

#[cfg(test)]
mod tests;

/// How a mel bin is kept above zero before the logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorRule {
    /// `ln(mel + mel_floor)`: Gemma 4.
    Sum,
    /// `ln(max(mel, mel_floor))`: Gemma 3n.
    Max,
}

/// Which frames are valid, and what the others hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskRule {
    /// A frame is valid if the sample after its last one is of the clip. Other frames are set to 0: Gemma 4.
    LastSample,
    /// A frame is valid if its first sample is of the clip. Other frames keep the features of silence: Gemma 3n.
    FirstSample,
}

/// Rows of features of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// `[frames, width]`, row-major: log-mel features (width 128), or raw samples (width 640).
    pub values: Vec<f32>,
    /// `[frames]`: `true` where a row is of the clip (`input_features_mask`).
    pub valid: Vec<bool>,
    /// The number of rows.
    pub frames: usize,
    /// Values of a row.
    pub width: usize,
}

/// The numbers that log-mel features follow from. Names are those of `preprocessor_config.json` where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioFeatureExtractor {
    /// Samples of a frame. A frame reaches one sample further, which only the mask sees.
    pub frame_length: usize,
    /// Samples from one frame to the next.
    pub hop_length: usize,
    /// Samples of the FFT: the frame, then zeros.
    pub fft_length: usize,
    /// Mel bins of a frame.
    pub feature_size: usize,
    /// The lowest corner of the mel filters, in Hz.
    pub min_frequency: f64,
    /// The highest corner of the mel filters, in Hz.
    pub max_frequency: f64,
    /// p of `y_i = s_i − p·s_{i−1}` within each frame, `y_0 = (1 − p)·s_0` (HTK); 0 for none.
    pub preemphasis: f64,
    /// The floor of a mel bin.
    pub mel_floor: f64,
    /// How the floor is applied.
    pub floor_rule: FloorRule,
    /// Zeros before the clip.
    pub pad_left: usize,
    /// The clip is filled with zeros to a multiple of this, before the zeros on its left are counted.
    pub pad_to_multiple_of: usize,
    /// Which frames are valid.
    pub mask_rule: MaskRule,
    /// Most samples of a clip. What follows them is cut off.
    pub max_samples: usize,
}

impl AudioFeatureExtractor {
    /// Gemma 4 E2B and E4B: frames of 20 ms each 10 ms, 128 bins up to 8 kHz, 30 s at most.
    #[must_use]
    pub fn gemma4() -> Self {
        Self {
            frame_length: 320,
            hop_length: 160,
            fft_length: 512,
            feature_size: 128,
            min_frequency: 0.0,
            max_frequency: 8000.0,
            preemphasis: 0.0,
            mel_floor: 1e-3,
            floor_rule: FloorRule::Sum,
            pad_left: 160,
            pad_to_multiple_of: 128,
            mask_rule: MaskRule::LastSample,
            max_samples: 480_000,
        }
    }

    /// Gemma 3n: frames of 32 ms each 10 ms, 128 bins from 125 to 7600 Hz, 30 s at most.
    #[must_use]
    pub fn gemma3n() -> Self {
        Self {
            frame_length: 512,
            hop_length: 160,
            fft_length: 1024,
            feature_size: 128,
            min_frequency: 125.0,
            max_frequency: 7600.0,
            preemphasis: 0.97,
            mel_floor: 1e-5,
            floor_rule: FloorRule::Max,
            pad_left: 0,
            pad_to_multiple_of: 128,
            mask_rule: MaskRule::FirstSample,
            max_samples: 480_000,
        }
    }

    /// Samples of a clip of `samples` that are heard.
    #[must_use]
    pub fn samples_taken(&self, samples: usize) -> usize {
        samples.min(self.max_samples)
    }

    /// Frames of a clip of `samples` samples at 16 kHz, valid or not; 0 where [`AudioFeatureExtractor::extract`] fails.
    #[must_use]
    pub fn frames(&self, samples: usize) -> usize {
        if self.check().is_err() {
            return 0;
        }
        let length = self.pad_left + self.samples_taken(samples).next_multiple_of(self.pad_to_multiple_of);
        length.checked_sub(self.frame_length + 1).map_or(0, |room| room / self.hop_length + 1)
    }

    /// Valid frames of a clip of `samples` samples at 16 kHz. In a batch with longer clips it has as many.
    #[must_use]
    pub fn valid_frames(&self, samples: usize) -> usize {
        let taken = self.samples_taken(samples);
        (0..self.frames(samples)).filter(|frame| self.is_valid(*frame, taken)).count()
    }

    /// The features of a clip's samples at 16 kHz.
    ///
    /// # Errors
    ///
    /// [`AudioError::Empty`] and [`AudioError::TooShort`] for a clip without a valid frame, [`AudioError::Extractor`]
    /// for numbers that contradict each other.
    pub fn extract(&self, samples: &[f32]) -> Result<Features, AudioError> {
        self.extract_padded(samples, samples.len())
    }

    /// As [`AudioFeatureExtractor::extract`], with as many frames as the longest clip of a batch has.
    ///
    /// In transformers, clips of one prompt make a batch. Gemma 3n's convolutions look ahead, so that a clip's last
    /// soft token depends on what follows it there; Gemma 4's tokens are the same alone and in a batch.
    ///
    /// # Errors
    ///
    /// Those of [`AudioFeatureExtractor::extract`].
    pub fn extract_padded(&self, samples: &[f32], longest: usize) -> Result<Features, AudioError> {
        self.check().map_err(AudioError::Extractor)?;
        if samples.is_empty() {
            return Err(AudioError::Empty);
        }
        if self.valid_frames(samples.len()) == 0 {
            return Err(AudioError::TooShort { samples: samples.len(), least: self.least_samples() });
        }
        let taken = self.samples_taken(samples.len());
        let frames = self.frames(longest.max(samples.len()));
        let mut signal = vec![0.0; self.pad_left];
        signal.extend(samples.iter().take(taken).map(|sample| f64::from(*sample)));
        let reach = (frames - 1) * self.hop_length + self.frame_length;
        signal.resize(reach.max(signal.len()), 0.0);

        let mut spectrum = Spectrum::new(self);
        let filters = MelFilters::new(self.fft_length, self.feature_size, self.min_frequency, self.max_frequency);
        let mut values = Vec::with_capacity(frames * self.feature_size);
        let mut valid = Vec::with_capacity(frames);
        for (index, frame) in signal.windows(self.frame_length).step_by(self.hop_length).take(frames).enumerate() {
            let is_valid = self.is_valid(index, taken);
            valid.push(is_valid);
            if !is_valid && self.mask_rule == MaskRule::LastSample {
                values.resize(values.len() + self.feature_size, 0.0);
                continue;
            }
            let magnitudes = spectrum.magnitudes(frame);
            values.extend(filters.apply(magnitudes).map(|mel| self.log(mel) as f32));
        }
        Ok(Features { values, valid, frames, width: self.feature_size })
    }

    fn log(&self, mel: f64) -> f64 {
        match self.floor_rule {
            FloorRule::Sum => (mel + self.mel_floor).ln(),
            FloorRule::Max => mel.max(self.mel_floor).ln(),
        }
    }

    /// Whether a frame of a clip of `samples` samples counts.
    fn is_valid(&self, frame: usize, samples: usize) -> bool {
        let first = frame * self.hop_length;
        let sample = match self.mask_rule {
            MaskRule::LastSample => first + self.frame_length,
            MaskRule::FirstSample => first,
        };
        (self.pad_left..self.pad_left + samples).contains(&sample)
    }

    /// The fewest samples that give a valid frame; `max_samples` if no number does.
    fn least_samples(&self) -> usize {
        let reach = self.frame_length + self.hop_length + self.pad_left + 1;
        (1..=reach).find(|samples| self.valid_frames(*samples) > 0).unwrap_or(self.max_samples)
    }

    /// What is wrong with the numbers.
    fn check(&self) -> Result<(), String> {
        const LONGEST: usize = 1 << 16;
        // Bounds that keep the features of a clip within a hundred times its samples, whoever wrote the numbers.
        let sizes = [
            ("frame_length", self.frame_length, 1..=LONGEST),
            ("hop_length", self.hop_length, 16..=LONGEST),
            ("fft_length", self.fft_length, 2..=LONGEST),
            ("feature_size", self.feature_size, 1..=1024),
            ("pad_to_multiple_of", self.pad_to_multiple_of, 1..=LONGEST),
            ("pad_left", self.pad_left, 0..=LONGEST),
            ("max_samples", self.max_samples, 1..=1 << 30),
        ];
        if let Some((name, size, range)) = sizes.iter().find(|(_, size, range)| !range.contains(size)) {
            return Err(format!("{name} is {size}, expected {} to {}", range.start(), range.end()));
        }
        if self.frame_length > self.fft_length {
            return Err(format!("frame_length {} exceeds fft_length {}", self.frame_length, self.fft_length));
        }
        if !self.fft_length.is_power_of_two() {
            return Err(format!("fft_length is {}, expected a power of two", self.fft_length));
        }
        let nyquist = f64::from(SAMPLE_RATE) / 2.0;
        if !(0.0 <= self.min_frequency && self.min_frequency < self.max_frequency && self.max_frequency <= nyquist) {
            let range = self.min_frequency..self.max_frequency;
            return Err(format!("min_frequency..max_frequency is {range:?} Hz, expected a range within 0 to {nyquist}"));
        }
        if !(self.mel_floor > 0.0 && self.mel_floor.is_finite()) {
            return Err(format!("mel_floor is {}, expected a positive number", self.mel_floor));
        }
        if !(0.0..=1.0).contains(&self.preemphasis) {
            return Err(format!("preemphasis is {}, expected 0 to 1", self.preemphasis));
        }
        Ok(())
    }
}

/// The windowed FFT of frames, with its buffers.
struct Spectrum {
    preemphasis: f64,
    window: Vec<f64>,
    // The planner of `rustfft`, and `realfft` with it, instantiates the algorithms of all lengths and instruction sets.
    // In f64, beside the resampler's in f32, they made a quarter of this crate's code.
    fft: Radix4<f64>,
    /// A frame, then its transform.
    bins: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    magnitudes: Vec<f64>,
}

impl Spectrum {
    fn new(extractor: &AudioFeatureExtractor) -> Self {
        let length = extractor.frame_length as f64;
        // transformers rounds the window to f32.
        let hann = |index: usize| f64::from((0.5 - 0.5 * (TAU * index as f64 / length).cos()) as f32);
        let fft = Radix4::new(extractor.fft_length, FftDirection::Forward);
        Self {
            preemphasis: extractor.preemphasis,
            window: (0..extractor.frame_length).map(hann).collect(),
            bins: vec![Complex::default(); extractor.fft_length],
            scratch: vec![Complex::default(); fft.get_inplace_scratch_len()],
            magnitudes: Vec::new(),
            fft,
        }
    }

    /// The magnitudes of a frame's `fft_length / 2 + 1` bins.
    fn magnitudes(&mut self, frame: &[f64]) -> &[f64] {
        self.bins.fill(Complex::default());
        // The sample before the first is taken to equal it, which gives HTK's (1 − p)·s_0.
        let before = frame.iter().take(1).chain(frame);
        for (((bin, sample), before), weight) in self.bins.iter_mut().zip(frame).zip(before).zip(&self.window) {
            bin.re = (sample - self.preemphasis * before) * weight;
        }
        self.fft.process_with_scratch(&mut self.bins, &mut self.scratch);
        self.magnitudes.clear();
        let half = self.bins.len() / 2 + 1;
        self.magnitudes.extend(self.bins.iter().take(half).map(|bin| bin.norm()));
        &self.magnitudes
    }
}
