//! Features against those of transformers, and against numbers that were computed in float64 without it.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use super::{AudioFeatureExtractor, Features, MelFilters};
use crate::{
    audio::{
        Audio, gemma4_soft_tokens, raw_frames,
        tests::{largest_difference, oracle, sine, whole},
    },
    error::AudioError,
};

/// The sum of all filters, and the weights of one filter from a bin on.
fn check_filters(fft_length: usize, low: f64, high: f64, sum: f64, rows: &[(usize, usize, &[f64])]) {
    let filters = MelFilters::new(fft_length, 128, low, high);
    let bins = fft_length / 2 + 1;
    let found: f64 = filters.apply(&vec![1.0; bins]).sum();
    assert!((found - sum).abs() < 1e-6, "{found} and {sum}");
    let column = |bin: usize| {
        let mut spectrum = vec![0.0; bins];
        spectrum[bin] = 1.0;
        filters.apply(&spectrum).collect::<Vec<f64>>()
    };
    for (filter, first, weights) in rows {
        assert_eq!(column(first - 1)[*filter], 0.0);
        for (bin, weight) in (*first..).zip(*weights) {
            assert!((column(bin)[*filter] - weight).abs() < 1e-6, "filter {filter}, bin {bin}");
        }
    }
}

#[test]
fn mel_filters_are_those_of_gemma_4() {
    let rows: [(usize, usize, &[f64]); 2] = [(64, 56, &[0.128486, 0.776708, 0.583290, 0.0]), (127, 246, &[0.126341])];
    check_filters(512, 0.0, 8000.0, 252.785137, &rows);
    let lowest = MelFilters::new(512, 128, 0.0, 8000.0).apply(&[1.0; 257]).next();
    assert_eq!(lowest, Some(0.0));
}

#[test]
fn mel_filters_are_those_of_gemma_3n() {
    let row: &[f64] = &[0.273066, 0.606711, 0.940356, 0.730860, 0.403133, 0.075406, 0.0];
    check_filters(1024, 125.0, 7600.0, 473.200609, &[(64, 122, row), (127, 468, &[0.029912])]);
}

fn check_values(features: &Features, frame: usize, values: &[(usize, f32)]) {
    for (bin, expected) in values {
        let found = features.values[frame * 128 + bin];
        // Rounding the samples to f32 moves bins that hold next to nothing by 2e-4, the others by less than 1e-5.
        let tolerance = if *expected < -6.5 { 3e-4 } else { 1e-5 };
        assert!((found - expected).abs() < tolerance, "frame {frame}, bin {bin}: {found} and {expected}");
    }
}

fn loudest(features: &Features, frame: usize) -> usize {
    let row = &features.values[frame * 128..(frame + 1) * 128];
    row.iter().enumerate().max_by(|left, right| left.1.total_cmp(right.1)).unwrap().0
}

#[test]
fn a_second_of_440_hz_has_the_features_of_float64() {
    let second = sine(16_000, 16_000.0, 440.0, 0.5);
    let gemma4 = AudioFeatureExtractor::gemma4().extract(&second).unwrap();
    assert_eq!((gemma4.frames, gemma4.width), (99, 128));
    check_values(&gemma4, 0, &[(0, -6.907755), (1, 0.808556), (2, -0.376335)]);
    check_values(&gemma4, 50, &[(24, 3.52727), (30, -1.348321), (40, -4.458442), (100, -6.858165)]);
    assert_eq!(loudest(&gemma4, 50), 24);

    let gemma3n = AudioFeatureExtractor::gemma3n().extract(&second).unwrap();
    assert_eq!(gemma3n.frames, 97);
    check_values(&gemma3n, 0, &[(0, -5.73796), (1, -6.592682), (2, -5.365601)]);
    check_values(&gemma3n, 50, &[(17, 2.696815), (40, -7.269774), (100, -11.512925)]);
    assert_eq!(loudest(&gemma3n, 50), 17);
}

/// Compares every clip of a checkpoint with `input_features` and `input_features_mask`. Returns the largest difference
/// of a valid row, and of any row.
fn check_oracle(name: &str, features: impl Fn(&Audio, usize) -> Features) -> [f32; 2] {
    let folder = oracle(name);
    let cases: Value = serde_json::from_slice(&fs::read(folder.join("mm_oracle.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("mm_oracle.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut most = [0f32; 2];
    let mut clips = 0;
    for case in cases["cases"].as_array().unwrap() {
        let files = case["audios"].as_array().unwrap();
        let read = |file: &Value| {
            let bytes = fs::read(folder.join(file.as_str().unwrap())).unwrap();
            Audio::from_bytes(&bytes, &whole()).unwrap()
        };
        let audios: Vec<Audio> = files.iter().map(read).collect();
        let Some(longest) = audios.iter().map(|audio| audio.samples().len()).max() else { continue };
        let tensor = |field: &str| tensors.tensor(&format!("{}.{field}", case["name"].as_str().unwrap())).unwrap();
        let expected = tensor("input_features");
        let mask = tensor("input_features_mask");
        let frames = expected.shape()[1];
        let width = expected.shape()[2];
        let numbers = |view: &[u8]| view.chunks_exact(4).map(|b| b.try_into().unwrap()).collect::<Vec<[u8; 4]>>();
        let values: Vec<f32> = numbers(expected.data()).into_iter().map(f32::from_le_bytes).collect();
        let valid: Vec<bool> = numbers(mask.data()).into_iter().map(|b| i32::from_le_bytes(b) != 0).collect();
        for (index, audio) in audios.iter().enumerate() {
            let found = features(audio, longest);
            assert_eq!(found.width, width);
            assert!(found.frames <= frames);
            let values = &values[index * frames * width..][..frames * width];
            let valid = &valid[index * frames..][..frames];
            assert_eq!(found.valid, valid[..found.frames], "{name}");
            // Rows that a batch adds after a shorter clip.
            assert!(!valid[found.frames..].contains(&true));
            for (row, is_valid) in found.valid.iter().enumerate() {
                let range = row * width..(row + 1) * width;
                let difference = largest_difference(&found.values[range.clone()], &values[range]);
                most[1] = most[1].max(difference);
                most[0] = if *is_valid { most[0].max(difference) } else { most[0] };
            }
            if let Some(tokens) = case["audio_info"][index]["n"].as_u64() {
                let counted = found.valid.iter().filter(|valid| **valid).count();
                let expected = if width == 128 { gemma4_soft_tokens(counted) } else { counted };
                assert_eq!(tokens as usize, expected, "{name}");
            }
            clips += 1;
        }
    }
    assert!(clips > 0);
    most
}

#[test]
fn features_of_gemma_4_are_those_of_transformers() {
    let extractor = AudioFeatureExtractor::gemma4();
    let alone = check_oracle("gemma4-audio", |audio, _| extractor.extract(audio.samples()).unwrap());
    let batch = check_oracle("gemma4-audio", |audio, longest| extractor.extract_padded(audio.samples(), longest).unwrap());
    assert!(alone[1] < 1e-3 && batch[1] < 1e-3, "{alone:?} {batch:?}");
}

#[test]
fn features_of_gemma_3n_are_those_of_transformers() {
    let extractor = AudioFeatureExtractor::gemma3n();
    for name in ["gemma3n-audio", "gemma3n-vision"] {
        let most = check_oracle(name, |audio, longest| extractor.extract_padded(audio.samples(), longest).unwrap());
        assert!(most[1] < 1e-3, "{name}: {most:?}");
    }
}

#[test]
fn rows_of_gemma_4_unified_are_those_of_transformers() {
    // The checkpoint's audio_embed_dim is 40.
    let most = check_oracle("gemma4-unified", |audio, _| raw_frames(audio.samples(), 40).unwrap());
    assert_eq!(most, [0.0, 0.0]);
}

#[test]
fn invalid_frames_are_zero_in_gemma_4_and_silence_in_gemma_3n() {
    let clip = sine(1_600, 16_000.0, 440.0, 0.5);
    let gemma4 = AudioFeatureExtractor::gemma4().extract(&clip).unwrap();
    assert_eq!((gemma4.frames, gemma4.valid[9]), (10, false));
    assert!(gemma4.values[9 * 128..].iter().all(|value| *value == 0.0));
    let gemma3n = AudioFeatureExtractor::gemma3n().extract_padded(&clip, 16_000).unwrap();
    assert_eq!(gemma3n.valid.iter().filter(|valid| **valid).count(), 10);
    assert!(gemma3n.values[96 * 128..].iter().all(|value| *value == (1e-5f64).ln() as f32));
}

#[test]
fn a_clip_is_cut_at_30_seconds() {
    for extractor in [AudioFeatureExtractor::gemma4(), AudioFeatureExtractor::gemma3n()] {
        let long = sine(481_000, 16_000.0, 440.0, 0.5);
        assert_eq!(extractor.extract(&long).unwrap(), extractor.extract(&long[..480_000]).unwrap());
    }
}

#[test]
fn a_clip_without_a_valid_frame_is_an_error() {
    for (extractor, fewest) in [(AudioFeatureExtractor::gemma4(), 161), (AudioFeatureExtractor::gemma3n(), 513)] {
        for samples in 1..700 {
            let result = extractor.extract(&vec![0.1; samples]);
            let too_short = matches!(result, Err(AudioError::TooShort { least, .. }) if least == fewest);
            assert_eq!(too_short, samples < fewest, "{samples}");
            assert_eq!(result.map_or(0, |found| found.valid.iter().filter(|valid| **valid).count()) == 0, too_short);
        }
        assert!(matches!(extractor.extract(&[]), Err(AudioError::Empty)));
    }
}

#[test]
fn numbers_without_meaning_are_an_error() {
    let base = AudioFeatureExtractor::gemma4();
    for broken in [
        AudioFeatureExtractor { frame_length: 0, ..base.clone() },
        AudioFeatureExtractor { frame_length: 513, ..base.clone() },
        AudioFeatureExtractor { hop_length: 0, ..base.clone() },
        AudioFeatureExtractor { feature_size: usize::MAX, ..base.clone() },
        AudioFeatureExtractor { pad_to_multiple_of: 0, ..base.clone() },
        AudioFeatureExtractor { fft_length: usize::MAX, ..base.clone() },
        AudioFeatureExtractor { fft_length: 480, ..base.clone() },
        AudioFeatureExtractor { max_frequency: 8001.0, ..base.clone() },
        AudioFeatureExtractor { min_frequency: f64::NAN, ..base.clone() },
        AudioFeatureExtractor { mel_floor: 0.0, ..base.clone() },
        AudioFeatureExtractor { preemphasis: -1.0, ..base.clone() },
    ] {
        assert!(matches!(broken.extract(&[0.1; 1000]), Err(AudioError::Extractor(_))), "{broken:?}");
        assert_eq!(broken.frames(1000), 0);
    }
}
