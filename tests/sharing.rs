//! Several generators on one set of weights: what they cost, that they do not disturb each other, and that a fork goes
//! on.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{path::Path, sync::Arc};

use gemmaflow::{
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{CounterSnapshot, Device, GpuContext, GpuOptions, Opened},
};
use oracle::{GATE, Oracle, worst};

const GREEDY: SampleOpts = SampleOpts::greedy();

/// Sliding layers with a window of 9, full layers, two rotary tables.
const MODEL: &str = "gemma3-text";

/// What transformers writes after "ROMEO:" (assets/demo/expected.json).
const ROMEO: [u32; 8] = [282, 459, 391, 415, 382, 358, 268, 303];

fn context() -> Arc<GpuContext> {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn demo(device: Device) -> GemmaGenerator {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    GemmaGenerator::from_path(GemmaConfig::from_file(folder).unwrap(), folder, device).unwrap()
}

fn generator(oracle: &Oracle, device: &Device, chunk: usize) -> GemmaGenerator {
    let options = GeneratorOptions { prefill_chunk: Some(chunk), ..GeneratorOptions::default() };
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

fn made(before: &CounterSnapshot, after: &CounterSnapshot, of: fn(&CounterSnapshot) -> u64) -> u64 {
    of(after) - of(before)
}

#[test]
fn a_second_generator_uploads_no_weight_and_gives_its_memory_back() {
    let context = context();
    let counters = || context.counters().snapshot();
    let empty = counters();
    let mut first = demo(Device::Context(context.clone()));
    let weights = first.stats().weight_bytes;
    first.prefill([2, 910, 262]).unwrap();
    assert_eq!(first.generate_cached(4, &GREEDY).unwrap(), ROMEO[..4]);

    let alone = counters();
    let mut second = first.share_weights().unwrap();
    let shared = counters();
    assert_eq!(made(&alone, &shared, |c| c.bytes_uploaded), 0);
    assert_eq!(shared.bytes_live, alone.bytes_live, "its caches come when they are needed");
    assert_eq!((second.tokens().len(), second.cached_rows(), second.max_context()), (0, 0, first.max_context()));
    second.prefill([2, 910, 262]).unwrap();
    assert_eq!(second.generate_cached(8, &GREEDY).unwrap(), ROMEO);
    let both = counters();
    assert!(made(&shared, &both, |c| c.bytes_uploaded) < weights / 10, "ids and rotary rows alone");
    assert_eq!(made(&shared, &both, |c| c.pipelines_created), 0, "the pipelines are shared");
    assert!(both.bytes_live > shared.bytes_live && both.bytes_live - shared.bytes_live < weights);

    // The first goes; what was its own comes back, and the second goes on with the weights.
    drop(first);
    context.wait_idle("a test").unwrap();
    context.release_staging();
    let left = counters();
    let own = left.bytes_live - empty.bytes_live - weights;
    assert!(own < (both.bytes_live - empty.bytes_live - weights) * 2 / 3, "{own} bytes beside the weights");
    assert_eq!(second.stats().weight_bytes, weights);
    second.prefill([2, 910]).unwrap();
    assert_eq!(second.cached_rows(), 1);
    second.prefill([2, 910, 262]).unwrap();
    assert_eq!(second.generate_cached(8, &GREEDY).unwrap(), ROMEO);
    drop(second);
    context.release_staging();
    assert_eq!((counters().bytes_live, counters().buffers_live), (empty.bytes_live, empty.buffers_live));
}

#[test]
fn two_generators_on_two_threads_write_the_texts_of_transformers() {
    let oracle = Oracle::open(MODEL);
    for device in [Device::Cpu, Device::Gpu] {
        let first = generator(&oracle, &device, 8);
        let second = first.share_weights().unwrap();
        let before = first.counters();
        std::thread::scope(|scope| {
            for (name, mut generator) in [("p7", first), ("p33", second)] {
                let (oracle, device) = (&oracle, &device);
                scope.spawn(move || {
                    let (prompt, expected) =
                        (oracle.tokens(&format!("{name}.input_ids")), oracle.tokens(&format!("{name}.gen_tokens")));
                    for round in 0..3 {
                        generator.prefill([prompt.clone(), vec![5; round]].concat()).unwrap();
                        generator.step_cached(&GREEDY).unwrap();
                        generator.prefill(&prompt).unwrap();
                        let text = generator.generate_cached(expected.len(), &GREEDY).unwrap();
                        assert_eq!(text, expected, "{device} {name} round {round}");
                        // Whole rows, so that read-backs of several sizes meet.
                        let logits = generator.prefill_get_last_logits(&prompt).unwrap();
                        let all = oracle.f32(&format!("{name}.logits"));
                        let error = worst(&logits, &all[all.len() - logits.len()..]);
                        assert!(error < GATE, "{device} {name} round {round}: {error}");
                    }
                });
            }
        });
        assert_eq!(before.is_some(), device == Device::Gpu);
    }
}

#[test]
fn a_fork_goes_on_two_ways_without_computing_anything_again() {
    let oracle = Oracle::open(MODEL);
    let prompt = oracle.tokens("p33.input_ids");
    let expected = oracle.tokens("p33.gen_tokens");
    // Rings of 17 rows, which have wrapped by the end of the prompt.
    for device in [Device::Cpu, Device::Gpu] {
        let mut original = generator(&oracle, &device, 8);
        original.prefill(&prompt).unwrap();
        assert_eq!(original.generate_cached(6, &GREEDY).unwrap(), expected[..6]);
        let before = original.counters();
        let mut fork = original.fork().unwrap();
        if let (Some(before), Some(after)) = (before, original.counters()) {
            assert_eq!(made(&before, &after, |c| c.bytes_uploaded), 0, "{device}");
            assert_eq!(made(&before, &after, |c| c.bytes_read_back), 0, "{device}");
            assert_eq!(made(&before, &after, |c| c.bytes_live), original.stats().cache_bytes, "{device}");
        }
        assert_eq!((fork.tokens(), fork.cached_rows()), (original.tokens(), original.cached_rows()));
        assert_eq!(fork.rows_computed(), 0);

        // One way: another token than the original takes; the other way: the text goes on. Both in turns.
        let other = (expected[6] + 1) % oracle.config.vocab_size as u32;
        let turned = [prompt.clone(), expected[..6].to_vec(), vec![other]].concat();
        let mut fresh = generator(&oracle, &device, 8);
        let logits = fork.decode_get_logits(other).unwrap();
        assert_eq!(fork.rows_computed(), 2, "{device}: the row that a step leaves open, and the new one");
        let error = worst(&logits, &fresh.prefill_get_last_logits(&turned).unwrap());
        assert!(error < GATE, "{device}: {error}");
        let mut texts = (Vec::new(), Vec::new());
        for _ in 6..20 {
            texts.0.push(original.step_cached(&GREEDY).unwrap());
            texts.1.push(fork.step_cached(&GREEDY).unwrap());
        }
        assert_eq!(texts.0, expected[6..20], "{device}");
        fresh.prefill(&turned).unwrap();
        assert_eq!(texts.1, fresh.generate(14, &GREEDY).unwrap(), "{device}");

        // The fork outlives the original.
        drop(original);
        assert_eq!(fork.generate_cached(4, &GREEDY).unwrap(), fresh.generate(4, &GREEDY).unwrap(), "{device}");
    }
}

#[test]
fn a_fork_in_the_middle_of_a_prompt_holds_what_was_computed() {
    let oracle = Oracle::open(MODEL);
    let tokens = oracle.tokens("p70.input_ids");
    let expected = oracle.f32("p70.logits");
    for device in [Device::Cpu, Device::Gpu] {
        let mut original = generator(&oracle, &device, 16).with_decode_cache(128).unwrap();
        original.prefill_get_last_logits(&tokens[..40]).unwrap();
        let mut forks: Vec<_> = (0..2).map(|_| original.fork().unwrap()).collect();
        drop(original);
        for fork in &mut forks {
            fork.prefill(&tokens).unwrap();
            assert_eq!((fork.cached_rows(), fork.max_context()), (40, 128), "{device}");
            let error = worst(&fork.prefill_get_last_logits(&tokens).unwrap(), &expected[69 * 150..]);
            assert!(error < GATE, "{device}: {error}");
            assert_eq!(fork.rows_computed(), 30, "{device}");
        }
    }
}

#[test]
fn what_was_reserved_is_reserved_for_each() {
    let oracle = Oracle::open(MODEL);
    let first = generator(&oracle, &Device::Gpu, 16).with_decode_cache(200).unwrap();
    let second = first.share_weights().unwrap();
    assert_eq!((second.stats().cache_bytes, second.max_context()), (first.stats().cache_bytes, 200));
    assert!(first.stats().cache_bytes > 0);
    let empty = generator(&oracle, &Device::Gpu, 16);
    assert_eq!(empty.fork().unwrap().stats().cache_bytes, 0);
}
