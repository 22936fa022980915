//! The plan policies of a generator: right logits at every edge, true LRU, one plan a bucket, bounded memory.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::sync::{Mutex, MutexGuard, PoisonError};

use gemmaflow::{
    Error, Result,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{CacheStats, Device},
};
use oracle::{GATE, Oracle, worst};

type Policy = fn(GemmaGenerator) -> Result<GemmaGenerator>;
type Capacity = fn(GemmaGenerator, usize) -> Result<GemmaGenerator>;

const POLICIES: [(&str, Policy); 8] = [
    ("default", Ok),
    ("prefill cache of 1", |g| g.with_prefill_cache(1)),
    ("prefill cache of 3", |g| g.with_prefill_cache(3)),
    ("dynamic prefill of 16", |g| g.with_dynamic_prefill_cache(16)),
    ("dynamic prefill of 5", |g| g.with_dynamic_prefill_cache(5)),
    ("decode cache", |g| g.with_decode_cache(100)),
    ("dynamic decode", |g| g.with_dynamic_decode_cache(75)),
    ("all dynamic", |g| g.with_dynamic_prefill_cache(72)?.with_dynamic_decode_cache(72)),
];

/// One test at a time: they count what a device is asked for, and software drivers take minutes to compile on two busy
/// devices at once.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A vocabulary of 150 (gemma3-text) and 151 (gemma1-mha).
fn generator(oracle: &Oracle, device: &Device, chunk: usize) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: Some(chunk), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

/// Gemma 1 has no ring: every common prefix stays. Its context is lengthened.
fn long(context: usize) -> Oracle {
    let mut oracle = Oracle::open("gemma1-mha");
    oracle.config.max_position_embeddings = context;
    oracle
}

fn pipelines(generator: &GemmaGenerator) -> u64 {
    generator.counters().map_or(0, |c| c.pipelines_created)
}

#[test]
fn every_policy_gives_the_logits_of_transformers_at_bucket_edges() {
    let _alone = alone();
    // Plans are the GPU's; what the reference shares with them is how many rows the caches have.
    let of_rows = |name: &str| name.contains("decode") || name == "all dynamic";
    for (model, device) in [("gemma3-text", Device::Gpu), ("gemma2", Device::Gpu), ("gemma3-text", Device::Cpu)] {
        let oracle = Oracle::open(model);
        let (tokens, expected) = (oracle.tokens("p70.input_ids"), oracle.f32("p70.logits"));
        let vocab = oracle.config.vocab_size;
        let row = |len: usize| &expected[(len - 1) * vocab..][..vocab];
        // Starts with another token, so that no prefix is common.
        let elsewhere = (tokens[0] + 1) % vocab as u32;
        let first = generator(&oracle, &device, 16);
        let all = model == "gemma3-text" && device == Device::Gpu;
        for (policy, apply) in POLICIES.into_iter().filter(|(name, _)| all || of_rows(name)) {
            let mut generator = apply(first.share_weights().unwrap()).unwrap();
            for len in [1, 2, 4, 5, 15, 16, 17, 64, 65] {
                generator.prefill_get_last_logits([elsewhere]).unwrap();
                let mut error = worst(&generator.prefill_get_last_logits(&tokens[..len]).unwrap(), row(len));
                for (index, next) in tokens.iter().enumerate().skip(len).take(3) {
                    error = error.max(worst(&generator.decode_get_logits(*next).unwrap(), row(index + 1)));
                }
                assert!(error < GATE, "{model} {device} {policy} {len}: {error}");
            }
            let error = worst(&generator.all_logits(&tokens).unwrap(), &expected);
            assert!(error < GATE, "{model} {device} {policy}: {error}");
        }
    }
}

#[test]
fn exact_prefill_plans_are_forgotten_by_last_use() {
    let _alone = alone();
    let oracle = Oracle::open("gemma3-text");
    let mut generator = generator(&oracle, &Device::Gpu, 64).with_prefill_cache(2).unwrap();
    let mut first = 10;
    let mut run = |generator: &mut GemmaGenerator, len: usize| {
        // No two prompts have a prefix in common.
        first += 1;
        let prompt: Vec<u32> = (first..first + len as u32).collect();
        generator.prefill_get_last_logits(&prompt).unwrap();
        generator.prefill_cache_stats()
    };
    let counts = |s: CacheStats| (s.hits, s.misses, s.compiles, s.evictions);
    assert_eq!(counts(run(&mut generator, 5)), (0, 1, 1, 0));
    assert_eq!(counts(run(&mut generator, 9)), (0, 2, 2, 0));
    assert_eq!(counts(run(&mut generator, 5)), (1, 2, 2, 0));
    // The third drops 9. A queue would drop 5, which came first.
    assert_eq!(counts(run(&mut generator, 12)), (1, 3, 3, 1));
    assert_eq!(counts(run(&mut generator, 5)), (2, 3, 3, 1));
    assert_eq!(counts(run(&mut generator, 12)), (3, 3, 3, 1));
    assert_eq!(counts(run(&mut generator, 9)), (3, 4, 4, 2));
    // One token is a decode step, and none of these is.
    assert_eq!(generator.decode_cache_stats(), CacheStats::default());
}

#[test]
fn evicted_plans_give_their_memory_back() {
    let _alone = alone();
    let oracle = long(512);
    let mut generator = generator(&oracle, &Device::Gpu, 128).with_prefill_cache(1).unwrap();
    let run = |generator: &mut GemmaGenerator, token: u32, len: usize| {
        generator.prefill_get_last_logits(vec![token; len]).unwrap();
        (generator.prefill_cache_stats().bytes, generator.counters().unwrap())
    };
    run(&mut generator, 5, 4);
    let (small, before) = run(&mut generator, 6, 3);
    let (large, _) = run(&mut generator, 7, 120);
    let (again, after) = run(&mut generator, 8, 3);
    assert!(large > small * 8, "{small} {large}");
    assert_eq!((again, after.bytes_live, after.buffers_live), (small, before.bytes_live, before.buffers_live));
}

/// Steps through `lengths` lengths three times. Pipelines come with new plans only. Where the caches grow, plans are
/// made anew in the second round; in the third nothing is made at all.
fn walk(generator: &mut GemmaGenerator, lengths: usize) {
    let made = |generator: &GemmaGenerator| (generator.decode_cache_stats().compiles, pipelines(generator));
    for round in 0..3 {
        generator.prefill([7 + round]).unwrap();
        let start = made(generator);
        for length in 1..=lengths {
            let before = made(generator);
            generator.step_cached(&SampleOpts::greedy()).unwrap();
            let after = made(generator);
            assert!(after.0 > before.0 || after.1 == before.1, "a known bucket compiled at length {length}");
        }
        if round == 2 {
            assert_eq!(made(generator), start);
        }
    }
    assert_eq!(generator.cached_rows(), lengths);
}

#[test]
fn a_thousand_decode_lengths_have_one_plan_a_bucket() {
    let _alone = alone();
    let oracle = long(1024);
    let first = generator(&oracle, &Device::Gpu, 16);
    let cases: [(Policy, u64); 3] = [
        // 1, 2, 4, … 1,024 rows.
        (|g| g.with_decode_cache(1024), 11),
        // 256, 512, 1,024: each growth of the caches makes the plan anew, and the second time all are there.
        (Ok, 5),
        (|g| g.with_dynamic_decode_cache(1024), 1),
    ];
    for (index, (apply, most)) in cases.into_iter().enumerate() {
        let mut generator = apply(first.share_weights().unwrap()).unwrap();
        walk(&mut generator, 1000);
        let stats = generator.decode_cache_stats();
        assert!(stats.compiles <= most, "{index}: {stats:?}");
        assert_eq!((stats.hits + stats.misses, stats.evictions, stats.misses), (3000, 0, stats.compiles), "{index}");
        // Input blocks of 2.5 KiB and 8·H bytes, and activations that all plans share: those of one plan, four times.
        let mut one = first.share_weights().unwrap().with_dynamic_decode_cache(1024).unwrap();
        one.prefill([7]).unwrap();
        one.step_cached(&SampleOpts::greedy()).unwrap();
        let block = 2560 + 8 * oracle.config.head_dim as u64;
        let bound = 4 * one.decode_cache_stats().bytes + stats.compiles * block;
        assert!(stats.bytes <= bound, "{index}: {} bytes, at most {bound}", stats.bytes);
    }
}

#[test]
fn a_thousand_prefills_stay_within_their_plans_and_bytes() {
    let _alone = alone();
    let oracle = long(1024);
    let first = generator(&oracle, &Device::Gpu, 64);
    let block = |tokens: usize| 2048 + tokens as u64 * (8 + 8 * oracle.config.head_dim as u64);
    // Lengths of runs, plans held at most, and plans made at most where none is evicted.
    let cases: [(&str, Policy, usize, u64, Option<u64>); 3] = [
        // 4, 16 and 64 tokens at 256, 512 and 1,024 rows, for rows alone and for logits.
        ("default", Ok, 63, 16, Some(18)),
        // One that fills rows and one that gives logits.
        ("dynamic", |g| g.with_dynamic_prefill_cache(1024), 63, 2, Some(2)),
        // More lengths than plans.
        ("exact", |g| g.with_prefill_cache(4), 6, 4, None),
    ];
    for (name, apply, lengths, most, compiles) in cases {
        let mut longest = apply(first.share_weights().unwrap()).unwrap();
        longest.prefill_get_last_logits([9; 64]).unwrap();
        let bound = 4 * longest.prefill_cache_stats().bytes + most * block(64);
        let mut generator = apply(first.share_weights().unwrap()).unwrap();
        let mut history: Vec<u32> = (0..1000u32).map(|i| 4 + i * 7 % 140).collect();
        let mut warm = 0;
        for length in 1..=1000usize {
            // A common prefix and two or more new tokens at its end.
            let new = (2 + length * 37 % lengths).min(length);
            history[length - new] = 4 + (history[length - new] - 3) % 140;
            generator.prefill_get_last_logits(&history[..length]).unwrap();
            let stats = generator.prefill_cache_stats();
            assert!(stats.bytes <= bound, "{name} {length}: {} bytes, at most {bound}", stats.bytes);
            if length == 700 {
                warm = pipelines(&generator);
            }
        }
        let stats = generator.prefill_cache_stats();
        if let Some(compiles) = compiles {
            assert!(stats.compiles <= compiles, "{name}: {stats:?}");
            assert_eq!(stats.evictions, 0, "{name}");
            assert_eq!(pipelines(&generator), warm, "{name}: pipelines after the warm-up");
        }
        let of_several = stats.hits + stats.misses;
        assert!(stats.misses == stats.compiles && of_several >= 999, "{name}: {stats:?}");
        assert!(stats.evictions > 100 || compiles.is_some(), "{name}: {stats:?}");
        let error = {
            let logits = generator.prefill_get_last_logits(&history[..777]).unwrap();
            let mut reference = self::generator(&oracle, &Device::Cpu, 64);
            worst(&logits, &reference.prefill_get_last_logits(&history[..777]).unwrap())
        };
        assert!(error < GATE, "{name}: {error}");
    }
}

#[test]
fn capacities_out_of_range_are_errors_that_name_the_option() {
    let _alone = alone();
    let oracle = Oracle::open("gemma3-text");
    let options: [(&str, Capacity); 4] = [
        ("with_prefill_cache: capacity", GemmaGenerator::with_prefill_cache),
        ("with_dynamic_prefill_cache: capacity", GemmaGenerator::with_dynamic_prefill_cache),
        ("with_decode_cache: max_past", GemmaGenerator::with_decode_cache),
        ("with_dynamic_decode_cache: capacity", GemmaGenerator::with_dynamic_decode_cache),
    ];
    for device in [Device::Cpu, Device::Gpu] {
        let first = generator(&oracle, &device, 16);
        for (name, apply) in options {
            for wrong in [0, 513, usize::MAX] {
                let error = apply(first.share_weights().unwrap(), wrong).unwrap_err();
                let right = matches!(&error, Error::Option { option, found, .. } if *option == name && *found == wrong);
                let text = error.to_string();
                assert!(right && text.contains(name) && text.contains("512"), "{text}");
            }
            apply(first.share_weights().unwrap(), 512).unwrap();
        }
        let small = apply_both(first.share_weights().unwrap());
        assert_eq!(small.max_context(), 20);
    }
    let options = GeneratorOptions { prefill_chunk: Some(24), ..GeneratorOptions::default() };
    let result = GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), Device::Cpu, options);
    assert!(matches!(result.unwrap_err(), Error::Option { found: 24, .. }));
    let result = GemmaGenerator::from_path_with_mtp(oracle.config.clone(), &oracle.folder, Device::Cpu, true);
    assert!(matches!(result.unwrap_err(), Error::Unsupported(_)));
    GemmaGenerator::from_path_with_mtp(oracle.config.clone(), &oracle.folder, Device::Cpu, false).unwrap();
}

/// The smaller of two contexts holds.
fn apply_both(generator: GemmaGenerator) -> GemmaGenerator {
    generator.with_dynamic_prefill_cache(300).unwrap().with_dynamic_decode_cache(20).unwrap()
}
