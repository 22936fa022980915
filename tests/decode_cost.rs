//! What a decode step asks of the device, and what a generator leaves behind.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    runtime::{CounterSnapshot, Device, GpuContext, GpuOptions, KernelTier, Opened},
};

const STEPS: u64 = 200;

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn context() -> Arc<GpuContext> {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn generator(device: Device) -> GemmaGenerator {
    GemmaGenerator::from_path(GemmaConfig::from_file(demo()).unwrap(), demo(), device).unwrap()
}

fn counters(generator: &GemmaGenerator) -> CounterSnapshot {
    generator.counters().expect("a GPU counts")
}

/// `STEPS` single steps after a warm-up, with the counters of each step.
fn costs(generator: &mut GemmaGenerator, opts: &SampleOpts) -> Vec<(CounterSnapshot, CounterSnapshot)> {
    generator.prefill([2, 910, 262]).unwrap();
    for _ in 0..3 {
        generator.step_cached(opts).unwrap();
    }
    let mut step = || {
        let before = counters(generator);
        generator.step_cached(opts).unwrap();
        (before, counters(generator))
    };
    (0..STEPS).map(|_| step()).collect()
}

/// No step makes anything; each is one submit and one small upload.
fn assert_frugal(costs: &[(CounterSnapshot, CounterSnapshot)], read_back: impl Fn(u64) -> bool) {
    for (step, (before, after)) in costs.iter().enumerate() {
        let made = |of: fn(&CounterSnapshot) -> u64| of(after) - of(before);
        assert_eq!(made(|c| c.buffers_created), 0, "step {step}");
        assert_eq!(made(|c| c.pipelines_created), 0, "step {step}");
        assert_eq!(made(|c| c.bind_groups_created), 0, "step {step}");
        assert_eq!(after.bytes_live, before.bytes_live, "step {step}");
        assert_eq!(made(|c| c.submits), 1, "step {step}");
        assert!(read_back(made(|c| c.bytes_read_back)), "step {step} read {} bytes", made(|c| c.bytes_read_back));
        let uploaded = made(|c| c.bytes_uploaded);
        assert!((1..=4096).contains(&uploaded), "step {step} uploaded {uploaded} bytes");
    }
}

#[test]
fn two_hundred_steps_make_nothing_and_read_next_to_nothing() {
    let mut generator = generator(Device::Gpu);
    let greedy = costs(&mut generator, &SampleOpts::greedy());
    assert_frugal(&greedy, |bytes| bytes == 4);
    assert_eq!(generator.tokens().len() as u64, 3 + 3 + STEPS);

    let sampled = costs(&mut generator, &SampleOpts::temperature(0.8, 7).with_top_k(40));
    assert_frugal(&sampled, |bytes| (4..=4096).contains(&bytes));
    let distinct: std::collections::BTreeSet<_> = generator.tokens().iter().collect();
    assert!(distinct.len() > 50, "a text of {} tokens shows little", distinct.len());
}

/// Generation begins step n + 1 before token n is read: the same text, one submit and four bytes a token, and nothing
/// made.
#[test]
fn generation_runs_a_step_ahead() {
    let greedy = SampleOpts::greedy();
    let (mut stepwise, mut ahead) = (generator(Device::Gpu), generator(Device::Gpu));
    for generator in [&mut stepwise, &mut ahead] {
        generator.prefill([2, 910, 262]).unwrap();
    }
    let expected: Vec<u32> = (0..120).map(|_| stepwise.step_cached(&greedy).unwrap()).collect();
    let warm = ahead.generate_cached(20, &greedy).unwrap();
    let before = counters(&ahead);
    let mut seen = Vec::new();
    let rest = ahead
        .generate_cached_with(60, &greedy, |token| {
            seen.push(token);
            ControlFlow::Continue(())
        })
        .unwrap();
    let after = counters(&ahead);
    assert_eq!((&warm[..], &rest[..], &seen), (&expected[..20], &expected[20..80], &rest));
    assert_eq!((after.submits - before.submits, after.bytes_read_back - before.bytes_read_back), (60, 240));
    assert_eq!((after.buffers_created, after.bind_groups_created), (before.buffers_created, before.bind_groups_created));
    // A break leaves a step under way, which nobody will miss: history, cache and text go on as if it had not begun.
    let (rows, computed) = (ahead.cached_rows(), ahead.rows_computed());
    let mut left = 3;
    let few = ahead.generate_cached_with(60, &greedy, |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(few.unwrap(), expected[80..83]);
    assert_eq!((ahead.cached_rows(), ahead.rows_computed()), (rows + 3, computed + 3));
    assert_eq!(ahead.generate_cached(37, &greedy).unwrap(), expected[83..]);
    assert_eq!(ahead.tokens(), stepwise.tokens());
}

/// A step ahead may be the one for which the cache must grow, and the last one that the context has room for.
#[test]
fn a_step_ahead_grows_the_cache_and_ends_with_the_context() {
    let prompt: Vec<u32> = (0..250).map(|i| 4 + i * 7 % 1000).collect();
    let mut stepwise = generator(Device::Gpu);
    stepwise.prefill(&prompt).unwrap();
    let expected: Vec<u32> = (0..12).map(|_| stepwise.step_cached(&SampleOpts::greedy()).unwrap()).collect();
    let options = GeneratorOptions { context: Some(262), ..GeneratorOptions::default() };
    let config = GemmaConfig::from_file(demo()).unwrap();
    let mut ahead = GemmaGenerator::with_options(config, load_from_path(demo()).unwrap().as_mut(), Device::Gpu, options).unwrap();
    ahead.prefill(&prompt).unwrap();
    let mut found = Vec::new();
    let new = ahead.generate_cached_with(20, &SampleOpts::greedy(), |token| {
        found.push(token);
        ControlFlow::Continue(())
    });
    assert_eq!(new.unwrap(), expected);
    let error = ahead.generate_cached(1, &SampleOpts::greedy()).unwrap_err();
    assert!(matches!(error, Error::ContextFull { needed: 263, capacity: 262 }), "{error}");
    assert_eq!((&found, &ahead.tokens()[250..]), (&expected, &expected[..]));
}

/// What a short prompt and the steps after it need is compiled while the weights travel, where the driver compiles what
/// it is given.
#[test]
fn the_first_prompt_finds_its_pipelines() {
    let gpu = GpuOptions { kernels: KernelTier::Subgroup, ..GpuOptions::default() };
    let options = GeneratorOptions { gpu, ..GeneratorOptions::default() };
    // One layer has all kernels of its kind, and each takes a software driver seconds.
    let config = GemmaConfig { effective_num_layers: Some(1), ..GemmaConfig::from_file(demo()).unwrap() };
    let mut loader = load_from_path(demo()).unwrap();
    let mut generator = GemmaGenerator::with_options(config, loader.as_mut(), Device::Gpu, options).unwrap();
    let loaded = counters(&generator).pipelines_created;
    assert!(loaded > 10, "{loaded} pipelines after loading");
    generator.prefill((0..16).map(|i| 4 + i * 7).collect::<Vec<_>>()).unwrap();
    generator.generate_cached(3, &SampleOpts::greedy()).unwrap();
    assert_eq!(counters(&generator).pipelines_created, loaded);
}

#[test]
fn a_growing_cache_makes_no_pipelines() {
    // Twice the smallest bucket of 256 rows: one growth on the way.
    let prompt: Vec<u32> = (0..250).map(|i| 4 + i * 7 % 1000).collect();
    let mut generator = generator(Device::Gpu);
    generator.prefill(&prompt).unwrap();
    // Prefill, then single tokens: both plans are there.
    generator.generate_cached(2, &SampleOpts::greedy()).unwrap();
    let (before, cache_before) = (counters(&generator), generator.stats().cache_bytes);
    for _ in 0..12 {
        generator.step_cached(&SampleOpts::greedy()).unwrap();
    }
    let after = counters(&generator);
    assert!(generator.cached_rows() > 256 && generator.stats().cache_bytes > cache_before, "the cache did not grow");
    assert_eq!(after.pipelines_created, before.pipelines_created);
}

#[test]
fn the_reference_counts_nothing() {
    assert_eq!(generator(Device::Cpu).counters(), None);
}

#[test]
fn weights_are_uploaded_once_and_all_memory_comes_back() {
    let context = context();
    let device = Device::Context(context.clone());
    let empty = context.counters().snapshot();
    for _ in 0..2 {
        let before = context.counters().snapshot();
        assert_eq!((before.bytes_live, before.buffers_live), (empty.bytes_live, empty.buffers_live));
        let mut generator = generator(device.clone());
        let loaded = context.counters().snapshot();
        let weights = generator.stats().weight_bytes;
        let file = std::fs::metadata(demo().join("model.safetensors")).unwrap().len();
        assert!(weights <= file && weights > file / 100 * 95, "{weights} bytes of weights from a file of {file}");
        let uploaded = loaded.bytes_uploaded - before.bytes_uploaded;
        assert!((weights..=weights + weights / 50).contains(&uploaded), "{uploaded} bytes uploaded for {weights}");
        // The staging buffers are gone; what is left is the weights.
        let live = loaded.bytes_live - before.bytes_live;
        assert!((weights..=weights + weights / 20).contains(&live), "{live} bytes live for {weights} of weights");

        generator.prefill([2, 910, 262]).unwrap();
        generator.generate_cached(20, &SampleOpts::greedy()).unwrap();
        generator.step(&SampleOpts::greedy()).unwrap();
        let used = context.counters().snapshot();
        // Each token brings its own few inputs and never a weight.
        assert!(used.bytes_uploaded - loaded.bytes_uploaded < weights / 10);
        assert!(used.bytes_live > loaded.bytes_live);
        drop(generator);
        context.release_staging();
    }
    let end = context.counters().snapshot();
    assert_eq!((end.bytes_live, end.buffers_live), (empty.bytes_live, empty.buffers_live));
}

#[test]
fn models_share_an_opened_device() {
    let context = context();
    let device = Device::Context(context.clone());
    assert_eq!(device, device.clone());
    assert!(device.to_string().contains(&context.capabilities().adapter));
    let mut text = Vec::new();
    let mut pair = [generator(device.clone()), generator(device)];
    for generator in &mut pair {
        generator.prefill([2, 910, 262]).unwrap();
    }
    for _ in 0..8 {
        text.extend(pair.iter_mut().map(|g| g.step_cached(&SampleOpts::greedy()).unwrap()));
    }
    // "I will not stay to-day", each token twice.
    assert_eq!(text, [282, 459, 391, 415, 382, 358, 268, 303].map(|t| [t, t]).concat());
    assert!(pair.iter().all(|g| g.counters() == Some(context.counters().snapshot())));
}

#[test]
fn a_cancelled_load_leaves_nothing() {
    let context = context();
    let options = GeneratorOptions { on_progress: Some(Box::new(|p| p.done < p.total / 2)), ..GeneratorOptions::default() };
    let config = GemmaConfig::from_file(demo()).unwrap();
    let mut loader = load_from_path(demo()).unwrap();
    let error = GemmaGenerator::with_options(config, loader.as_mut(), Device::Context(context.clone()), options).unwrap_err();
    assert!(matches!(error, gemmaflow::Error::Cancelled(_)), "{error}");
    context.release_staging();
    assert_eq!(context.counters().snapshot().bytes_live, 0);
}

/// A draw runs ahead too: the same text as step by step, one submit and a short list a token where the list decides;
/// where it does not, what was run in vain leaves nothing behind.
#[test]
fn drawn_text_runs_a_step_ahead() {
    let (mut stepwise, mut ahead) = (generator(Device::Gpu), generator(Device::Gpu));
    let mut in_vain = 0;
    for seed in 0..6 {
        let base = SampleOpts::temperature(0.8, seed);
        let hot = SampleOpts::temperature(9.0, seed);
        let decided = [base.with_top_k(40), base.with_top_k(1), base.with_top_k(30).with_top_p(0.7), base.with_min_p(0.2)];
        let undecided = [hot, hot.with_top_p(0.999), hot.with_top_k(500)];
        let all = decided.into_iter().map(|opts| (opts, true)).chain(undecided.into_iter().map(|opts| (opts, false)));
        for (opts, decides) in all {
            for generator in [&mut stepwise, &mut ahead] {
                generator.prefill([2, 910, 262, 4 + seed as u32]).unwrap();
            }
            let expected: Vec<u32> = (0..24).map(|_| stepwise.step_cached(&opts).unwrap()).collect();
            let mut found = ahead.generate_cached(8, &opts).unwrap();
            let before = counters(&ahead);
            found.extend(ahead.generate_cached(16, &opts).unwrap());
            let after = counters(&ahead);
            assert_eq!(found, expected, "{opts:?}");
            assert_eq!(ahead.tokens(), stepwise.tokens());
            let made = (after.submits - before.submits, after.bytes_read_back - before.bytes_read_back);
            if decides { assert_eq!(made, (16, 16 * (2 * 64 + 3) * 4), "{opts:?}") } else { in_vain += made.0 - 16 }
        }
    }
    assert!(in_vain > 20, "only {in_vain} steps were run in vain");
}

/// What a prompt runs is compiled while the weights travel. On drivers on the CPU sizes are data, so that the 64-token
/// bucket brings nothing new but tiles for more rows.
#[test]
fn kernels_are_there_before_the_first_prompt_and_serve_other_sizes() {
    let context = context();
    let software = context.capabilities().target().software;
    let mut generator = generator(Device::Context(context));
    let made = |generator: &GemmaGenerator| counters(generator).pipelines_created;
    let loaded = made(&generator);
    generator.prefill((4..20).collect::<Vec<u32>>()).unwrap();
    generator.step_cached(&SampleOpts::greedy()).unwrap();
    // The two of a draw are made with the greedy one, for the plan's sake.
    assert!(made(&generator) - loaded <= 2, "{} pipelines after loading", made(&generator) - loaded);
    let first = made(&generator);
    generator.prefill((100..150).collect::<Vec<u32>>()).unwrap();
    generator.step_cached(&SampleOpts::greedy()).unwrap();
    let second = made(&generator) - first;
    assert!(!software || second <= 3, "{second} pipelines for a longer prompt");
}
