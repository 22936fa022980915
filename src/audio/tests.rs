//! Clips, their limits, and resampling against analytic sines.

use std::{f64::consts::TAU, fs, path::PathBuf};

use super::{
    Audio, AudioFeatureExtractor, AudioLimits, GEMMA3N_SOFT_TOKENS, gemma3n_encoder_frames, gemma4_soft_tokens, raw_frame_count,
    raw_frames,
};
use crate::error::AudioError;

/// The checkpoints with files of sound and the features that transformers made of them.
const ORACLE: &str = "tests/data/multimodal";

/// Short files of each container, written by libsndfile 1.2.2.
const FILES: &str = "tests/data/audio";

pub(super) fn oracle(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(ORACLE).join(name)
}

pub(super) fn file(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILES).join(name)).unwrap()
}

pub(super) fn whole() -> AudioLimits {
    AudioLimits::default()
}

pub(super) fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// `count` samples of a sine at `rate`.
pub(super) fn sine(count: usize, rate: f64, frequency: f64, amplitude: f64) -> Vec<f32> {
    (0..count).map(|index| (amplitude * (TAU * frequency * index as f64 / rate).sin()) as f32).collect()
}

fn take(samples: &[f32], rate: u32, channels: usize) -> Result<Audio, AudioError> {
    Audio::from_samples(samples, rate, channels, &whole())
}

/// The largest difference from the sine at 16 kHz, without `edge` samples at both ends.
fn sine_error(rate: u32, frequency: f64, edge: usize) -> f32 {
    let left = sine(rate as usize, f64::from(rate), frequency, 0.8);
    // The right channel is half the left one, so that the mean is 0.6 of full scale.
    let stereo: Vec<f32> = left.iter().flat_map(|sample| [*sample, sample * 0.5]).collect();
    let audio = take(&stereo, rate, 2).unwrap();
    assert_eq!(audio.samples().len(), 16_000, "1 s at {rate} Hz");
    let expected = sine(16_000, 16_000.0, frequency, 0.6);
    let inner = edge..16_000 - edge;
    largest_difference(&audio.samples()[inner.clone()], &expected[inner])
}

#[test]
fn resampled_sines_are_the_analytic_ones() {
    for (rate, frequency) in [
        (44_100, 440.0),
        (44_100, 1000.0),
        (44_100, 7000.0),
        (48_000, 3000.0),
        (8_000, 1000.0),
        (22_050, 440.0),
        (11_025, 440.0),
        (96_000, 440.0),
        (192_000, 5000.0),
        (384_000, 440.0),
        (44_101, 440.0),
        (15_999, 440.0),
        (1_000, 100.0),
    ] {
        let error = sine_error(rate, frequency, 1100);
        assert!(error < 2e-5, "{rate} Hz, {frequency} Hz: {error}");
    }
}

#[test]
fn frequencies_that_16_khz_cannot_hold_are_filtered_out() {
    let audio = take(&sine(44_100, 44_100.0, 9_000.0, 0.8), 44_100, 1).unwrap();
    let loudest = audio.samples()[1100..14_900].iter().fold(0f32, |most, sample| most.max(sample.abs()));
    assert!(loudest < 2e-5, "{loudest}");
}

#[test]
fn a_resampled_clip_has_the_samples_of_its_length_rounded_up() {
    for (rate, samples, expected) in [
        (44_100, 1usize, 1usize),
        (44_100, 2, 1),
        (44_100, 3, 2),
        (44_100, 44_099, 16_000),
        (44_100, 44_101, 16_001),
        (48_000, 3000, 1000),
        (8_000, 1, 2),
        (8_000, 12_345, 24_690),
        (16_001, 16_001, 16_000),
    ] {
        let audio = take(&vec![0.25; samples], rate, 1).unwrap();
        assert_eq!(audio.samples().len(), expected, "{samples} at {rate} Hz");
    }
}

#[test]
fn parts_are_resampled_as_the_whole() {
    let samples = sine(30_000, 44_100.0, 440.0, 0.5);
    let mut mono = super::resample::Mono::new(44_100, 1, &whole()).unwrap();
    for part in samples.chunks(577) {
        mono.push(part).unwrap();
    }
    assert_eq!(mono.finish().unwrap(), take(&samples, 44_100, 1).unwrap().samples());
}

#[test]
fn mono_at_16_khz_is_taken_bit_for_bit() {
    let samples = [0.1, -0.2, 1.0, -1.0, 1.5, f32::MIN_POSITIVE, -0.0];
    let audio = take(&samples, 16_000, 1).unwrap();
    assert!(audio.samples().iter().zip(&samples).all(|(found, given)| found.to_bits() == given.to_bits()));
    assert_eq!(take(&[0.5, -0.25, 1.0, 0.0], 16_000, 2).unwrap().samples(), [0.125, 0.5]);
    assert_eq!(format!("{audio:?}"), "Audio { samples: 7, seconds: 0.0004375 }");
    assert_eq!(audio.clone(), audio);
}

#[test]
fn what_is_no_clip_is_an_error() {
    assert!(matches!(take(&[], 16_000, 1), Err(AudioError::Empty)));
    assert!(matches!(take(&[], 44_100, 2), Err(AudioError::Empty)));
    assert!(matches!(take(&[0.0], 0, 1), Err(AudioError::SampleRate { rate: 0, .. })));
    assert!(matches!(take(&[0.0], 999, 1), Err(AudioError::SampleRate { .. })));
    assert!(matches!(take(&[0.0], u32::MAX, 1), Err(AudioError::SampleRate { .. })));
    assert!(matches!(take(&[0.0], 16_000, 0), Err(AudioError::Channels { channels: 0, .. })));
    assert!(matches!(take(&[0.0; 17], 16_000, 17), Err(AudioError::Channels { channels: 17, most: 16 })));
    assert!(matches!(take(&[0.0; 3], 16_000, 2), Err(AudioError::Uneven { samples: 3, channels: 2 })));
    assert!(matches!(take(&[0.0, 0.0, f32::NAN], 16_000, 1), Err(AudioError::NotFinite { frame: 2, .. })));
    let infinite = [0.0, 0.0, 0.0, f32::INFINITY];
    assert!(matches!(take(&infinite, 48_000, 2), Err(AudioError::NotFinite { frame: 1, .. })));
    assert!(matches!(take(&[0.0, -12_345.0], 16_000, 1), Err(AudioError::Scale { frame: 1, .. })));
    let limits = AudioLimits { max_seconds: 2, ..whole() };
    assert!(Audio::from_samples(&vec![0.0; 16_000], 8_000, 1, &limits).is_ok());
    let long = Audio::from_samples(&vec![0.0; 16_001], 8_000, 1, &limits);
    assert!(matches!(long, Err(AudioError::TooLong { most: 2 })));
}

#[test]
fn the_hash_is_sha_256_of_the_samples() {
    // Of the bytes 00 00 00 3f 00 00 80 bf, by Python's hashlib.
    let expected = "031a5e93e726630d2e7087e4356829de6907683f3a2aba769e5155e7a068d167";
    let hex = |audio: &Audio| audio.content_hash().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let audio = take(&[0.5, -1.0], 16_000, 1).unwrap();
    assert_eq!(hex(&audio), expected);
    // Of 5000 samples of 0.5.
    assert_eq!(hex(&take(&[0.5; 5000], 16_000, 1).unwrap()), "d680381e9b5a84d839fd907918a8575f50372c25dd4252fec292dc47217cea49");
}

#[test]
fn token_counts_are_those_of_the_models() {
    let gemma4 = AudioFeatureExtractor::gemma4();
    for (samples, frames, valid, tokens) in
        [(1_600, 10, 9, 3), (16_000, 99, 99, 25), (160_000, 999, 999, 250), (480_000, 2999, 2999, 750)]
    {
        assert_eq!(gemma4.frames(samples), frames, "{samples}");
        assert_eq!(gemma4.valid_frames(samples), valid, "{samples}");
        assert_eq!(gemma4_soft_tokens(gemma4.valid_frames(samples)), tokens, "{samples}");
    }
    let gemma3n = AudioFeatureExtractor::gemma3n();
    for (samples, frames, tokens) in [(16_000, 97, 7), (160_000, 997, 63), (480_000, 2997, 188)] {
        assert_eq!(gemma3n.frames(samples), frames, "{samples}");
        assert_eq!(gemma3n_encoder_frames(gemma3n.frames(samples)), tokens, "{samples}");
    }
    assert_eq!(gemma3n_encoder_frames(gemma3n.frames(10_000_000)), GEMMA3N_SOFT_TOKENS);
    for (samples, rows) in [(0, 0), (1, 1), (640, 1), (641, 2), (16_000, 25)] {
        assert_eq!(raw_frame_count(samples, 640), rows);
    }
}

#[test]
fn raw_rows_are_filled_with_zeros() {
    let rows = raw_frames(&[0.5; 7], 4).unwrap();
    assert_eq!(rows.values, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0]);
    assert_eq!((rows.frames, rows.width, rows.valid), (2, 4, vec![true; 2]));
    assert!(matches!(raw_frames(&[], 640), Err(AudioError::Empty)));
    assert!(matches!(raw_frames(&[0.0], 0), Err(AudioError::Extractor(_))));
}
