//! Files that are whole, and files that are not.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    audio::{
        Audio, AudioLimits,
        tests::{file, largest_difference, oracle, whole},
    },
    error::AudioError,
};

fn damaged() -> AudioLimits {
    AudioLimits { allow_damaged: true, ..whole() }
}

/// Half a second of two tones, 16-bit at 16 kHz: what the files hold.
fn tones() -> Vec<f32> {
    let sample = |index: usize| {
        let t = std::f64::consts::TAU * index as f64 / 16_000.0;
        let value = 0.4 * (440.0 * t).sin() + 0.2 * (1000.0 * t + 1.0).sin();
        ((value * 32767.0).round() / 32768.0) as f32
    };
    (0..8000).map(sample).collect()
}

/// A WAV file of 16-bit samples.
fn wav(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
    let data = (samples.len() * 2) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
    bytes.extend((channels * 2).to_le_bytes());
    bytes.extend([16, 0]);
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

fn error(bytes: &[u8]) -> AudioError {
    Audio::from_bytes(bytes, &whole()).unwrap_err()
}

#[test]
fn samples_of_16_bits_are_divided_by_32768() {
    let samples: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    let audio = Audio::from_bytes(&wav(16_000, 1, &samples), &whole()).unwrap();
    let expected: Vec<f32> = samples.iter().map(|sample| f32::from(*sample) / 32768.0).collect();
    assert_eq!(audio.samples(), expected);
    let stereo = Audio::from_bytes(&wav(16_000, 2, &[100, 200, -32768, 32767]), &whole()).unwrap();
    assert_eq!(stereo.samples(), [150.0 / 32768.0, -0.5 / 32768.0]);
}

#[test]
fn the_oracle_s_wav_files_are_their_bytes() {
    for name in ["gemma4-audio/inputs/one.0.wav", "gemma3n-audio/inputs/two.1.wav"] {
        let bytes = fs::read(oracle(name)).unwrap();
        let data = &bytes[44..];
        let expected: Vec<f32> = data.chunks(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect();
        assert_eq!(Audio::from_bytes(&bytes, &whole()).unwrap().samples(), expected);
    }
}

#[test]
fn every_container_gives_the_sound_that_was_written() {
    for (name, samples, tolerance) in [
        ("tones.flac", 8000, 0.0),
        ("tones.mp3", 8000, 0.03),
        ("tones.ogg", 8000, 0.05),
        ("tones-pcm_u8.wav", 800, 0.0079),
        ("tones-pcm_24.wav", 800, 0.0),
        ("tones-pcm_32.wav", 800, 0.0),
        ("tones-float.wav", 800, 0.0),
        ("tones-double.wav", 800, 0.0),
        ("tones-alaw.wav", 800, 0.016),
        ("tones-ulaw.wav", 800, 0.0131),
    ] {
        let audio = Audio::from_bytes(&file(name), &whole()).unwrap();
        assert_eq!(audio.samples().len(), samples, "{name}");
        let difference = largest_difference(audio.samples(), &tones()[..samples]);
        assert!(difference <= tolerance, "{name}: {difference}");
    }
    let stereo = Audio::from_bytes(&file("stereo24.flac"), &whole()).unwrap();
    let quarter: Vec<f32> = tones().iter().map(|sample| sample * 0.25).collect();
    assert!(largest_difference(stereo.samples(), &quarter) <= 0.5 / 32768.0);
}

#[test]
fn lossy_files_are_decoded_as_by_libsndfile() {
    let mp3 = [0.104284, -0.181037, -0.41224, 0.432906, -0.105998, 0.180781, 0.40783, -0.433123, 0.105705, -0.19225, -0.412373];
    let ogg = [0.098595, -0.179885, -0.40916, 0.434668, -0.103666, 0.178096, 0.404912, -0.427931, 0.098553, -0.181461, -0.401235];
    for (name, expected) in [("tones.mp3", mp3), ("tones.ogg", ogg)] {
        let audio = Audio::from_bytes(&file(name), &whole()).unwrap();
        let found: Vec<f32> = audio.samples().iter().skip(123).step_by(750).copied().collect();
        let difference = largest_difference(&found, &expected);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn other_files_are_named() {
    for (bytes, found) in [
        (&b""[..], "no bytes"),
        (b"\0\0\0 ftypM4A ", "M4A"),
        (b"FORM\0\0\0\0AIFF", "AIFF"),
        (b"RF64\xff\xff\xff\xffWAVE", "RF64"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\0\0\0\0AVI ", "RIFF"),
        (b"\xff", "\\xff"),
    ] {
        let error = error(bytes);
        assert!(matches!(error, AudioError::Container { .. }) && error.to_string().contains(found), "{error}");
    }
    // Noise that holds MP3 sync words.
    let noise: Vec<u8> = (0..200_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(matches!(error(&noise), AudioError::Container { .. }));
}

#[test]
fn headers_that_lie_take_no_memory() {
    let mut long = wav(16_000, 1, &[1; 1000]);
    long[40..44].copy_from_slice(&0x7fff_0000u32.to_le_bytes());
    long[4..8].copy_from_slice(&0x7fff_0024u32.to_le_bytes());
    assert!(matches!(error(&long), AudioError::TooLong { most: 3600 }));
    let mut ends = wav(16_000, 1, &[1; 1000]);
    ends[40..44].copy_from_slice(&20_000u32.to_le_bytes());
    ends[4..8].copy_from_slice(&20_036u32.to_le_bytes());
    assert!(matches!(error(&ends), AudioError::Damaged { .. }));
    for bytes in [&long, &ends] {
        let audio = Audio::from_bytes(bytes, &damaged()).unwrap();
        assert_eq!(audio.samples(), vec![1.0 / 32768.0; 1000]);
    }
    // What programs write whose output cannot be rewound.
    let mut piped = wav(16_000, 1, &[1; 1000]);
    piped[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    piped[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Audio::from_bytes(&piped, &whole()).map(|audio| audio.samples().len()).ok(), Some(1000));
}

#[test]
fn limits_hold_for_files() {
    let limits = AudioLimits { max_seconds: 1, ..damaged() };
    let long = wav(8_000, 1, &vec![1; 8_001]);
    assert!(matches!(Audio::from_bytes(&long, &limits), Err(AudioError::TooLong { most: 1 })));
    assert!(Audio::from_bytes(&wav(8_000, 1, &[1; 8_000]), &limits).is_ok());
    assert!(matches!(error(&wav(0, 1, &[1; 8])), AudioError::SampleRate { rate: 0, .. } | AudioError::Header { .. }));
    assert!(matches!(error(&wav(500_000, 1, &[1; 8])), AudioError::SampleRate { rate: 500_000, .. }));
    assert!(matches!(error(&wav(16_000, 18, &[1; 18])), AudioError::Channels { channels: 18, most: 16 }));
    assert!(matches!(error(&wav(16_000, 1, &[])), AudioError::Empty));
    let mut float = file("tones-float.wav");
    let end = float.len();
    float[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(error(&float), AudioError::NotFinite { frame: 799, .. }));
}

#[test]
fn a_changed_sample_of_a_flac_file_is_found() {
    let mut bytes = file("tones.flac");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    assert!(matches!(error(&bytes), AudioError::Damaged { .. }));
    assert!(Audio::from_bytes(&bytes, &damaged()).is_ok());
}

#[test]
fn a_lost_page_of_an_ogg_file_is_found() {
    let mut bytes = file("noise.ogg");
    assert_eq!(Audio::from_bytes(&bytes, &whole()).map(|audio| audio.samples().len()).ok(), Some(27_000));
    // Within the second of three pages of sound.
    bytes[9_000] ^= 0x10;
    assert!(matches!(error(&bytes), AudioError::Damaged { .. }));
    let rest = Audio::from_bytes(&bytes, &damaged()).unwrap();
    assert!((10_000..20_000).contains(&rest.samples().len()), "{rest:?}");
}

#[test]
fn a_cut_file_is_found() {
    for (name, tenths, least) in
        [("tones.flac", 6, 4000), ("tones.mp3", 6, 3000), ("noise.ogg", 8, 10_000), ("tones-float.wav", 6, 400)]
    {
        let bytes = file(name);
        let bytes = &bytes[..bytes.len() * tenths / 10];
        let error = error(bytes);
        assert!(matches!(error, AudioError::Damaged { .. }), "{name}: {error}");
        let rest = Audio::from_bytes(bytes, &damaged()).unwrap();
        assert!(rest.samples().len() >= least, "{name}: {rest:?}");
    }
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Reads a file under both rules. A panic that was caught counts as one.
fn survives(bytes: &[u8], what: &str) {
    for limits in [whole(), damaged()] {
        let start = Instant::now();
        let problem = Audio::from_bytes(bytes, &limits).err().map_or(String::new(), |error| error.to_string());
        assert!(!problem.contains("panicked"), "{what}: {problem}");
        assert!(start.elapsed() < Duration::from_secs(5), "{what}: {:?}", start.elapsed());
    }
}

#[test]
fn damaged_files_neither_panic_nor_hang() {
    let mut files: Vec<(String, Vec<u8>)> = ["tones.flac", "tones.mp3", "tones.ogg", "stereo24.flac", "tones-alaw.wav"]
        .map(|name| (name.to_owned(), file(name)))
        .into();
    for name in ["gemma4-audio/inputs/short.0.wav", "gemma4-unified/inputs/both.0.wav"] {
        files.push((name.into(), fs::read(oracle(name)).unwrap()));
    }
    for (name, bytes) in &files {
        let mut random = Random(7);
        for round in 0..ROUNDS {
            let mut changed = bytes.clone();
            // Half of the changes are in the header.
            let bound = if random.below(2) == 0 { bytes.len().min(128) } else { bytes.len() };
            if round % 4 == 0 {
                changed.truncate(random.below(bound));
            }
            for _ in 0..(round % 4) * 2 {
                changed[random.below(bound)] ^= 1 << random.below(8);
            }
            survives(&changed, &format!("{name}, round {round}"));
        }
    }
}

/// Changed copies of each file.
const ROUNDS: usize = 2000;
