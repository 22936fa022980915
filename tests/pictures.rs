//! Pictures from their files to logits, and the life of a picture in a history.

mod common;
#[path = "pictures/on_device.rs"]
mod on_device;

use std::sync::Arc;

use common::{
    multimodal::{LONGEST_PICTURE, Multimodal},
    oracle::worst,
};
use gemmaflow::{
    Error,
    checkpoint::{load_from_path, load_towers_from_path},
    error::PromptError,
    gemma::VisionConfig,
    generate::{GemmaGenerator, GeneratorOptions, MemoryPlan, SampleOpts},
    image::{Image, ImageLimits, PanAndScan},
    prompt::{Modality, Prompt, SoftTokens},
    runtime::Device,
    vision::{TowerOptions, VisionEncoder},
};
use serde_json::Value;

/// Checkpoints with a tower that is computed; of `gemma4-audio` the only picture stands beside a sound.
const CHECKPOINTS: [&str; 6] =
    ["gemma3-vision", "gemma3-vision-bf16", "gemma3n-vision", "gemma4-e-vision-bf16", "gemma4-unified", "gemma4-vision"];

struct Seeing {
    oracle: Multimodal,
    generator: GemmaGenerator,
    encoder: VisionEncoder,
}

impl Seeing {
    fn new(name: &'static str, device: Device, options: GeneratorOptions) -> Self {
        let oracle = Multimodal::open(name);
        let options = GeneratorOptions { longest_picture: Some(LONGEST_PICTURE), ..options };
        let mut loader = load_from_path(&oracle.folder).unwrap();
        let generator = GemmaGenerator::with_options(oracle.config.clone(), loader.as_mut(), device, options).unwrap();
        let encoder = VisionEncoder::from_path(&oracle.config, &oracle.folder, generator.gpu()).unwrap();
        Self { oracle, generator, encoder }
    }

    fn image(&self, file: &str) -> Image {
        Image::from_bytes(&std::fs::read(self.oracle.folder.join(file)).unwrap(), &ImageLimits::default()).unwrap()
    }

    fn soft(&self, image: &Image, case: &Value) -> SoftTokens {
        let fixed = matches!(self.oracle.config.multimodal.vision, Some(VisionConfig::Siglip(_) | VisionConfig::MobileNet(_)));
        let budget = case["image_options"]["max_soft_tokens"].as_u64().map_or(0, |budget| budget as usize);
        if fixed { self.encoder.encode(image).unwrap() } else { self.encoder.encode_within(image, budget).unwrap() }
    }

    /// The prompt of a case, from the files of its pictures; nothing where it has sounds.
    fn prompt(&self, case: &Value) -> Option<Prompt> {
        let files: Vec<&str> = case["images"].as_array()?.iter().map(|file| file.as_str().unwrap()).collect();
        let mut prompt = Prompt::new();
        for part in case["parts"].as_array()? {
            if part.get("audio").is_some_and(|audio| !audio.is_null()) {
                return None;
            }
            let ids: Vec<u32> = part["tokens"].as_array()?.iter().map(|id| id.as_u64().unwrap() as u32).collect();
            match part["image"].as_u64() {
                None => prompt.push(ids),
                Some(at) => prompt.push(self.picture(&self.image(files[at as usize]), case, &ids)),
            }
        }
        Some(prompt)
    }

    /// A picture, with its crops where the case has some, laid out as `ids` say.
    fn picture(&self, image: &Image, case: &Value, ids: &[u32]) -> Prompt {
        let options = &case["image_options"];
        let mut images = vec![image.clone()];
        if options["do_pan_and_scan"] == true {
            let size = |key: &str| options[key].as_u64().unwrap() as usize;
            let crops = PanAndScan {
                min_crop_size: size("pan_and_scan_min_crop_size"),
                max_crops: size("pan_and_scan_max_num_crops"),
                min_ratio: options["pan_and_scan_min_ratio_to_activate"].as_f64().unwrap(),
            };
            images.extend(crops.crops(image));
        }
        let mut images = images.iter();
        let mut prompt = Prompt::new();
        let mut at = 0;
        while at < ids.len() {
            if ids[at] == self.encoder.ids().soft {
                let soft = self.soft(images.next().expect("a picture for each run of soft tokens"), case);
                at += soft.len();
                prompt.push(soft);
            } else {
                prompt.push([ids[at]]);
                at += 1;
            }
        }
        assert!(images.next().is_none(), "{}: every picture has its soft tokens", self.oracle.name);
        assert_eq!(prompt.tokens(), ids);
        prompt
    }
}

/// From PNG files to logits at every position, and to greedy text.
#[test]
fn from_files_to_logits() {
    for (device_name, device) in [("reference", Device::Cpu), ("gpu", Device::Gpu)] {
        for name in CHECKPOINTS {
            let mut seeing = Seeing::new(name, device.clone(), GeneratorOptions::default());
            for case in seeing.oracle.cases() {
                let Some(prompt) = seeing.prompt(seeing.oracle.case(&case)) else { continue };
                let logits = seeing.generator.all_logits(&prompt).unwrap();
                let error = worst(&logits, &seeing.oracle.f32(&format!("{case}.logits")));
                println!("{device_name:10} {name:22} {case:6} {error:.1e}");
                assert!(error < seeing.oracle.gate(), "{device_name} {name} {case}: {error}");
                let expected = seeing.oracle.ids(&format!("{case}.gen_tokens"));
                let step = |_| seeing.generator.step_cached(&SampleOpts::greedy()).unwrap();
                let found: Vec<u32> = (0..expected.len()).map(step).collect();
                assert_eq!(found, expected, "{device_name} {name} {case}");
            }
        }
    }
}

/// The layout of the stock processors.
#[test]
fn a_picture_is_laid_out_as_the_processor_does() {
    for (name, case) in [("gemma3-vision", "exact"), ("gemma3n-vision", "exact"), ("gemma4-vision", "exact")] {
        let seeing = Seeing::new(name, Device::Cpu, GeneratorOptions::default());
        let case = seeing.oracle.case(case).clone();
        let part = case["parts"].as_array().unwrap().iter().find(|part| part["image"] == 0).unwrap();
        let ids: Vec<u32> = part["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let image = seeing.image(case["images"][0].as_str().unwrap());
        assert_eq!(seeing.encoder.lay_out(seeing.soft(&image, &case)).tokens(), ids, "{name}");
    }
}

/// Two pictures, the same ids: the rows of one are never taken for the other's.
#[test]
fn another_picture_of_the_same_ids_is_computed_anew() {
    for device in [Device::Cpu, Device::Gpu] {
        for deterministic in [false, true] {
            let options = GeneratorOptions { deterministic, ..GeneratorOptions::default() };
            let mut seeing = Seeing::new("gemma3-vision", device.clone(), options);
            let image = |at: usize| seeing.image(&format!("inputs/two.{at}.png"));
            let with = |image: &Image| Prompt::from([2, 5, 6]).then(seeing.encoder.prompt(image).unwrap()).then([7, 8, 9]);
            let [one, other] = [with(&image(0)), with(&image(1))];
            assert_eq!(one.tokens(), other.tokens());
            let apart = |generator: &GemmaGenerator, prompt: &Prompt| {
                generator.share_weights().unwrap().prefill_get_last_logits(prompt).unwrap()
            };
            let expected = [apart(&seeing.generator, &one), apart(&seeing.generator, &other)];
            assert!(worst(&expected[0], &expected[1]) > 0.01, "the pictures differ");
            let generator = &mut seeing.generator;
            for (prompt, expected) in [(&one, &expected[0]), (&other, &expected[1]), (&one, &expected[0])] {
                let found = generator.prefill_get_last_logits(prompt).unwrap();
                assert!(worst(&found, expected) < 1e-5, "{device:?} {deterministic}");
            }
            // The same picture again costs no row but the last.
            let rows = generator.rows_computed();
            generator.prefill_get_last_logits(&one).unwrap();
            let most = if deterministic { one.len() as u64 } else { 1 };
            assert!(generator.rows_computed() - rows <= most);
        }
    }
}

/// A picture is forgotten whole: what begins within it begins before it.
#[test]
fn a_history_that_is_cut_within_a_picture_keeps_none_of_it() {
    let mut seeing = Seeing::new("gemma3-vision", Device::Gpu, GeneratorOptions::default());
    let image = seeing.image("inputs/one.0.png");
    let soft = seeing.encoder.encode(&image).unwrap();
    let half = SoftTokens::new(Modality::Image, soft.placeholder(), soft.width(), soft.values()[..soft.width() * 8].to_vec());
    let whole = Prompt::from([2, 5]).then(soft).then([7]);
    let shorter = Prompt::from([2, 5]).then(half.unwrap()).then([7]);
    seeing.generator.prefill_get_last_logits(&whole).unwrap();
    assert_eq!(seeing.generator.rows_kept(&shorter), 2);
    assert_eq!(seeing.generator.rows_kept(&whole), whole.len() - 1);
    let text = whole.tokens().to_vec();
    assert_eq!(seeing.generator.rows_kept(text), 2, "text of the same ids");
}

#[test]
fn a_history_with_a_picture_is_forked_saved_and_restored() {
    for device in [Device::Cpu, Device::Gpu] {
        let mut seeing = Seeing::new("gemma4-vision", device.clone(), GeneratorOptions::default());
        let prompt = seeing.prompt(seeing.oracle.case("two")).unwrap();
        let expected = seeing.oracle.ids("two.gen_tokens");
        let next = |generator: &mut GemmaGenerator, count: usize| -> Vec<u32> {
            (0..count).map(|_| generator.step_cached(&SampleOpts::greedy()).unwrap()).collect()
        };
        seeing.generator.prefill(&prompt).unwrap();
        assert_eq!(next(&mut seeing.generator, 4), expected[..4]);
        let mut fork = seeing.generator.fork().unwrap();
        let mut bytes = Vec::new();
        seeing.generator.save(&mut bytes).unwrap();
        assert_eq!(next(&mut fork, 4), expected[4..8]);
        let mut restored = seeing.generator.share_weights().unwrap();
        restored.restore(&bytes[..]).unwrap();
        assert_eq!(next(&mut restored, 12), expected[4..]);
        assert_eq!(restored.rows_computed(), 12, "rows of the picture are taken from the file");
        // Of a generator that runs other chunks the rows are computed again, from the soft tokens in the file.
        let options = GeneratorOptions { prefill_chunk: Some(32), ..GeneratorOptions::default() };
        let mut other = Seeing::new("gemma4-vision", device.clone(), options).generator;
        other.restore(&bytes[..]).unwrap();
        assert_eq!(next(&mut other, 12), expected[4..]);
        for cut in [bytes.len() - 1, 100, 70 + prompt.len() * 4] {
            assert!(matches!(restored.restore(&bytes[..cut]), Err(Error::Saved(_))), "{cut}");
        }
    }
}

/// A kept picture costs no dispatch.
#[test]
fn a_picture_is_encoded_once() {
    let seeing = Seeing::new("gemma4-vision", Device::Gpu, GeneratorOptions::default());
    let image = seeing.image("inputs/one.0.png");
    let first = seeing.encoder.encode_within(&image, 70).unwrap();
    let submits = || seeing.generator.counters().unwrap().submits;
    let before = submits();
    let again = seeing.encoder.clone().encode_within(&image.clone(), 70).unwrap();
    assert_eq!((submits(), again), (before, first.clone()));
    assert!(seeing.encoder.encode_within(&image, 60).unwrap() != first && submits() > before, "another budget");
}

#[test]
fn pictures_that_cannot_be_run_are_refused_and_change_nothing() {
    let mut seeing = Seeing::new("gemma4-vision", Device::Gpu, GeneratorOptions::default());
    let width = seeing.oracle.config.hidden_size;
    let soft = |rows: usize, width: usize| SoftTokens::new(Modality::Image, 147, width, vec![0.5; rows * width]).unwrap();
    seeing.generator.prefill([2, 5, 6]).unwrap();
    let refused = |generator: &mut GemmaGenerator, prompt: Prompt| match generator.prefill(prompt) {
        Err(Error::Prompt(error)) => error,
        other => panic!("{other:?}"),
    };
    let generator = &mut seeing.generator;
    assert!(matches!(refused(generator, Prompt::from([2]).then(soft(4, width))), PromptError::EndsWithSoftTokens));
    assert!(matches!(refused(generator, Prompt::from(soft(4, width + 1)).then([2])), PromptError::SoftTokens(_)));
    let large = refused(generator, Prompt::from(soft(LONGEST_PICTURE + 1, width)).then([2]));
    assert!(matches!(large, PromptError::PictureTooLarge { tokens: 71, most: 70 }), "{large}");
    let sound = SoftTokens::new(Modality::Audio, 150, width, vec![0.5; 200 * width]).unwrap();
    generator.prefill(Prompt::from([2]).then(sound).then([3])).unwrap();
    assert!(seeing.encoder.encode_within(&seeing.image("inputs/one.0.png"), 0).is_err());
    let mut config = seeing.oracle.config.clone();
    config.multimodal.vision = Some(VisionConfig::Unsupported("another tower".into()));
    let mut loader = load_towers_from_path(&seeing.oracle.folder).unwrap();
    let error = VisionEncoder::from_loader(&config, loader.as_mut(), None, TowerOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
}

/// Rings with room for a picture, and the run of one, are in the plan of memory.
#[test]
fn a_plan_of_memory_counts_a_picture() {
    let context = 512;
    let options =
        || GeneratorOptions { context: Some(context), longest_picture: Some(LONGEST_PICTURE), ..GeneratorOptions::default() };
    for name in ["gemma3-vision", "gemma4-vision"] {
        let mut seeing = Seeing::new(name, Device::Gpu, options());
        let gpu = seeing.generator.gpu().unwrap();
        let plan = |options: &GeneratorOptions| {
            let mut loader = load_from_path(&seeing.oracle.folder).unwrap();
            MemoryPlan::for_options(seeing.oracle.config.clone(), loader.as_mut(), gpu.capabilities(), options).unwrap()
        };
        let with = plan(&options());
        let without = plan(&GeneratorOptions { longest_picture: None, ..options() });
        let window = seeing.oracle.config.sliding_window.unwrap();
        assert_eq!([without.sliding_cache.rows, with.sliding_cache.rows], [window + 128, window + 128]);
        assert!(with.scratch > without.scratch, "{name}: {with:?}");
        let wide = plan(&GeneratorOptions { longest_picture: Some(280), ..options() });
        assert_eq!(wide.sliding_cache.rows, window + 280, "{name}: a picture is run at once");
        let case = seeing.oracle.case("two").clone();
        let prompt = Prompt::from(vec![5; 300]).then(seeing.prompt(&case).unwrap());
        let text = prompt.tokens().len();
        seeing.generator.prefill(prompt).unwrap();
        (0..context - text - 1).for_each(|_| _ = seeing.generator.step_cached(&SampleOpts::greedy()).unwrap());
        assert_eq!(seeing.generator.stats().cache_bytes, with.caches(), "{name}");
    }
}

/// One picture for several threads and generators.
#[test]
fn threads_share_an_encoder() {
    let seeing = Seeing::new("gemma3-vision", Device::Gpu, GeneratorOptions::default());
    let image = Arc::new(seeing.image("inputs/one.0.png"));
    let expected = seeing.oracle.f32("one.vision.soft");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let encoder = seeing.encoder.clone();
            let image = image.clone();
            std::thread::spawn(move || encoder.encode(&image).unwrap())
        })
        .collect();
    for thread in threads {
        assert!(worst(thread.join().unwrap().values(), &expected) < 1e-4);
    }
}
