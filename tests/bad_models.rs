//! Models that cannot be loaded: the error says what was found, what was expected and what to do.

mod common;

use std::path::{Path, PathBuf};

use common::oracle::{Oracle, data};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    error::{DeviceError, WeightError},
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions},
    weights::{Tensor, WeightMap},
};

/// A copy of a checkpoint that a test may damage.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data("checkpoints").join(name).join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().to_path_buf();
    (folder, path)
}

fn open(folder: &Path) -> gemmaflow::Result<GemmaGenerator> {
    GemmaGenerator::from_path(GemmaConfig::from_file(folder)?, folder, Device::Cpu)
}

fn weights(oracle: &Oracle, change: impl Fn(Tensor) -> Option<Tensor>) -> WeightMap {
    let mut loader = oracle.loader();
    let keys = loader.remaining_keys();
    WeightMap::from_tensors(keys.iter().filter_map(|key| change(loader.take(key).unwrap())).collect())
}

#[test]
fn a_missing_weight_is_named_with_its_neighbour() {
    let oracle = Oracle::open("gemma3-text");
    let gone = "layers.3.mlp.up_proj.weight";
    for device in [Device::Cpu, Device::Gpu] {
        let mut map = weights(&oracle, |t| (t.name() != gone).then_some(t));
        let error = GemmaGenerator::from_loader(oracle.config.clone(), &mut map, device).unwrap_err();
        let Error::Weight(WeightError::Missing { name, nearest }) = &error else { panic!("{error}") };
        assert_eq!(name, gone);
        assert!(nearest.as_ref().is_some_and(|n| n.contains("mlp.up_proj")), "{nearest:?}");
    }
}

#[test]
fn a_misshapen_weight_shows_both_shapes() {
    let oracle = Oracle::open("gemma3-text");
    let mut map = weights(&oracle, |t| match t.name() {
        "norm.weight" => Some(Tensor::from_f32("norm.weight", vec![7], &[0.0; 7])),
        _ => Some(t),
    });
    let error = GemmaGenerator::from_loader(oracle.config.clone(), &mut map, Device::Cpu).unwrap_err();
    let Error::Weight(WeightError::Shape { name, found, expected }) = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), &found[..], &expected[..]), ("norm.weight", &[7][..], &[48][..]));
}

#[test]
fn a_configuration_that_cannot_be_computed_is_refused() {
    let (_kept, folder) = copy("gemma3-text");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    for (from, to, says) in [
        ("\"gemma3_text\"", "\"gemma9_text\"", "gemma9_text"),
        ("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"),
        ("\"rope_type\": \"linear\"", "\"rope_type\": \"yarn\"", "yarn"),
        ("\"vocab_size\": 150", "\"vocab_size\": 0", "vocab_size"),
        ("\"sliding_window\": 9", "\"sliding_window\": 9, \"sink_tokens\": 4", "sink_tokens"),
    ] {
        assert!(text.contains(from), "the test replaces {from}");
        std::fs::write(folder.join("config.json"), text.replace(from, to)).unwrap();
        let error = open(&folder).unwrap_err();
        assert!(matches!(error, Error::Config(_) | Error::Unsupported(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let (_kept, folder) = copy("gemma3-text");
    let file = folder.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let error = open(&folder).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(&whole[..whole.len() - 100]).contains("100 bytes short"));
    refused(&whole[..4]);
    refused(&[]);
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&lying);
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open(&folder).unwrap_err(), Error::Io { .. } | Error::Format { .. }));
}

#[test]
fn nothing_there_and_nobody_called_that() {
    let error = GemmaConfig::from_file("no/such/folder").unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
    assert!(load_from_path(Path::new("no/such/folder")).is_err());
    let oracle = Oracle::open("gemma2");
    let nobody = Device::Named("Voodoo2".into());
    let error = GemmaGenerator::from_loader(oracle.config.clone(), oracle.loader().as_mut(), nobody).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::NoAdapter(_))), "{error}");
    let text = error.to_string();
    assert!(text.contains("Voodoo2") && gemmaflow::runtime::adapters().iter().any(|a| text.contains(&a.name)), "{text}");
}

#[test]
fn a_cache_that_does_not_fit_leaves_the_generator_usable() {
    let oracle = Oracle::open("gemma3-text");
    // 64 KiB a binding: 512 rows of one KV head of 20 fit, 1024 do not.
    let gpu = GpuOptions { max_binding: Some(64 << 10), ..GpuOptions::default() };
    let mut config = oracle.config.clone();
    config.max_position_embeddings = 4096;
    let options = GeneratorOptions { gpu, prefill_chunk: Some(16), ..GeneratorOptions::default() };
    let mut generator = GemmaGenerator::with_options(config, oracle.loader().as_mut(), Device::Gpu, options).unwrap();
    generator.prefill(vec![5; 2000]).unwrap();
    let error = generator.step_cached(&SampleOpts::greedy()).unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Limit { .. }) | Error::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("65536"), "{error}");
    assert_eq!(generator.tokens().len(), 2000, "nothing is lost");
    let prompt = oracle.tokens("p7.input_ids");
    generator.prefill(&prompt).unwrap();
    let text = generator.generate_cached(24, &SampleOpts::greedy()).unwrap();
    assert_eq!(text, oracle.tokens("p7.gen_tokens")[..text.len()]);
}
