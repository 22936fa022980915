//! Weights larger than a binding: the largest one lowered, so that tables, heads and FFW weights are split by rows.

mod common;

use common::oracle::{GATE, Oracle, worst};
use gemmaflow::{
    Error,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions},
    runtime::{Device, GpuOptions},
    weights::load_from_path,
};

fn options(max_binding: u64) -> GeneratorOptions {
    let gpu = GpuOptions { max_binding: Some(max_binding), ..GpuOptions::default() };
    GeneratorOptions { gpu, prefill_chunk: Some(16), ..GeneratorOptions::default() }
}

#[test]
fn split_weights_give_the_same_logits() {
    // 16 KiB: the embedding of 150 rows of 192 bytes (and the tied head) lies in two shards; of the untied one's two tables each.
    for (name, least) in [("gemma3-text", 1), ("gemma3-untied-native", 2), ("gemma2", 1)] {
        let oracle = Oracle::open(name);
        let generator =
            GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Gpu, options(16 << 10));
        let mut generator = generator.unwrap().with_decode_cache(64).unwrap();
        assert!(generator.stats().split_weights >= least, "{name}: {:?}", generator.stats());
        let tokens = oracle.tokens("p33.input_ids");
        let mut logits = generator.all_logits(&tokens[..20]).unwrap();
        for token in &tokens[20..] {
            logits.extend(generator.decode_get_logits(*token).unwrap());
        }
        let error = worst(&logits, &oracle.f32("p33.logits"));
        println!("{name}: {} split weights, {error:.1e}", generator.stats().split_weights);
        assert!(error < GATE, "{name}: {error}");
    }
}

#[test]
fn the_demo_model_runs_on_small_bindings() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    let load = |options| {
        let config = GemmaConfig::from_file(folder).unwrap();
        let options = GeneratorOptions { context: Some(64), ..options };
        GemmaGenerator::with_options(config, load_from_path(folder).unwrap().as_mut(), Device::Gpu, options).unwrap()
    };
    let tokens = [2, 910, 262, 282, 459, 391, 415, 382];
    let whole = load(GeneratorOptions::default()).all_logits(&tokens).unwrap();
    // 128 KiB: 256 of the embedding's 1024 rows, and half of each FFW weight.
    let mut small = load(options(128 << 10));
    assert!(small.stats().split_weights >= 9, "{:?}", small.stats());
    assert!(worst(&small.all_logits(&tokens).unwrap(), &whole) < GATE);
}

#[test]
fn a_binding_too_small_for_a_row_is_named() {
    let oracle = Oracle::open("gemma3-text");
    let made = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Gpu, options(64));
    let error = made.unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
    assert!(error.to_string().contains("64"), "{error}");
}
