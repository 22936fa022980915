//! Interleaved samples of any rate, mixed down and resampled to 16 kHz as they come.

use rubato::{Fft, FixedSync, Indexing, Resampler, WindowFunction, audioadapter_buffers::direct::InterleavedSlice};

use super::{AudioLimits, MIN_SAMPLE_RATE, SAMPLE_RATE};
use crate::error::AudioError;

/// Samples of one block of the resampler's output, at least: its filter is as long, and the longer, the steeper.
const BLOCK: u32 = 1024;

/// The largest magnitude of a sample. Float files reach beyond 1, but only integers that were not scaled reach this.
const LARGEST: f32 = 100.0;

/// Collects a clip. What is kept is at 16 kHz, so that memory follows the seconds and not the rate.
pub(super) struct Mono {
    rate: u32,
    channels: usize,
    max_seconds: u32,
    /// Frames taken so far, at `rate`.
    taken: u64,
    /// Mixed samples at `rate` that the resampler has not taken yet.
    pending: Vec<f32>,
    resampler: Option<Blocks>,
    /// Samples at 16 kHz.
    output: Vec<f32>,
}

/// The resampler, with a buffer for one block.
struct Blocks {
    fft: Fft<f32>,
    block: Vec<f32>,
    /// Samples that precede the clip's first one: the filter's delay.
    skip: usize,
}

impl Mono {
    /// Begins a clip of `channels` interleaved channels at `rate` Hz.
    pub(super) fn new(rate: u32, channels: usize, limits: &AudioLimits) -> Result<Self, AudioError> {
        check_layout(rate, channels, limits)?;
        let resampler = (rate != SAMPLE_RATE).then(|| Blocks::new(rate)).transpose()?;
        Ok(Self { rate, channels, max_seconds: limits.max_seconds, taken: 0, pending: Vec::new(), resampler, output: Vec::new() })
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// Frames taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Seconds taken so far.
    pub(super) fn seconds(&self) -> f64 {
        self.taken as f64 / f64::from(self.rate)
    }

    /// Most frames that the limits allow.
    pub(super) fn most_frames(&self) -> u64 {
        u64::from(self.max_seconds) * u64::from(self.rate)
    }

    /// Takes whole frames of interleaved samples.
    pub(super) fn push(&mut self, samples: &[f32]) -> Result<(), AudioError> {
        let frames = (samples.len() / self.channels) as u64;
        if self.taken + frames > self.most_frames() {
            return Err(AudioError::TooLong { most: self.max_seconds });
        }
        for (frame, values) in (self.taken..).zip(samples.chunks_exact(self.channels)) {
            for &value in values {
                check_sample(frame, value)?;
            }
            self.pending.push(mean(values));
        }
        self.taken += frames;
        let Some(blocks) = &mut self.resampler else {
            self.output.append(&mut self.pending);
            return Ok(());
        };
        let whole = blocks.whole(&self.pending, &mut self.output).map_err(|problem| resampling(self.rate, problem))?;
        self.pending.drain(..whole);
        Ok(())
    }

    /// Ends the clip, and returns its samples at 16 kHz.
    pub(super) fn finish(mut self) -> Result<Vec<f32>, AudioError> {
        if let Some(blocks) = &mut self.resampler {
            // `taken` is below u32::MAX squared, and its product with the rate can exceed u64.
            let expected = (u128::from(self.taken) * u128::from(SAMPLE_RATE)).div_ceil(u128::from(self.rate));
            let expected = usize::try_from(expected).map_err(|_| AudioError::TooLong { most: self.max_seconds })?;
            blocks.rest(&self.pending, &mut self.output, expected).map_err(|problem| resampling(self.rate, problem))?;
        }
        Ok(self.output)
    }
}

impl Blocks {
    fn new(rate: u32) -> Result<Self, AudioError> {
        let divisor = gcd(rate, SAMPLE_RATE);
        // An even number of the smallest blocks: the filter's center lies on a sample, and the delay is whole.
        let blocks = (BLOCK * divisor).div_ceil(SAMPLE_RATE).next_multiple_of(2);
        let block = (rate / divisor) as usize * blocks as usize;
        let window = WindowFunction::BlackmanHarris2;
        let fft = Fft::new_custom(rate as usize, SAMPLE_RATE as usize, block, 1, 1, window, FixedSync::Both)
            .map_err(|error| resampling(rate, error.to_string()))?;
        let skip = fft.output_delay();
        let block = vec![0.0; fft.output_frames_max()];
        Ok(Self { fft, block, skip })
    }

    /// Resamples the whole blocks of `pending`. Returns how many samples they have.
    fn whole(&mut self, pending: &[f32], output: &mut Vec<f32>) -> Result<usize, String> {
        let size = self.fft.input_frames_next();
        let mut taken = 0;
        for input in pending.chunks_exact(size) {
            self.process(input, None, output)?;
            taken += size;
        }
        Ok(taken)
    }

    /// Resamples the last samples and as much silence as brings the output to `expected` samples.
    fn rest(&mut self, pending: &[f32], output: &mut Vec<f32>, expected: usize) -> Result<(), String> {
        let mut input = pending.to_vec();
        input.resize(self.fft.input_frames_next().max(pending.len()), 0.0);
        let mut valid = pending.len();
        while output.len() < expected {
            let before = (output.len(), self.skip);
            self.process(&input, Some(valid), output)?;
            if (output.len(), self.skip) == before {
                return Err(format!("{} samples came out of {expected}", output.len()));
            }
            valid = 0;
        }
        output.truncate(expected);
        Ok(())
    }

    /// Resamples one block of input, of which the first `valid` samples are sound.
    fn process(&mut self, input: &[f32], valid: Option<usize>, output: &mut Vec<f32>) -> Result<(), String> {
        let length = self.block.len();
        let from = InterleavedSlice::new(input, 1, input.len()).map_err(|error| error.to_string())?;
        let mut to = InterleavedSlice::new_mut(&mut self.block, 1, length).map_err(|error| error.to_string())?;
        let indexing = valid.map(|valid| Indexing::new().partial_len(valid));
        let result = self.fft.process_into_buffer(&from, &mut to, indexing.as_ref());
        let (_, made) = result.map_err(|error| error.to_string())?;
        let skipped = self.skip.min(made);
        self.skip -= skipped;
        output.extend(self.block.iter().take(made).skip(skipped));
        Ok(())
    }
}

fn gcd(left: u32, right: u32) -> u32 {
    left.checked_rem(right).map_or(left, |rest| gcd(right, rest))
}

/// Refuses a rate or channels beyond the limits.
pub(super) fn check_layout(rate: u32, channels: usize, limits: &AudioLimits) -> Result<(), AudioError> {
    if !(MIN_SAMPLE_RATE..=limits.max_sample_rate).contains(&rate) {
        return Err(AudioError::SampleRate { rate, least: MIN_SAMPLE_RATE, most: limits.max_sample_rate });
    }
    if !(1..=limits.max_channels).contains(&channels) {
        return Err(AudioError::Channels { channels, most: limits.max_channels });
    }
    Ok(())
}

/// The mean of one frame's channels; of one channel its sample, bit for bit.
fn mean(values: &[f32]) -> f32 {
    match values {
        [value] => *value,
        _ => values.iter().sum::<f32>() / values.len() as f32,
    }
}

fn check_sample(frame: u64, value: f32) -> Result<(), AudioError> {
    if !value.is_finite() {
        return Err(AudioError::NotFinite { frame, value });
    }
    if value.abs() > LARGEST {
        return Err(AudioError::Scale { frame, value });
    }
    Ok(())
}

fn resampling(rate: u32, problem: String) -> AudioError {
    AudioError::Resample { rate, problem }
}
