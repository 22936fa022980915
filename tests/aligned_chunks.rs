//! What a deterministic generator keeps, and which plans it may have: the same tokens give the same bits after a step
//! back, a mark, and a change of plans.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use gemmaflow::{
    Error,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::Device,
};
use oracle::Oracle;

const GREEDY: SampleOpts = SampleOpts::greedy();

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Gpu]
}

fn generator(oracle: &Oracle, device: &Device, options: GeneratorOptions) -> GemmaGenerator {
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

/// With rings of 9 + 16 rows.
fn options(deterministic: bool) -> GeneratorOptions {
    GeneratorOptions { deterministic, prefill_chunk: Some(16), ..GeneratorOptions::default() }
}

fn tokens(oracle: &Oracle, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i * 11 + 5) % (oracle.config.vocab_size as u32 - 4) + 4).collect()
}

/// `rows_kept` is what others compare by; a prefill keeps as many, wherever the text parts.
#[test]
fn the_rows_that_are_told_to_be_kept_are_kept() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 60);
    for device in devices() {
        for deterministic in [false, true] {
            let mut original = generator(&oracle, &device, options(deterministic));
            original.prefill_get_last_logits(&text[..37]).unwrap();
            original.checkpoint();
            original.prefill(&text).unwrap();
            original.step_cached(&GREEDY).unwrap();
            let mut kept = Vec::new();
            for parted in 1..60 {
                let mut fork = original.fork().unwrap();
                let other = [&text[..parted], &[3]].concat();
                let told = fork.rows_kept(&other);
                fork.prefill(&other).unwrap();
                assert_eq!(fork.cached_rows(), told, "{device} deterministic {deterministic}: parted at {parted}");
                kept.push(told);
            }
            assert_eq!(kept.last(), Some(&59), "{device} deterministic {deterministic}: {kept:?}");
            // The last square ends at 48; behind it are rows of single tokens.
            let (squares, singles) = kept.split_at(kept.partition_point(|rows| *rows < 48));
            assert!(!deterministic || squares.iter().all(|rows| rows % 16 == 0), "{device}: {squares:?}");
            let at_mark = if deterministic { 32 } else { 37 };
            assert!(squares.contains(&at_mark) && singles.len() == 12, "{device} deterministic {deterministic}: {kept:?}");
        }
    }
}

/// The mark lies in the third run of 16 tokens; the rings, 25 rows, have long moved on when it is gone back to.
#[test]
fn a_deterministic_generator_goes_back_to_a_mark_and_keeps_the_bits() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 60);
    for device in devices() {
        let expected = generator(&oracle, &device, options(true)).prefill_get_last_logits(&text).unwrap();
        let mut marked = generator(&oracle, &device, options(true));
        marked.prefill_get_last_logits(&text[..40]).unwrap();
        marked.checkpoint();
        marked.generate_cached(50, &GREEDY).unwrap();
        let mut fork = marked.fork().unwrap();
        assert_eq!(fork.rows_kept(&text), 32, "{device}");
        let before = fork.rows_computed();
        assert_eq!(fork.prefill_get_last_logits(&text).unwrap(), expected, "{device}");
        assert_eq!(fork.rows_computed() - before, 28, "{device}: the rows from 32 on");
    }
}

/// A plan of one size for all runs has the size that the pace of the device and earlier histories gave it.
#[test]
fn a_plan_that_does_not_follow_from_the_tokens_is_refused() {
    let oracle = Oracle::open("gemma3-text");
    for device in devices() {
        let refused = generator(&oracle, &device, options(true)).with_dynamic_prefill_cache(64);
        assert!(matches!(refused, Err(Error::Unsupported(problem)) if problem.contains("deterministic")), "{device}");
        assert!(generator(&oracle, &device, options(false)).with_dynamic_prefill_cache(64).is_ok());
    }
}

#[test]
fn exact_prefill_plans_change_no_bit() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 53);
    for device in devices() {
        let expected = generator(&oracle, &device, options(true)).prefill_get_last_logits(&text).unwrap();
        for capacity in [1, 3] {
            let mut exact = generator(&oracle, &device, options(true)).with_prefill_cache(capacity).unwrap();
            assert_eq!(exact.prefill_get_last_logits(&text).unwrap(), expected, "{device}");
            let mut late = generator(&oracle, &device, options(true));
            late.prefill_get_last_logits(&text[..40]).unwrap();
            let mut late = late.with_prefill_cache(capacity).unwrap();
            assert_eq!(late.prefill_get_last_logits(&text).unwrap(), expected, "{device}: set in the middle");
        }
    }
}

/// Attention over a plan of 2048 rows is summed in parts, over one of 256 it is not; rows of layers above full
/// attention differ.
#[test]
fn plans_for_steps_that_are_set_in_the_middle_are_those_of_the_start() {
    let mut oracle = Oracle::open("gemma3-text");
    oracle.config.max_position_embeddings = 4096;
    let text = tokens(&oracle, 47);
    for device in devices() {
        let set = |generator: GemmaGenerator| generator.with_dynamic_decode_cache(2048).unwrap();
        let mut first = set(generator(&oracle, &device, options(true)));
        let expected = first.prefill_get_last_logits(&text).unwrap();
        let mut late = generator(&oracle, &device, options(true));
        let plain = late.prefill_get_last_logits(&text).unwrap();
        if matches!(device, Device::Gpu) {
            assert_ne!(plain, expected, "the plans matter");
        }
        let mut late = set(late);
        assert_eq!(late.prefill_get_last_logits(&text).unwrap(), expected, "{device}");
        // Saved rows are those of their plans too.
        let mut plain = generator(&oracle, &device, options(true));
        plain.prefill_get_last_logits(&text[..46]).unwrap();
        let mut bytes = Vec::new();
        plain.save(&mut bytes).unwrap();
        let mut restored = set(generator(&oracle, &device, options(true)));
        restored.restore(&bytes[..]).unwrap();
        assert_eq!(restored.prefill_get_last_logits(&text).unwrap(), expected, "{device}: restored");
    }
}
