//! The same tokens give the same bits, whatever was cached: deterministic generators, going back, and histories that
//! were saved.

#[path = "common/busy.rs"]
mod busy;
#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use busy::keep_busy;
use gemmaflow::{
    Error,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{Device, GpuOptions, Opened},
};
use oracle::{GATE, Oracle, worst};

const GREEDY: SampleOpts = SampleOpts::greedy();

/// Sliding layers with a window of 9, full layers, two rotary tables; and one of a family with another sort of layers.
const MODELS: [&str; 2] = ["gemma3-text", "gemma4-e2b"];

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Gpu]
}

fn with(oracle: &Oracle, device: &Device, options: GeneratorOptions) -> GemmaGenerator {
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

fn deterministic(oracle: &Oracle, device: &Device) -> GemmaGenerator {
    with(oracle, device, GeneratorOptions { deterministic: true, ..GeneratorOptions::default() })
}

/// `count` ids of the model's vocabulary.
fn tokens(oracle: &Oracle, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i * 11 + 5) % (oracle.config.vocab_size as u32 - 4) + 4).collect()
}

#[test]
fn a_deterministic_generator_gives_the_same_bits_by_every_road() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        for device in devices() {
            let text = tokens(&oracle, 53);
            let mut at_once = deterministic(&oracle, &device);
            let expected = at_once.prefill_get_last_logits(&text).unwrap();
            let plain = with(&oracle, &device, GeneratorOptions::default()).prefill_get_last_logits(&text).unwrap();
            assert!(worst(&expected, &plain) < 1e-3, "{device} {name}: the text is the same up to rounding");
            for first in [1, 15, 16, 17, 30, 33, 52] {
                // A prompt, then token by token.
                let mut stepwise = deterministic(&oracle, &device);
                stepwise.prefill_get_last_logits(&text[..first]).unwrap();
                let mut logits = Vec::new();
                for token in &text[first..] {
                    logits = stepwise.decode_get_logits(*token).unwrap();
                }
                assert_eq!(logits, expected, "{device} {name}: {first} tokens at once, the rest one by one");
                // A prompt whose beginning was cached for another one.
                let mut cached = deterministic(&oracle, &device);
                let other = [&text[..first], &tokens(&oracle, 9)].concat();
                cached.prefill_get_last_logits(&other).unwrap();
                assert_eq!(
                    cached.prefill_get_last_logits(&text).unwrap(),
                    expected,
                    "{device} {name}: {first} tokens were cached"
                );
                // Back within its own text, and in a fork.
                let mut fork = stepwise.fork().unwrap();
                fork.prefill_get_last_logits(&text[..first]).unwrap();
                assert_eq!(fork.prefill_get_last_logits(&text).unwrap(), expected, "{device} {name}: back to {first}");
            }
            // Logits of all tokens are other runs, and leave nothing behind.
            at_once.all_logits(&text).unwrap();
            assert_eq!(at_once.prefill_get_last_logits(&text).unwrap(), expected, "{device} {name}");
        }
    }
}

#[test]
fn drawn_text_of_a_deterministic_generator_is_that_of_the_whole_prompt() {
    let oracle = Oracle::open("gemma3-text");
    let draw = SampleOpts::temperature(1.2, 7);
    let text = tokens(&oracle, 40);
    let mut whole = deterministic(&oracle, &Device::Gpu);
    whole.prefill(&text).unwrap();
    let expected = whole.generate_cached(40, &draw).unwrap();
    for cached in [3, 16, 29, 39] {
        let mut generator = deterministic(&oracle, &Device::Gpu);
        generator.prefill(&text[..cached]).unwrap();
        generator.generate_cached(7, &draw).unwrap();
        generator.prefill(&text).unwrap();
        assert_eq!(generator.generate_cached(40, &draw).unwrap(), expected, "{cached} cached");
        // Stopped in the middle and gone on with.
        generator.prefill(&text).unwrap();
        let parts = [1, 13, 2, 24].map(|count| generator.generate_cached(count, &draw).unwrap());
        assert_eq!(parts.concat(), expected, "in parts");
    }
    assert!(whole.tokens().len() > 50);
}

#[test]
fn a_drafter_is_refused_where_runs_may_have_any_number_of_rows() {
    let oracle = Oracle::open("gemma3-text");
    let generator = deterministic(&oracle, &Device::Cpu);
    let refused = generator.with_drafter(gemmaflow::generate::Drafter::prompt_lookup());
    assert!(matches!(refused, Err(Error::Unsupported(_))));
}

/// A mark is kept when the ring (9 + 16 rows) has long moved on; without one everything is computed again.
#[test]
fn going_back_to_a_mark_computes_nothing_again() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        for device in devices() {
            let options = || GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
            let text = tokens(&oracle, 60);
            let mut plain = with(&oracle, &device, options());
            let mut marked = with(&oracle, &device, options());
            for generator in [&mut plain, &mut marked] {
                generator.prefill_get_last_logits(&text[..40]).unwrap();
            }
            marked.checkpoint();
            let before = [&plain, &marked].map(|generator| generator.rows_computed());
            for generator in [&mut plain, &mut marked] {
                generator.generate_cached(50, &GREEDY).unwrap();
            }
            // Forks have the marks too.
            for (generator, expected) in [(&mut plain.fork().unwrap(), 60), (&mut marked.fork().unwrap(), 20)] {
                let start = generator.rows_computed();
                let logits = generator.prefill_get_last_logits(&text).unwrap();
                assert_eq!(generator.rows_computed() - start, expected, "{device} {name}");
                let fresh = with(&oracle, &device, options()).prefill_get_last_logits(&text).unwrap();
                assert!(worst(&logits, &fresh) < GATE.max(1e-3), "{device} {name}");
            }
            assert_eq!(before, [40, 40]);
            // Back to the mark, on, and back again.
            for _ in 0..2 {
                let start = marked.rows_computed();
                marked.prefill(&text[..41]).unwrap();
                assert_eq!(marked.cached_rows(), 40, "{device} {name}");
                let first = marked.generate_cached(45, &GREEDY).unwrap();
                plain.prefill(&text[..41]).unwrap();
                assert_eq!(plain.generate_cached(45, &GREEDY).unwrap(), first, "{device} {name}");
                assert_eq!(marked.rows_computed() - start, 45, "{device} {name}");
            }
            // A text that leaves the marked one before the mark drops it.
            marked.prefill(&text[1..42]).unwrap();
            assert_eq!(marked.cached_rows(), 0);
            marked.generate_cached(2, &GREEDY).unwrap();
            marked.prefill(&text[..41]).unwrap();
            assert_eq!(marked.cached_rows(), 0);
        }
    }
}

#[test]
fn only_the_newest_marks_are_kept() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 100);
    let options = GeneratorOptions { prefill_chunk: Some(4), ..GeneratorOptions::default() };
    let mut generator = with(&oracle, &Device::Gpu, options);
    for end in [20, 40, 60] {
        generator.prefill_get_last_logits(&text[..end]).unwrap();
        generator.checkpoint();
    }
    generator.prefill_get_last_logits(&text).unwrap();
    let mut back = |end: usize| {
        generator.prefill(&text[..end]).unwrap();
        generator.cached_rows()
    };
    assert_eq!([back(61), back(41), back(21)], [60, 40, 0]);
}

#[test]
fn a_saved_history_goes_on_as_the_original_on_every_device() {
    for name in MODELS {
        let oracle = Oracle::open(name);
        for device in devices() {
            let mut original = with(&oracle, &device, GeneratorOptions::default());
            original.prefill(tokens(&oracle, 150)).unwrap();
            original.generate_cached(9, &GREEDY).unwrap();
            let mut bytes = Vec::new();
            original.save(&mut bytes).unwrap();
            let expected = original.generate_cached(12, &GREEDY).unwrap();
            for other in devices() {
                let mut restored = with(&oracle, &other, GeneratorOptions::default());
                restored.restore(&bytes[..]).unwrap();
                assert_eq!(restored.tokens(), &original.tokens()[..159], "{device} to {other} {name}");
                assert_eq!(restored.cached_rows(), 158, "{device} to {other} {name}");
                assert_eq!(restored.generate_cached(12, &GREEDY).unwrap(), expected, "{device} to {other} {name}");
                assert_eq!(restored.rows_computed(), 12, "{device} to {other} {name}: nothing again");
            }
            // Another layout of rows: the tokens, and their rows anew.
            let options = GeneratorOptions { prefill_chunk: Some(64), ..GeneratorOptions::default() };
            let mut restored = with(&oracle, &device, options);
            restored.restore(&bytes[..]).unwrap();
            assert_eq!(restored.cached_rows(), 0);
            assert_eq!(restored.generate_cached(12, &GREEDY).unwrap(), expected, "{device} {name}");
        }
    }
}

#[test]
fn saved_bits_of_a_deterministic_generator_are_its_own() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 60);
    let mut original = deterministic(&oracle, &Device::Gpu);
    original.prefill_get_last_logits(&text[..37]).unwrap();
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    let mut restored = deterministic(&oracle, &Device::Gpu);
    restored.restore(&bytes[..]).unwrap();
    assert_eq!(restored.prefill_get_last_logits(&text).unwrap(), original.prefill_get_last_logits(&text).unwrap());
}

#[test]
fn damaged_and_foreign_histories_are_refused_and_change_nothing() {
    let oracle = Oracle::open("gemma3-text");
    let mut original = with(&oracle, &Device::Gpu, GeneratorOptions::default());
    original.prefill(tokens(&oracle, 20)).unwrap();
    original.generate_cached(3, &GREEDY).unwrap();
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    let mut own = with(&oracle, &Device::Gpu, GeneratorOptions::default());
    let text = tokens(&oracle, 12);
    own.prefill_get_last_logits(&text).unwrap();
    let mut refused = |bytes: &[u8], part: &str| {
        let error = own.restore(bytes).unwrap_err();
        assert!(matches!(&error, Error::Saved(problem) if problem.contains(part)), "{part}: {error}");
        assert_eq!((own.tokens(), own.cached_rows()), (&text[..], 12));
    };
    refused(&[], "cut");
    for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        refused(&bytes[..len], "");
    }
    for at in (0..bytes.len()).step_by(61) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 4;
        refused(&wrong, "");
    }
    let mut foreign = Oracle::open("gemma3-untied-native");
    let mut other = with(&foreign, &Device::Gpu, GeneratorOptions::default());
    assert!(matches!(other.restore(&bytes[..]), Err(Error::Saved(problem)) if problem.contains("another model")));
    // The same shapes with other weights are another model too.
    foreign = Oracle::open("gemma3-text");
    let loader = || gemmaflow::gemma::random_weights(&foreign.config, gemmaflow::ir::DType::F32, 3);
    let random = GemmaGenerator::from_loader(foreign.config.clone(), &mut loader().unwrap(), Device::Cpu).unwrap();
    assert_ne!(random.fingerprint().unwrap(), own.fingerprint().unwrap());
    assert_eq!(original.fingerprint().unwrap(), own.fingerprint().unwrap());
    // A smaller context refuses what it could not hold.
    let options = GeneratorOptions { context: Some(16), ..GeneratorOptions::default() };
    let mut small = with(&oracle, &Device::Gpu, options);
    assert!(matches!(small.restore(&bytes[..]), Err(Error::ContextFull { .. } | Error::Saved(_))));
}

#[test]
fn a_generator_recovers_on_a_device_opened_anew_and_on_another() {
    let oracle = Oracle::open("gemma3-text");
    let mut lost = with(&oracle, &Device::Gpu, GeneratorOptions::default());
    lost.prefill(tokens(&oracle, 30)).unwrap();
    lost.generate_cached(5, &GREEDY).unwrap();
    let expected = lost.fork().unwrap().generate_cached(8, &GREEDY).unwrap();
    for device in devices() {
        let mut recovered = lost.recovered(device.clone(), &GpuOptions::default()).unwrap();
        assert_eq!((recovered.tokens(), recovered.cached_rows()), (lost.tokens(), 0));
        assert_eq!(recovered.generate_cached(8, &GREEDY).unwrap(), expected, "{device}");
    }
}

#[test]
fn a_step_as_a_future_is_the_step() {
    let oracle = Oracle::open("gemma3-text");
    for device in devices() {
        let mut blocking = with(&oracle, &device, GeneratorOptions::default());
        blocking.prefill(oracle.tokens("p33.input_ids")).unwrap();
        let mut waiting = blocking.share_weights().unwrap();
        waiting.prefill(oracle.tokens("p33.input_ids")).unwrap();
        fn sendable<F: Future + Send>(future: F) -> F::Output {
            pollster::block_on(future)
        }
        for _ in 0..6 {
            let next = sendable(waiting.step_async(&GREEDY));
            assert_eq!(next.unwrap(), blocking.step_cached(&GREEDY).unwrap(), "{device}");
        }
        // A future that is dropped half way leaves a generator that goes on.
        let mut future = Box::pin(waiting.step_async(&GREEDY));
        let _ = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        drop(future);
        assert_eq!(waiting.step_cached(&GREEDY).unwrap(), blocking.step_cached(&GREEDY).unwrap(), "{device}");
    }
}

#[test]
fn rows_of_a_plain_generator_are_none_of_a_deterministic_one() {
    let oracle = Oracle::open("gemma3-text");
    let text = tokens(&oracle, 14);
    let mut plain = with(&oracle, &Device::Gpu, GeneratorOptions::default());
    plain.prefill_get_last_logits(&text[..12]).unwrap();
    let mut bytes = Vec::new();
    plain.save(&mut bytes).unwrap();
    let mut restored = deterministic(&oracle, &Device::Gpu);
    restored.restore(&bytes[..]).unwrap();
    assert_eq!(restored.cached_rows(), 0);
    let expected = deterministic(&oracle, &Device::Gpu).prefill_get_last_logits(&text).unwrap();
    assert_eq!(restored.prefill_get_last_logits(&text).unwrap(), expected);
}

#[test]
fn what_was_begun_for_another_step_is_not_taken_for_this_one() {
    let oracle = Oracle::open("gemma3-text");
    let prompt = oracle.tokens("p33.input_ids");
    let draw = SampleOpts::temperature(1.4, 5);
    let context = match Device::Gpu.open(&GpuOptions::default()).unwrap() {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    };
    let fresh = || {
        let mut generator = with(&oracle, &Device::Context(context.clone()), GeneratorOptions::default());
        generator.prefill(&prompt).unwrap();
        generator
    };
    let begun = || {
        let mut generator = fresh();
        keep_busy(&context);
        let mut future = Box::pin(generator.step_async(&GREEDY));
        let polled = future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        drop(future);
        generator
    };
    let drawn = fresh().step_cached(&draw).unwrap();
    assert_eq!(begun().step_cached(&draw).unwrap(), drawn, "other options");
    let (mut generator, mut expected) = (begun(), fresh());
    assert_eq!(generator.step(&GREEDY).unwrap(), expected.step_cached(&GREEDY).unwrap());
    assert_eq!(generator.generate_cached(8, &GREEDY).unwrap(), expected.generate_cached(8, &GREEDY).unwrap());
}
