//! Weights larger than a binding: the largest one lowered, so that tables, heads and FFW weights are split by rows.

mod common;

use common::{
    gguf::GgufOracle,
    oracle::{GATE, Oracle, worst},
};
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    embed::{EmbedderOptions, GemmaEmbedder},
    error::DeviceError,
    gemma::{GemmaConfig, random_weights},
    generate::{Drafter, GemmaGenerator, GeneratorOptions, SampleHooks, SampleOpts},
    ir::DType,
    runtime::{Device, GpuOptions},
    weights::WeightLoader,
};

fn options(max_binding: u64) -> GeneratorOptions {
    let gpu = GpuOptions { max_binding: Some(max_binding), ..GpuOptions::default() };
    GeneratorOptions { gpu, prefill_chunk: Some(16), ..GeneratorOptions::default() }
}

#[test]
fn split_weights_give_the_same_logits() {
    // 16 KiB: the embedding of 150 rows of 192 bytes (and the tied head) lies in two shards; of the untied one's two
    // tables each. 24 KiB: of the matrices of all experts, gate and up or down, 128 or 256 rows to a shard, which are
    // no whole experts of 40 rows.
    let models = [("gemma3-text", 16, 1), ("gemma3-untied-native", 16, 2), ("gemma2", 16, 1), ("gemma4-moe", 24, 12)];
    for (name, kib, least) in models {
        let oracle = Oracle::open(name);
        let generator =
            GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Gpu, options(kib << 10));
        let mut generator = generator.unwrap().with_decode_cache(64).unwrap();
        assert!(generator.stats().split_weights >= least, "{name}: {:?}", generator.stats());
        let tokens = oracle.tokens("p33.input_ids");
        let mut logits = generator.all_logits(&tokens[..20]).unwrap();
        for token in &tokens[20..] {
            logits.extend(generator.decode_get_logits(*token).unwrap());
        }
        let error = worst(&logits, &oracle.f32("p33.logits"));
        println!("{name}: {} split weights, {error:.1e}", generator.stats().split_weights);
        assert!(error < oracle.gate(), "{name}: {error}");
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
    let whole = load(GeneratorOptions::default()).all_logits(tokens).unwrap();
    // 128 KiB: 256 of the embedding's 1024 rows, and half of each FFW weight.
    let mut small = load(options(128 << 10));
    assert!(small.stats().split_weights >= 9, "{:?}", small.stats());
    assert!(worst(&small.all_logits(tokens).unwrap(), &whole) < GATE);
}

/// Bindings and buffers of at most so many MiB.
const LIMITS: [u64; 3] = [1, 4, 128];

fn limited(mib: u64, config: GemmaConfig, loader: &mut dyn WeightLoader) -> GemmaGenerator {
    let gpu = GpuOptions { max_binding: Some(mib << 20), max_buffer: Some(mib << 20), ..GpuOptions::default() };
    let options = GeneratorOptions { gpu, prefill_chunk: Some(16), context: Some(64), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(config, loader, Device::Gpu, options).unwrap()
}

#[test]
fn models_give_their_logits_under_every_limit() {
    let gguf = GgufOracle::open("gemma2-s-q4_0-pure");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    let demo = || (GemmaConfig::from_file(demo).unwrap(), load_from_path(demo).unwrap());
    let (config, mut weights) = demo();
    let tokens = [2, 910, 262, 282, 459, 391, 415, 382];
    let mut whole = GemmaGenerator::from_loader(config, weights.as_mut(), Device::Gpu).unwrap();
    let expected = whole.all_logits(tokens).unwrap();
    for mib in LIMITS {
        let (config, mut weights) = demo();
        let error = worst(&limited(mib, config, weights.as_mut()).all_logits(tokens).unwrap(), &expected);
        assert!(error < GATE, "the demo model in {mib} MiB: {error}");
        for name in ["gemma3-text", "gemma1-mqa-bf16-sharded"] {
            let oracle = Oracle::open(name);
            let mut generator = limited(mib, oracle.config.clone(), oracle.loader().as_mut());
            let error = worst(&generator.all_logits(oracle.tokens("p33.input_ids")).unwrap(), &oracle.f32("p33.logits"));
            assert!(error < GATE, "{name} in {mib} MiB: {error}");
        }
        let config = GemmaConfig::from_gguf(&gguf.path).unwrap();
        let mut generator = limited(mib, config, load_from_path(&gguf.path).unwrap().as_mut());
        let logits = generator.all_logits(gguf.tokens("p33.input_ids")).unwrap();
        let error = worst(&logits, &gguf.f32("exact.p33.logits"));
        assert!(error < GATE, "{} in {mib} MiB: {error}", gguf.name);
    }
}

/// A table of 5 MB in one, two and five pieces, in arenas of the same size, against the reference.
#[test]
fn a_table_larger_than_a_buffer_gives_the_same_logits() {
    let config = GemmaConfig { vocab_size: 20_000, ..GemmaConfig::tiny_test() };
    let weights = || random_weights(&config, DType::F32, 3).unwrap();
    let tokens = [2, 19_999, 4_095, 4_096, 16_384, 7];
    let mut reference = GemmaGenerator::from_loader(config.clone(), &mut weights(), Device::Cpu).unwrap();
    let expected = reference.all_logits(tokens).unwrap();
    for (mib, split) in LIMITS.into_iter().zip([1, 1, 0]) {
        let mut generator = limited(mib, config.clone(), &mut weights());
        assert_eq!(generator.stats().split_weights, split, "{mib} MiB");
        let mut logits = generator.all_logits(&tokens[..4]).unwrap();
        for token in &tokens[4..] {
            logits.extend(generator.decode_get_logits(*token).unwrap());
        }
        let error = worst(&logits, &expected);
        assert!(error < GATE, "{mib} MiB: {error}");
    }
}

/// A real vocabulary, whose row of logits has 1 MiB, on a device of WebGPU's default limits: 127 rows are more than a
/// binding.
#[test]
fn every_row_of_a_real_vocabulary_comes_out() {
    let config = GemmaConfig { vocab_size: 262_144, ..GemmaConfig::tiny_test() };
    let load = |device| {
        let gpu = GpuOptions { max_binding: Some(128 << 20), max_buffer: Some(256 << 20), ..GpuOptions::default() };
        let options = GeneratorOptions { gpu, ..GeneratorOptions::default() };
        let mut weights = random_weights(&config, DType::BF16, 5).unwrap();
        GemmaGenerator::with_options(config.clone(), &mut weights, device, options).unwrap()
    };
    let tokens: Vec<u32> = (0..130).map(|i| (2 + i * 7919) % 262_144).collect();
    let (mut reference, mut device) = (load(Device::Cpu), load(Device::Gpu));
    let row = |logits: &[f32], index: usize| logits[index * config.vocab_size..][..config.vocab_size].to_vec();
    let expected = reference.all_logits(&tokens).unwrap();
    assert_eq!(expected.len(), tokens.len() * config.vocab_size);
    for end in [1, 64, 65, 128, 130] {
        let last = reference.prefill_get_last_logits(&tokens[..end]).unwrap();
        assert!(worst(&row(&expected, end - 1), &last) < GATE, "row {end} of the reference");
    }
    assert!(worst(&device.all_logits(&tokens).unwrap(), &expected) < GATE, "in chunks");
    device.prefill(&tokens[..40]).unwrap();
    for generator in [&mut reference, &mut device] {
        assert!(worst(&generator.recompute_all_logits(&tokens).unwrap(), &expected) < GATE, "at once");
    }
    assert_eq!(device.tokens(), &tokens[..40], "the history is as it was");
    let mut bucketed = device.share_weights().unwrap().with_decode_cache(256).unwrap();
    assert!(worst(&bucketed.all_logits(&tokens).unwrap(), &expected) < GATE, "bucketed");
    // A step's row, its log-probabilities, and the tokens that follow, alone, together and drafted.
    let last = row(&expected, 129);
    assert!(worst(&device.prefill_get_last_logits(&tokens).unwrap(), &last) < GATE);
    assert!(worst(&device.prefill_get_last_logits(&tokens[..129]).unwrap(), &row(&expected, 128)) < GATE);
    assert!(worst(&device.decode_get_logits(tokens[129]).unwrap(), &last) < GATE);
    let greedy = SampleOpts::greedy();
    let chosen = device.step_hooked(&greedy, &mut SampleHooks::new().with_logprobs(3)).unwrap();
    let most = last.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
    let sum = last.iter().map(|x| f64::from(x - most).exp()).sum::<f64>();
    let logprob = f64::from(chosen.logprob.expect("asked for"));
    let of_row = f64::from(last[chosen.token as usize] - most) - sum.ln();
    assert!((logprob - of_row).abs() < 1e-3 && chosen.top.len() == 3, "{logprob} {of_row}");
    let texts: Vec<Vec<u32>> = [&mut reference, &mut device]
        .into_iter()
        .map(|generator| {
            generator.prefill(&tokens).unwrap();
            generator.generate_cached(6, &greedy).unwrap()
        })
        .collect();
    assert_eq!(texts[0], texts[1]);
    let (mut first, mut second) = (device.share_weights().unwrap(), device.share_weights().unwrap());
    first.prefill(&tokens).unwrap();
    second.prefill(&tokens).unwrap();
    let together = GemmaGenerator::decode_batch(&mut [&mut first, &mut second], &[greedy; 2]);
    together.into_iter().for_each(|token| assert_eq!(token.unwrap(), texts[0][0]));
    // Drafted tokens with a penalty are chosen from whole rows.
    let penalised = greedy.with_repetition_penalty(1.1);
    let repeated = [&tokens[..20], &tokens[..20], &tokens[..12]].concat();
    device.prefill(&repeated).unwrap();
    let plain = device.generate_cached(8, &penalised).unwrap();
    let mut drafting = device.with_drafter(Drafter::prompt_lookup()).unwrap();
    drafting.prefill(&repeated).unwrap();
    assert_eq!(drafting.generate_cached(8, &penalised).unwrap(), plain);
}

#[test]
fn texts_of_a_real_vocabulary_are_embedded() {
    let config = Oracle::open("embeddinggemma").config;
    let config = GemmaConfig { vocab_size: 262_144, ..config };
    let texts: [Vec<u32>; 3] = [1, 40, 300].map(|n| (0..n).map(|i| (2 + i * 7919) % 262_144).collect());
    let embed = |device| {
        let gpu = GpuOptions { max_binding: Some(16 << 20), max_buffer: Some(16 << 20), ..GpuOptions::default() };
        let options = EmbedderOptions { gpu, ..EmbedderOptions::default() };
        let mut weights = random_weights(&config, DType::F32, 5).unwrap();
        let embedder = GemmaEmbedder::with_options(config.clone(), &mut weights, device, options).unwrap();
        embedder.embed(&texts).unwrap().concat()
    };
    assert!(worst(&embed(Device::Gpu), &embed(Device::Cpu)) < GATE);
}

#[test]
fn a_binding_too_small_for_a_row_is_named() {
    let oracle = Oracle::open("gemma3-text");
    let made = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Gpu, options(64));
    let error = made.unwrap_err();
    assert!(matches!(error, Error::Device(DeviceError::Limit { .. })), "{error}");
    assert!(error.to_string().contains("64"), "{error}");
}
