//! Steps of several generators in one pass: each gives the text that it gives alone, and what transformers gives.

#[path = "common/busy.rs"]
mod busy;
#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake},
    time::Duration,
};

use busy::keep_busy;
use gemmaflow::{
    Error, Result,
    error::{DeviceError, PromptError, SamplingError},
    generate::{CancelToken, GemmaGenerator, GeneratorOptions, SampleOpts, TablePlacement},
    ir::DType,
    profile::CompileProfile,
    runtime::{Device, GpuContext, GpuOptions, KernelTier, Opened},
};
use oracle::{CHECKPOINTS, Oracle};

const GREEDY: SampleOpts = SampleOpts::greedy();

/// Prefill in runs of so many tokens: rings hold 8 + 16 or 9 + 16 rows.
const CHUNK: usize = 16;

fn options() -> GeneratorOptions {
    GeneratorOptions { prefill_chunk: Some(CHUNK), ..GeneratorOptions::default() }
}

fn generator(oracle: &Oracle, device: Device, options: GeneratorOptions) -> GemmaGenerator {
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device, options).unwrap()
}

/// Prompts of lengths from 1 to 70, the two with a text of transformers first.
fn prompts(oracle: &Oracle, count: usize) -> Vec<Vec<u32>> {
    let long = oracle.tokens("p70.input_ids");
    let part = |index: usize| {
        let length = (index * 11 + 2) % long.len() + 1;
        long.iter().cycle().skip(index % 7).take(length).copied().collect()
    };
    let known = ["p7", "p33"].map(|name| oracle.tokens(&format!("{name}.input_ids")));
    known.into_iter().chain((2..).map(part)).take(count).collect()
}

/// Text of `steps` tokens after each prompt, one generator after the other.
fn alone(first: &GemmaGenerator, prompts: &[Vec<u32>], opts: &[SampleOpts], steps: usize) -> Vec<Vec<u32>> {
    let text = |(prompt, opts): (&Vec<u32>, &SampleOpts)| {
        let mut generator = first.share_weights().unwrap();
        generator.prefill(prompt).unwrap();
        (0..steps).map(|_| generator.step_cached(opts).unwrap()).collect()
    };
    prompts.iter().zip(opts).map(text).collect()
}

/// Generators with these prompts.
fn started(first: &GemmaGenerator, prompts: &[Vec<u32>]) -> Vec<GemmaGenerator> {
    let start = |prompt: &Vec<u32>| {
        let mut generator = first.share_weights().unwrap();
        generator.prefill(prompt).unwrap();
        generator
    };
    prompts.iter().map(start).collect()
}

fn step(generators: &mut [GemmaGenerator], opts: &[SampleOpts]) -> Vec<Result<u32>> {
    GemmaGenerator::decode_batch(&mut generators.iter_mut().collect::<Vec<_>>(), opts)
}

/// What all write in `steps` steps together.
fn together(generators: &mut [GemmaGenerator], opts: &[SampleOpts], steps: usize) -> Vec<Vec<u32>> {
    let before: Vec<usize> = generators.iter().map(|generator| generator.tokens().len()).collect();
    for _ in 0..steps {
        let tokens: Vec<u32> = step(generators, opts).into_iter().map(|token| token.unwrap()).collect();
        let last: Vec<u32> = generators.iter().map(|generator| *generator.tokens().last().unwrap()).collect();
        assert_eq!(tokens, last);
    }
    generators.iter().zip(before).map(|(generator, known)| generator.tokens()[known..].to_vec()).collect()
}

fn check(oracle: &Oracle, first: &GemmaGenerator, sizes: &[usize], what: &str) {
    let most = sizes.iter().copied().max().unwrap();
    let (prompts, opts) = (prompts(oracle, most), vec![GREEDY; most]);
    let expected = alone(first, &prompts, &opts, 16);
    for (name, text) in ["p7", "p33"].iter().zip(&expected) {
        let golden = oracle.tokens(&format!("{name}.gen_tokens"));
        let length = golden.len().min(text.len());
        assert_eq!(text[..length], golden[..length], "{what} {name} alone");
    }
    for &size in sizes {
        let mut generators = started(first, &prompts[..size]);
        let found = together(&mut generators, &opts[..size], 16);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{what}: {size} together, sequence {index} of {} tokens", prompts[index].len());
        }
    }
}

#[test]
fn every_family_writes_together_what_each_writes_alone() {
    for name in CHECKPOINTS {
        let oracle = Oracle::open(name);
        // Caches from 1 row on, so that texts cross the borders of buckets.
        let first = generator(&oracle, Device::Gpu, options()).with_decode_cache(512).unwrap();
        let sizes = if name == "gemma3-text" { &[1, 2, 3, 5, 8, 32][..] } else { &[2, 5, 32] };
        check(&oracle, &first, sizes, name);
    }
}

#[test]
fn every_sort_of_kernels_and_plan_does() {
    let gpu = |kernels| GpuOptions { kernels, ..GpuOptions::default() };
    let unfused = CompileProfile::from_toml("[fusion]\npolicy = \"direct\"", true).unwrap();
    let mut half = CompileProfile::default();
    half.precision.kv = DType::F16;
    let host = GeneratorOptions { per_layer_tables: TablePlacement::Host, ..options() };
    let profiled = |profile: CompileProfile| {
        let (prefill_profile, decode_profile) = (profile.clone(), profile);
        GeneratorOptions { prefill_profile, decode_profile, ..options() }
    };
    let subgroup = GeneratorOptions { gpu: gpu(KernelTier::Subgroup), ..options() };
    let without = GeneratorOptions { gpu: gpu(KernelTier::PortableSoftware), ..options() };
    let cases = [
        ("gemma3-text", subgroup, "kernels of GPUs"),
        ("gemma1-mha", GeneratorOptions { gpu: gpu(KernelTier::Portable), ..options() }, "portable kernels"),
        ("gemma1-mha", without, "kernels without subgroups on the CPU"),
        ("gemma4-e2b", profiled(unfused), "unfused"),
        ("gemma3-text", profiled(half), "f16 caches"),
        ("gemma3n", host, "tables on the host"),
    ];
    for (name, options, what) in cases {
        let oracle = Oracle::open(name);
        let first = generator(&oracle, Device::Gpu, options).with_decode_cache(512).unwrap();
        check(&oracle, &first, &[3], &format!("{name}, {what}"));
    }
    let oracle = Oracle::open("gemma3-text");
    check(&oracle, &generator(&oracle, Device::Cpu, options()), &[3], "the reference");
}

#[test]
fn caches_grow_between_steps_each_on_its_own() {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Gpu, options());
    let long = oracle.tokens("p70.input_ids");
    // The smallest bucket has 256 rows.
    let prompts: Vec<Vec<u32>> =
        [250, 3, 254, 255, 256, 70, 257].map(|length| long.iter().cycle().take(length).copied().collect()).into();
    let opts = vec![GREEDY; prompts.len()];
    let expected = alone(&first, &prompts, &opts, 12);
    let mut generators = started(&first, &prompts);
    assert_eq!(together(&mut generators, &opts, 12), expected);
    let bytes: Vec<u64> = generators.iter().map(|generator| generator.stats().cache_bytes).collect();
    assert!(bytes[1] == bytes[5] && bytes[0] == bytes[6] && bytes[0] > bytes[1], "as the lengths need: {bytes:?}");
}

#[test]
fn they_come_and_go_between_steps() {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Gpu, options());
    let prompts = prompts(&oracle, 11);
    let opts = vec![GREEDY; prompts.len()];
    let expected = alone(&first, &prompts, &opts, 40);
    let mut generators = started(&first, &prompts);
    // Who steps: by a fixed pseudo-random rule, from nobody to all; some alone between.
    let mut state = 7u32;
    for round in 0..40 {
        let mut part = Vec::new();
        for generator in &mut generators {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 31 == 0 || round % 9 == 8 {
                part.push(generator);
            }
        }
        if round % 5 == 4 {
            part.iter_mut().for_each(|generator| _ = generator.step_cached(&GREEDY).unwrap());
        } else {
            let opts = vec![GREEDY; part.len()];
            GemmaGenerator::decode_batch(&mut part, &opts).into_iter().for_each(|token| _ = token.unwrap());
        }
    }
    for ((generator, prompt), expected) in generators.iter().zip(&prompts).zip(&expected) {
        let text = &generator.tokens()[prompt.len()..];
        assert!(text.len() > 10, "{} tokens show little", text.len());
        assert_eq!(text, &expected[..text.len()]);
    }
}

#[test]
fn each_has_its_own_options() {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Gpu, options());
    let prompts = prompts(&oracle, 9);
    let warm = SampleOpts::temperature;
    let opts = [
        GREEDY,
        warm(0.8, 1),
        warm(1.3, 2).with_top_k(5),
        GREEDY.with_repetition_penalty(1.3),
        warm(1.0, 3).with_top_p(0.7),
        warm(0.7, 4).with_repetition_penalty(1.2),
        // The short list cannot decide: the vocabulary is larger, and so hot that all of it counts.
        warm(50.0, 5),
        GREEDY,
        warm(0.9, 6).with_min_p(0.05),
    ];
    let expected = alone(&first, &prompts, &opts, 16);
    assert_eq!(together(&mut started(&first, &prompts), &opts, 16), expected);
    // In other rows, and with draws alone.
    let mut prompts = prompts;
    let mut opts = opts;
    let mut expected = expected;
    prompts.reverse();
    opts.reverse();
    expected.reverse();
    assert_eq!(together(&mut started(&first, &prompts), &opts, 16), expected, "reversed");
    assert_eq!(together(&mut started(&first, &prompts[2..5]), &opts[2..5], 16), expected[2..5], "a few");
}

#[test]
fn an_error_is_that_of_its_own_generator() {
    let oracle = Oracle::open("gemma3-text");
    // The largest binding holds caches of 256 rows: of 16 + 4 bytes a row and more, with 80 bytes a row of keys.
    let gpu = GpuOptions { max_binding: Some(40 << 10), ..GpuOptions::default() };
    let first = generator(&oracle, Device::Gpu, GeneratorOptions { gpu, ..options() });
    let long = oracle.tokens("p70.input_ids");
    let of = |length| long.iter().cycle().take(length).copied().collect::<Vec<u32>>();
    let prompts = [of(5), of(512), of(9), of(30)];
    let opts = [GREEDY; 4];
    let healthy = [prompts[0].clone(), prompts[2].clone(), prompts[3].clone()];
    let expected = alone(&first, &healthy, &opts, 6);
    let mut generators = started(&first, &prompts);
    let broken = first.share_weights().unwrap();
    generators.push(broken);
    let opts = [GREEDY, GREEDY, GREEDY, SampleOpts::temperature(-1.0, 0), GREEDY];
    // Too long, an option without meaning, no history.
    let found = step(&mut generators, &opts);
    assert!(matches!(found[1], Err(Error::ContextFull { .. })), "{found:?}");
    assert!(matches!(found[3], Err(Error::Sampling(SamplingError::Options(_)))), "{found:?}");
    assert!(matches!(found[4], Err(Error::Prompt(PromptError::EmptyHistory(_)))), "{found:?}");
    assert_eq!([found[0].as_ref().unwrap(), found[2].as_ref().unwrap()], [&expected[0][0], &expected[1][0]]);
    assert_eq!((generators[1].tokens().len(), generators[3].tokens().len(), generators[4].tokens().len()), (512, 30, 0));
    // The newcomer whose caches the device cannot hold.
    generators[1].prefill(of(400)).unwrap();
    let mut texts = [vec![expected[0][0]], vec![expected[1][0]], vec![]];
    for round in 0..5 {
        let found = step(&mut generators[..4], &[GREEDY; 4]);
        assert!(matches!(found[1], Err(Error::Device(DeviceError::Limit { .. }))), "{:?}", found[1]);
        for (text, index) in texts.iter_mut().zip([0, 2, 3]) {
            text.push(*found[index].as_ref().unwrap());
        }
        assert_eq!(generators[1].tokens().len(), 400, "round {round}");
    }
    for (text, expected) in texts.iter().zip(&expected) {
        assert_eq!(text[..], expected[..text.len()]);
    }
    // It goes on once it is shorter.
    generators[1].prefill(of(9)).unwrap();
    let mut pair = generators.split_off(1);
    pair.truncate(1);
    pair.extend(generators);
    assert_eq!(*step(&mut pair, &[GREEDY; 2])[0].as_ref().unwrap(), expected[1][0]);
    let none = GemmaGenerator::decode_batch(&mut pair.iter_mut().collect::<Vec<_>>(), &[GREEDY]);
    assert!(none.len() == 2 && none.iter().all(|result| matches!(result, Err(Error::Option { .. }))), "{none:?}");
}

#[test]
fn forks_and_rewinds_go_on_within_a_batch() {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Gpu, options());
    let prompts = prompts(&oracle, 4);
    let expected = alone(&first, &prompts, &[GREEDY; 4], 14);
    let mut generators = started(&first, &prompts);
    together(&mut generators, &[GREEDY; 4], 6);
    let fork = generators[1].fork().unwrap();
    generators.push(fork);
    let ends = together(&mut generators, &[GREEDY; 5], 4);
    assert_eq!((&ends[1], &ends[4]), (&expected[1][6..10].to_vec(), &expected[1][6..10].to_vec()));
    // Back by five tokens, and another way.
    let back = generators[4].tokens()[..prompts[1].len() + 5].to_vec();
    let computed = generators[4].rows_computed();
    generators[4].prefill(&back).unwrap();
    let other = [back, vec![7]].concat();
    generators[0].prefill(&other).unwrap();
    let way = alone(&first, &[other], &[GREEDY], 4);
    let ends = together(&mut generators, &[GREEDY; 5], 4);
    assert_eq!(ends[4], expected[1][5..9]);
    assert_eq!(generators[4].rows_computed() - computed, 4, "nothing but the new rows");
    assert_eq!(ends[0], way[0]);
    assert_eq!(ends[2], expected[2][10..14]);
}

/// True once a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

fn open(gpu: &GpuOptions) -> Arc<GpuContext> {
    match Device::Gpu.open(gpu).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// Options of as many sequences, of which each chooses its tokens otherwise: greedily, from the list of the likeliest,
/// and from the whole row.
fn three() -> [SampleOpts; 3] {
    [GREEDY, SampleOpts::temperature(0.9, 7).with_top_k(40), SampleOpts::temperature(1.5, 7)]
}

#[test]
fn an_awaited_step_ends_when_one_is_cancelled() {
    let oracle = Oracle::open("gemma3-text");
    let context = open(&GpuOptions::default());
    let first = generator(&oracle, Device::Context(context.clone()), options());
    let (prompts, opts) = (prompts(&oracle, 3), three());
    let expected = alone(&first, &prompts, &opts, 6);
    let mut all = started(&first, &prompts);
    let mut found = together(&mut all, &opts, 1);
    let cancel = CancelToken::new();
    all[1].set_cancel(cancel.clone());
    {
        keep_busy(&context);
        let mut part: Vec<_> = all.iter_mut().collect();
        let mut step = pin!(GemmaGenerator::decode_batch_async(&mut part, &opts));
        let woken = Arc::new(Woken::default());
        assert!(step.as_mut().poll(&mut Context::from_waker(&woken.clone().into())).is_pending());
        cancel.cancel();
        assert!(woken.0.load(SeqCst));
        let ended = pollster::block_on(step);
        assert!(ended.iter().all(|token| matches!(token, Err(Error::Cancelled(_)))), "{ended:?}");
    }
    all[1].set_cancel(CancelToken::new());
    for (text, rest) in found.iter_mut().zip(together(&mut all, &opts, 5)) {
        text.extend(rest);
    }
    assert_eq!(found, expected);
}

#[test]
fn a_step_that_a_task_of_its_own_thread_holds_up_ends_in_time() {
    let context = open(&GpuOptions { timeout: Some(Duration::from_secs(5)), ..GpuOptions::default() });
    held_up(&context, |_| {}, |error| matches!(error, Error::Device(DeviceError::Timeout { .. })));
}

#[test]
fn a_step_that_a_task_of_its_own_thread_holds_up_can_be_cancelled() {
    let soon = |cancel: CancelToken| {
        std::thread::sleep(Duration::from_millis(50));
        cancel.cancel();
    };
    held_up(&open(&GpuOptions::default()), soon, |error| matches!(error, Error::Cancelled(_)));
}

/// A step that another, awaited by the same thread, holds up ends with such errors; `beside` has the token of one of
/// its sequences.
fn held_up(context: &Arc<GpuContext>, beside: impl FnOnce(CancelToken) + Send, is_right: impl Fn(&Error) -> bool) {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Context(context.clone()), options());
    let (prompts, opts) = (prompts(&oracle, 3), three());
    let (mut all, mut others) = (started(&first, &prompts), started(&first, &prompts[..2]));
    // The rows of prompts are each sequence's own work.
    together(&mut all, &opts, 1);
    together(&mut others, &opts[..2], 1);
    let cancel = CancelToken::new();
    others[1].set_cancel(cancel.clone());
    keep_busy(context);
    let mut part: Vec<_> = all.iter_mut().collect();
    let mut held = pin!(GemmaGenerator::decode_batch_async(&mut part, &opts));
    assert!(held.as_mut().poll(&mut Context::from_waker(&Arc::new(Woken::default()).into())).is_pending());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| beside(cancel));
        step(&mut others, &opts[..2])
    });
    assert!(ended.iter().all(|token| token.as_ref().is_err_and(&is_right)), "{ended:?}");
    assert!(pollster::block_on(held).iter().all(Result::is_ok));
    others[1].set_cancel(CancelToken::new());
    assert!(step(&mut others, &opts[..2]).iter().all(Result::is_ok));
}

#[test]
fn a_steady_step_makes_nothing_and_reads_four_bytes_a_sequence() {
    let oracle = Oracle::open("gemma3-text");
    let first = generator(&oracle, Device::Gpu, options());
    let prompts = prompts(&oracle, 8);
    let mut generators = started(&first, &prompts);
    let opts = [GREEDY; 8];
    together(&mut generators, &opts, 2);
    let counters = || first.counters().unwrap();
    let before = counters();
    together(&mut generators, &opts, 5);
    let after = counters();
    assert_eq!(after.buffers_created, before.buffers_created);
    assert_eq!(after.bind_groups_created, before.bind_groups_created);
    assert_eq!(after.pipelines_created, before.pipelines_created);
    assert_eq!(after.submits - before.submits, 5, "one submit a step");
    assert_eq!(after.bytes_read_back - before.bytes_read_back, 5 * 8 * 4);

    // One leaves and another comes: its own bind groups are made, and no other's.
    let mut newcomer = first.share_weights().unwrap();
    newcomer.prefill(&prompts[3]).unwrap();
    newcomer.step_cached(&GREEDY).unwrap();
    let layers = oracle.config.num_hidden_layers as u64;
    generators[2] = newcomer;
    let before = counters();
    together(&mut generators, &opts, 1);
    let made = counters().bind_groups_created - before.bind_groups_created;
    assert!((layers..=4 * layers + 4).contains(&made), "{made} bind groups");
    // Draws read their lists.
    let drawn = [SampleOpts::temperature(0.9, 1); 8];
    together(&mut generators, &drawn, 2);
    let before = counters();
    together(&mut generators, &drawn, 3);
    let after = counters();
    let created = |c: gemmaflow::runtime::CounterSnapshot| (c.buffers_created, c.bind_groups_created, c.pipelines_created);
    assert_eq!(created(after), created(before));
    // Dropped ones give their caches back.
    let caches: u64 = generators.iter().map(|generator| generator.stats().cache_bytes).sum();
    let before = counters();
    drop(generators);
    assert!(before.bytes_live - counters().bytes_live >= caches, "the plan holds no one's caches");
}
