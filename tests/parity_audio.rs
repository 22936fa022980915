//! Audio towers against transformers: every stage from its own features, and from WAV files to logits.

mod common;

use std::sync::Arc;

use common::{
    cooperative, half,
    multimodal::{LONGEST_PICTURE, Multimodal},
    open,
    oracle::worst,
};
use gemmaflow::{
    Error,
    audio::{Audio, AudioLimits, Features},
    checkpoint::{load_from_path, load_towers_from_path},
    error::PromptError,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    hearing::{AudioEncoder, TowerOptions},
    image::{Image, ImageLimits},
    prompt::Prompt,
    runtime::{Device, GpuContext, GpuOptions},
    vision::VisionEncoder,
};
use serde_json::Value;

const CHECKPOINTS: [&str; 3] = ["gemma3n-audio", "gemma4-audio", "gemma4-unified"];

/// Gates on a tower's states and on soft tokens (docs/gemma.md).
const TOWER: f32 = 2e-4;
const SOFT: f32 = 1e-4;

fn encoder(oracle: &Multimodal, gpu: Option<Arc<GpuContext>>, options: TowerOptions) -> AudioEncoder {
    let mut loader = load_towers_from_path(&oracle.folder).unwrap();
    AudioEncoder::from_loader(&oracle.config, loader.as_mut(), gpu, options).unwrap()
}

/// The features of a case's clips as transformers has them, each of its own length.
fn features(oracle: &Multimodal, case: &str) -> Vec<Features> {
    let name = format!("{case}.input_features");
    if !oracle.has(&name) {
        return Vec::new();
    }
    let shape = oracle.shape(&name);
    let width = shape[2];
    let values = oracle.f32(&name);
    let masks = oracle.ids(&format!("{case}.input_features_mask"));
    let clips = values.chunks(shape[1] * width).zip(masks.chunks(shape[1]));
    let cut = |(values, mask): (&[f32], &[u32])| {
        let valid: Vec<bool> = mask.iter().map(|valid| *valid != 0).collect();
        // Gemma 3n sees the padding of its batch.
        let is_3n = oracle.name.starts_with("gemma3n");
        let frames = if is_3n { valid.len() } else { valid.iter().filter(|valid| **valid).count() };
        Features { values: values[..frames * width].to_vec(), valid: valid[..frames].to_vec(), frames, width }
    };
    clips.map(cut).collect()
}

fn audio(oracle: &Multimodal, file: &Value) -> Audio {
    let bytes = std::fs::read(oracle.folder.join(file.as_str().unwrap())).unwrap();
    Audio::from_bytes(&bytes, &AudioLimits::default()).unwrap()
}

/// The rows that are of a clip in transformers' batch.
fn rows_of<'a>(oracle: &Multimodal, name: &str, clip: usize, values: &'a [f32]) -> &'a [f32] {
    let shape = oracle.shape(name);
    let one: usize = shape[1..].iter().product();
    &values[clip * one..(clip + 1) * one]
}

/// Frames of features, or rows of samples, that one soft token is of.
fn frames_a_token(name: &str) -> usize {
    match name {
        "gemma3n-audio" => 16,
        "gemma4-audio" => 4,
        _ => 1,
    }
}

/// Soft tokens of every clip of every case, from features and from files.
#[test]
fn soft_tokens_are_those_of_transformers() {
    for (device, context) in [("reference", None), ("gpu", Some(open(&GpuOptions::default())))] {
        for name in CHECKPOINTS {
            let oracle = Multimodal::open(name);
            let encoder = encoder(&oracle, context.clone(), TowerOptions::exact());
            for case in oracle.cases() {
                let files: Vec<Audio> =
                    oracle.case(&case)["audios"].as_array().unwrap().iter().map(|file| audio(&oracle, file)).collect();
                if files.is_empty() {
                    continue;
                }
                let from_files = encoder.encode_together(&files).unwrap();
                let soft = format!("{case}.audio.soft");
                let expected = oracle.f32(&soft);
                for (clip, features) in features(&oracle, &case).iter().enumerate() {
                    let found = encoder.encode_features(features).unwrap();
                    let expected = rows_of(&oracle, &soft, clip, &expected);
                    let valid = features.valid.iter().filter(|valid| **valid).count();
                    let rows = valid.div_ceil(frames_a_token(name));
                    let compared = rows * found.width();
                    let error = worst(&found.values()[..compared], &expected[..compared]);
                    let whole = worst(&from_files[clip].values()[..compared], &expected[..compared]);
                    println!(
                        "{device:10} {name:22} {case:6} {rows:4} soft tokens, from features {error:.1e}, from the file {whole:.1e}"
                    );
                    assert!(error < SOFT, "{device} {name} {case}: {error}");
                    assert!(whole < SOFT, "{device} {name} {case}: {whole} from the file");
                    assert_eq!(from_files[clip].len(), found.len());
                }
            }
        }
    }
}

/// As they are computed when nobody asks for anything. Gemma 4's are not rounded.
#[test]
fn sounds_stay_within_the_gate_of_f16_by_default_where_there_are_cooperative_matrices() {
    let Some(context) = cooperative() else { return };
    for name in CHECKPOINTS {
        let oracle = Multimodal::open(name);
        let encoder = encoder(&oracle, Some(context.clone()), TowerOptions::default());
        for case in oracle.cases() {
            let soft = format!("{case}.audio.soft");
            for (clip, features) in features(&oracle, &case).iter().enumerate() {
                let found = encoder.encode_features(features).unwrap();
                let expected = oracle.f32(&soft);
                let expected = rows_of(&oracle, &soft, clip, &expected);
                let valid = features.valid.iter().filter(|valid| **valid).count();
                let compared = valid.div_ceil(frames_a_token(name)) * found.width();
                let share = half::share(&found.values()[..compared], &expected[..compared]);
                println!("{name:22} {case:6} {clip} rms {share:.1e} of the soft tokens'");
                let gate = if name == "gemma3n-audio" { 2e-3 } else { 1e-5 };
                assert!(share < gate, "{name} {case} {clip}: {share}");
            }
        }
    }
}

/// The first clip of each checkpoint, layer by layer.
#[test]
fn every_stage_is_that_of_transformers() {
    for (device, context) in [("reference", None), ("gpu", Some(open(&GpuOptions::default())))] {
        for name in ["gemma3n-audio", "gemma4-audio"] {
            let oracle = Multimodal::open(name);
            let case = oracle.cases().into_iter().find(|case| oracle.has(&format!("{case}.input_features"))).unwrap();
            let encoder = encoder(&oracle, context.clone(), TowerOptions::exact());
            let features = &features(&oracle, &case)[0];
            let layers = (0..).map(|n| (format!("audio.layer_out.{n}"), format!("audio.layer.{n}.output")));
            let layers = layers.take_while(|(theirs, _)| oracle.has(&format!("{case}.{theirs}")));
            let named = ["audio.subsampled", "audio.tower"].map(|name| (name.to_string(), name.to_string()));
            let stages: Vec<_> =
                named.into_iter().chain(layers).filter(|(theirs, _)| oracle.has(&format!("{case}.{theirs}"))).collect();
            assert!(stages.len() > 3, "{name} {case} has {} stages", stages.len());
            let labels: Vec<&str> = stages.iter().map(|(_, ours)| ours.as_str()).collect();
            let outputs = encoder.run(features, &labels).unwrap();
            let valid = features.valid.iter().filter(|valid| **valid).count();
            for (theirs, ours) in &stages {
                let (_, value) = outputs.iter().find(|(name, _)| name == ours).unwrap();
                let expected = oracle.f32(&format!("{case}.{theirs}"));
                let reduced = theirs == "audio.tower";
                let rows = valid.div_ceil(if reduced { frames_a_token(name) } else { 4 });
                let compared = rows * value.shape.last().unwrap();
                let error = worst(&value.to_f32().unwrap()[..compared], &expected[..compared]);
                println!("{device:10} {name:22} {case:6} {theirs:22} {error:.1e}");
                assert!(error < TOWER, "{device} {name} {case} {theirs}: {error}");
            }
        }
    }
}

/// A generator and the towers of its checkpoint.
struct Hearing {
    oracle: Multimodal,
    generator: GemmaGenerator,
    encoder: AudioEncoder,
}

impl Hearing {
    fn new(name: &'static str, device: Device) -> Self {
        let oracle = Multimodal::open(name);
        let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..GeneratorOptions::default() };
        let mut loader = load_from_path(&oracle.folder).unwrap();
        let generator = GemmaGenerator::with_options(oracle.config.clone(), loader.as_mut(), device, options).unwrap();
        let encoder = AudioEncoder::from_path(&oracle.config, &oracle.folder, generator.gpu()).unwrap();
        Self { oracle, generator, encoder }
    }

    /// The prompt of a case, from its files; nothing where it has no sounds.
    fn prompt(&self, case: &Value) -> Option<Prompt> {
        let clips: Vec<Audio> = case["audios"].as_array()?.iter().map(|file| audio(&self.oracle, file)).collect();
        if clips.is_empty() {
            return None;
        }
        let sounds = self.encoder.encode_together(&clips).unwrap();
        let mut prompt = Prompt::new();
        for part in case["parts"].as_array()? {
            let ids: Vec<u32> = part["tokens"].as_array()?.iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let laid_out = match (part["image"].as_u64(), part["audio"].as_u64()) {
                (_, Some(at)) => self.encoder.lay_out(sounds[at as usize].clone()),
                (Some(at), _) => self.picture(case, at as usize),
                (None, None) => ids.clone().into(),
            };
            assert_eq!(laid_out.tokens(), ids, "the layout of the processor");
            prompt.push(laid_out);
        }
        Some(prompt)
    }

    fn picture(&self, case: &Value, at: usize) -> Prompt {
        let encoder = VisionEncoder::from_path(&self.oracle.config, &self.oracle.folder, self.generator.gpu()).unwrap();
        let bytes = std::fs::read(self.oracle.folder.join(case["images"][at].as_str().unwrap())).unwrap();
        let image = Image::from_bytes(&bytes, &ImageLimits::default()).unwrap();
        let budget = case["image_options"]["max_soft_tokens"].as_u64().unwrap() as usize;
        encoder.lay_out(encoder.encode_within(&image, budget).unwrap())
    }
}

/// From WAV files to logits at every position, and to greedy text.
#[test]
fn from_files_to_logits() {
    for (device_name, device) in [("reference", Device::Cpu), ("gpu", Device::Gpu)] {
        for name in CHECKPOINTS {
            let mut hearing = Hearing::new(name, device.clone());
            for case in hearing.oracle.cases() {
                let Some(prompt) = hearing.prompt(hearing.oracle.case(&case)) else { continue };
                let logits = hearing.generator.all_logits(&prompt).unwrap();
                let error = worst(&logits, &hearing.oracle.f32(&format!("{case}.logits")));
                println!("{device_name:10} {name:22} {case:6} {error:.1e}");
                assert!(error < hearing.oracle.gate(), "{device_name} {name} {case}: {error}");
                let expected = hearing.oracle.ids(&format!("{case}.gen_tokens"));
                let step = |_| hearing.generator.step_cached(&SampleOpts::greedy()).unwrap();
                let found: Vec<u32> = (0..expected.len()).map(step).collect();
                assert_eq!(found, expected, "{device_name} {name} {case}");
            }
        }
    }
}

/// A clip that was heard costs no work of the device, and is told from another of the same length.
#[test]
fn a_clip_is_encoded_once() {
    let gpu = open(&GpuOptions::default());
    let oracle = Multimodal::open("gemma4-audio");
    let encoder = encoder(&oracle, Some(gpu.clone()), TowerOptions::exact());
    let clip = audio(&oracle, &oracle.case("one")["audios"][0]);
    let first = encoder.encode(&clip).unwrap();
    let submits = gpu.counters().snapshot().submits;
    assert_eq!(encoder.encode(&clip).unwrap(), first);
    assert_eq!(gpu.counters().snapshot().submits, submits, "the tower ran again");
    let quieter: Vec<f32> = clip.samples().iter().map(|sample| 0.5 * sample).collect();
    let quieter = Audio::from_samples(&quieter, 16_000, 1, &AudioLimits::default()).unwrap();
    assert_ne!(encoder.encode(&quieter).unwrap(), first);
}

/// Soft tokens do not depend on how far the graph is filled up.
#[test]
fn a_clip_gives_the_same_soft_tokens_in_a_larger_graph() {
    for name in ["gemma3n-audio", "gemma4-audio"] {
        let oracle = Multimodal::open(name);
        let encoder = encoder(&oracle, None, TowerOptions::exact());
        let clip = &features(&oracle, "one")[0];
        let expected = encoder.encode_features(clip).unwrap();
        let mut longer = clip.clone();
        longer.frames += 300;
        longer.valid.resize(longer.frames, false);
        longer.values.resize(longer.frames * longer.width, 0.0);
        let found = encoder.encode_features(&longer).unwrap();
        let valid = clip.valid.iter().filter(|valid| **valid).count();
        // The convolutions of Gemma 3n look ahead, so that its last soft token hears the zeros.
        let rows = valid.div_ceil(frames_a_token(name)) - usize::from(name == "gemma3n-audio");
        let compared = rows * expected.width();
        let error = worst(&found.values()[..compared], &expected.values()[..compared]);
        assert!(error < SOFT, "{name}: {error}");
    }
}

#[test]
fn what_cannot_be_heard_is_refused() {
    let oracle = Multimodal::open("gemma4-audio");
    let encoder = encoder(&oracle, None, TowerOptions::exact());
    let moment = Audio::from_samples(&[0.1; 100], 16_000, 1, &AudioLimits::default()).unwrap();
    let error = encoder.encode(&moment).unwrap_err();
    assert!(matches!(error, Error::Prompt(PromptError::Audio(_))), "{error}");
    let narrow = Features { values: vec![0.0; 64], valid: vec![true], frames: 1, width: 64 };
    let error = encoder.encode_features(&narrow).unwrap_err();
    assert!(matches!(error, Error::Prompt(PromptError::SoftTokens(_))), "{error}");
    let text = Multimodal::open("gemma4-vision");
    let mut loader = load_towers_from_path(&text.folder).unwrap();
    let error = AudioEncoder::from_loader(&text.config, loader.as_mut(), None, TowerOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
}
