//! Sounds as Gemma models take them: decoding, resampling, log-mel features, and the number of soft tokens.
//!
//! [`Audio`] is a clip in mono at 16 kHz. [`AudioFeatureExtractor`] makes the features of Gemma 4 and Gemma 3n of it,
//! and [`raw_frames`] the rows of Gemma 4 12B, which has no encoder.

mod decode;
mod features;
mod mel;
mod resample;
mod tokens;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use self::resample::Mono;
pub use self::{
    features::{AudioFeatureExtractor, Features, FloorRule, MaskRule},
    tokens::{GEMMA3N_SOFT_TOKENS, RAW_FRAME_LENGTH, gemma3n_encoder_frames, gemma4_soft_tokens, raw_frame_count, raw_frames},
};
use crate::error::AudioError;

/// Samples a second of every [`Audio`], the rate that all Gemma models were trained on.
pub const SAMPLE_RATE: u32 = 16_000;

/// The lowest sample rate that is taken, in Hz. Below it a second of speech has no words.
pub const MIN_SAMPLE_RATE: u32 = 1_000;

/// Bounds on what is decoded. They hold while a file is read, whatever its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioLimits {
    /// Most seconds of a clip. One second takes 64 kB of memory, and as much again at the end of decoding.
    pub max_seconds: u32,
    /// Most channels.
    pub max_channels: usize,
    /// The highest sample rate in Hz. The resampler's memory grows with it, up to about 200 bytes per Hz.
    pub max_sample_rate: u32,
    /// Takes what can be read of a damaged file: packets that cannot be decoded are left out, and a file that ends
    /// early ends there. Without it such a file is [`AudioError::Damaged`].
    pub allow_damaged: bool,
}

impl Default for AudioLimits {
    /// One hour, 16 channels, 384 kHz, whole files only.
    fn default() -> Self {
        Self { max_seconds: 3_600, max_channels: 16, max_sample_rate: 384_000, allow_damaged: false }
    }
}

/// A clip: mono samples at 16 kHz, nominally within −1…1. A clone shares them.
///
/// Samples of float files, of lossy codecs and of the resampler can reach a little beyond 1. They are kept so, as
/// transformers keeps them.
#[derive(Clone, PartialEq)]
pub struct Audio {
    samples: Arc<[f32]>,
}

impl Audio {
    /// Takes interleaved samples within −1…1.
    ///
    /// Channels are averaged, then resampled to 16 kHz if `sample_rate` is another; ⌈n · 16000 / rate⌉ samples of a
    /// channel's n result. Mono at 16 kHz is taken bit for bit.
    ///
    /// # Errors
    ///
    /// [`AudioError::Empty`], [`AudioError::SampleRate`], [`AudioError::Channels`], [`AudioError::Uneven`],
    /// [`AudioError::TooLong`], [`AudioError::NotFinite`], [`AudioError::Scale`].
    pub fn from_samples(samples: &[f32], sample_rate: u32, channels: usize, limits: &AudioLimits) -> Result<Self, AudioError> {
        let mut mono = Mono::new(sample_rate, channels, limits)?;
        if !samples.len().is_multiple_of(channels) {
            return Err(AudioError::Uneven { samples: samples.len(), channels });
        }
        mono.push(samples)?;
        Self::from_mono(mono)
    }

    /// Decodes a WAV (PCM, float, A-law, µ-law), FLAC, MP3 or Ogg (Vorbis, FLAC) file. The bytes say which it is.
    ///
    /// A 16-bit integer s is s / 32768. Of several tracks the file's default one is taken. The silence that MP3 and
    /// Vorbis encoders add is cut off where the file tells how much it is.
    ///
    /// A file that is damaged or shorter than its header says is an error unless [`AudioLimits::allow_damaged`] is
    /// set. Not all damage shows: MP3 frames have no checksums, MP3 files without an encoder's tag have no length, and
    /// an Ogg file can be cut between two pages. What is decoded of such a file is the clip.
    ///
    /// # Errors
    ///
    /// [`AudioError::Container`], [`AudioError::Header`], [`AudioError::NoTrack`], [`AudioError::Codec`],
    /// [`AudioError::Damaged`], [`AudioError::Changed`], and those of [`Audio::from_samples`].
    pub fn from_bytes(bytes: &[u8], limits: &AudioLimits) -> Result<Self, AudioError> {
        Self::from_mono(decode::decode(bytes, limits)?)
    }

    fn from_mono(mono: Mono) -> Result<Self, AudioError> {
        let samples = mono.finish()?;
        if samples.is_empty() {
            return Err(AudioError::Empty);
        }
        Ok(Self { samples: samples.into() })
    }

    /// The samples, one at least.
    #[must_use]
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// The length in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE)
    }

    /// SHA-256 of the samples as little-endian f32: equal clips have equal hashes, from whichever file they came.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        const BLOCK: usize = 1024;
        let mut hash = Sha256::new();
        let mut bytes = Vec::with_capacity(BLOCK * size_of::<f32>());
        for block in self.samples.chunks(BLOCK) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|sample| sample.to_le_bytes()));
            hash.update(&bytes);
        }
        hash.finalize().into()
    }
}

impl fmt::Debug for Audio {
    /// Writes the length, not the samples.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audio").field("samples", &self.samples.len()).field("seconds", &self.seconds()).finish()
    }
}
