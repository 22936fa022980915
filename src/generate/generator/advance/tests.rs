//! The asynchronous road on a device that never blocks, as a browser's, against the same device that does.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake},
    time::Duration,
};

use crate::{
    Error, GemmaConfig, GemmaGenerator, GeneratorOptions, SampleOpts,
    checkpoint::SafetensorsLoader,
    error::DeviceError,
    files::Files,
    generate::{CancelToken, Drafter, LogitBias, SampleHooks},
    runtime::{Device, GpuContext, GpuOptions, Opened, Wait},
};

/// True once a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

const PROMPT: [u32; 3] = [2, 910, 262];

fn opened() -> Arc<GpuContext> {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

/// The demo model from memory.
fn demo(context: &Arc<GpuContext>, options: GeneratorOptions) -> GemmaGenerator {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = GemmaConfig::from_json(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let mut loader = SafetensorsLoader::open(Files::new().with("model.safetensors", bytes).at("")).unwrap();
    let device = Device::Context(context.clone());
    context.drive(GemmaGenerator::with_options_async(config, &mut loader, device, options)).unwrap()
}

/// Tokens after the prompt, by steps that are awaited.
fn awaited(context: &Arc<GpuContext>, options: GeneratorOptions, prompt: &[u32], opts: &SampleOpts) -> Vec<u32> {
    let mut generator = demo(context, options);
    generator.prefill(prompt).unwrap();
    steps(context, &mut generator, opts)
}

fn steps(context: &GpuContext, generator: &mut GemmaGenerator, opts: &SampleOpts) -> Vec<u32> {
    (0..24).map(|_| context.drive(generator.step_async(opts)).unwrap()).collect()
}

fn expected(options: GeneratorOptions, prompt: &[u32], opts: &SampleOpts) -> Vec<u32> {
    let mut generator = demo(&opened(), options);
    generator.prefill(prompt).unwrap();
    (0..24).map(|_| generator.step_cached(opts).unwrap()).collect()
}

#[test]
fn the_same_tokens_come_without_a_wait() {
    let greedy = SampleOpts::greedy();
    let listed = SampleOpts::temperature(0.9, 7).with_top_k(40);
    // The list of the likeliest does not decide: the whole row is read.
    let whole = SampleOpts::temperature(1.5, 7);
    for opts in [greedy, listed, whole] {
        let tokens = awaited(&GpuContext::unblocking(), GeneratorOptions::default(), &PROMPT, &opts);
        let expected = expected(GeneratorOptions::default(), &PROMPT, &opts);
        assert_eq!(tokens, expected, "{opts:?}");
        let context = GpuContext::unblocking();
        let mut generator = demo(&context, GeneratorOptions::default());
        generator.prefill(PROMPT).unwrap();
        let several = context.drive(generator.generate_cached_async(24, &opts)).unwrap();
        assert_eq!(several, expected, "{opts:?}");
    }
}

#[test]
fn a_task_that_waits_for_a_step_has_begun_the_next() {
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, GeneratorOptions::default());
    let opts = SampleOpts::greedy();
    generator.prefill(PROMPT).unwrap();
    context.drive(generator.generate_cached_async(4, &opts)).unwrap();
    let before = context.counters().snapshot().submits;
    {
        let mut tokens = pin!(generator.generate_cached_async(8, &opts));
        assert!(tokens.as_mut().poll(&mut Context::from_waker(&Arc::new(Woken::default()).into())).is_pending());
        assert_eq!(context.counters().snapshot().submits - before, 2);
    }
    assert_eq!(generator.tokens().len(), PROMPT.len() + 4, "dropped, it takes nothing along");
    let mut rest = context.drive(generator.generate_cached_async(20, &opts)).unwrap();
    rest.splice(0..0, generator.tokens()[PROMPT.len()..][..4].to_vec());
    assert_eq!(rest, expected(GeneratorOptions::default(), &PROMPT, &opts));
}

#[test]
fn steps_with_hooks_need_no_wait() {
    let opts = SampleOpts::temperature(0.7, 3);
    let hooks = || SampleHooks::new().with_processor(LogitBias::new().banning([282, 459])).with_logprobs(4);
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, GeneratorOptions::default());
    generator.prefill(PROMPT).unwrap();
    let mut own = hooks();
    let found: Vec<_> = (0..16).map(|_| context.drive(generator.step_hooked_async(&opts, &mut own)).unwrap()).collect();
    let mut generator = demo(&opened(), GeneratorOptions::default());
    generator.prefill(PROMPT).unwrap();
    let mut own = hooks();
    for (at, found) in found.iter().enumerate() {
        let expected = generator.step_hooked(&opts, &mut own).unwrap();
        assert_eq!(found.token, expected.token, "token {at}");
        // The one has the sum of the whole row, the other that of the device.
        let distance = found.logprob.unwrap() - expected.logprob.unwrap();
        assert!(distance.abs() < 1e-4, "token {at}: {distance}");
        assert_eq!(found.top.len(), 4);
    }
}

#[test]
fn a_load_gives_way_and_can_be_cancelled() {
    let context = GpuContext::unblocking();
    let cancel = CancelToken::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = GemmaConfig::near_weights(&folder).unwrap();
    let mut loader = SafetensorsLoader::open(&folder).unwrap();
    let options = GeneratorOptions { cancel: Some(cancel.clone()), ..GeneratorOptions::default() };
    let device = Device::Context(context.clone());
    let mut load = pin!(GemmaGenerator::with_options_async(config, &mut loader, device, options));
    let woken = Arc::new(Woken::default());
    let polled = load.as_mut().poll(&mut Context::from_waker(&woken.into()));
    assert!(polled.is_pending(), "it waits for the device");
    cancel.cancel();
    assert!(matches!(context.drive(load), Err(Error::Cancelled(_))));
}

#[test]
fn prompts_of_many_chunks_and_slices_need_no_wait() {
    let prompt = &long_prompt();
    let greedy = SampleOpts::greedy();
    assert_eq!(awaited(&GpuContext::unblocking(), in_chunks(), prompt, &greedy), expected(in_chunks(), prompt, &greedy));
}

#[test]
fn what_would_block_says_so_and_leaves_the_generator_usable() {
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, GeneratorOptions::default());
    generator.prefill(PROMPT).unwrap();
    let greedy = SampleOpts::greedy();
    let first = generator.step_cached(&greedy);
    assert!(matches!(first, Err(Error::Device(DeviceError::WouldBlock { .. }))), "{first:?}");
    assert!(matches!(context.wait_idle("all"), Err(Error::Device(DeviceError::WouldBlock { .. }))));
    let tokens = steps(&context, &mut generator, &greedy);
    assert_eq!(tokens, expected(GeneratorOptions::default(), &PROMPT, &greedy));
}

#[test]
fn a_wait_that_is_cancelled_ends_and_the_next_goes_on() {
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, GeneratorOptions::default());
    generator.prefill(PROMPT).unwrap();
    let cancel = CancelToken::new();
    generator.set_cancel(cancel.clone());
    let greedy = SampleOpts::greedy();
    {
        let mut step = pin!(generator.step_async(&greedy));
        let woken = Arc::new(Woken::default());
        let polled = step.as_mut().poll(&mut Context::from_waker(&woken.clone().into()));
        assert!(polled.is_pending() && !woken.0.load(SeqCst), "no callback has come yet");
        cancel.cancel();
        assert!(woken.0.load(SeqCst), "nothing else wakes it");
        assert!(matches!(context.drive(step), Err(Error::Cancelled(_))));
    }
    generator.set_cancel(CancelToken::new());
    let tokens = steps(&context, &mut generator, &greedy);
    assert_eq!(tokens, expected(GeneratorOptions::default(), &PROMPT, &greedy));
}

/// Sequences of one model, of which each chooses its tokens otherwise: greedily, from the list of the likeliest, and
/// from the whole row.
fn three(context: &Arc<GpuContext>, options: GeneratorOptions) -> (Vec<GemmaGenerator>, [SampleOpts; 3]) {
    let first = demo(context, options);
    let mut all = vec![first.share_weights().unwrap(), first.share_weights().unwrap(), first];
    for (length, generator) in (1..).zip(&mut all) {
        generator.prefill(&PROMPT[..length]).unwrap();
    }
    (all, [SampleOpts::greedy(), SampleOpts::temperature(0.9, 7).with_top_k(40), SampleOpts::temperature(1.5, 7)])
}

fn in_slices() -> GeneratorOptions {
    GeneratorOptions { submit_time: Some(Duration::from_micros(200)), ..GeneratorOptions::default() }
}

fn together(generators: &mut [GemmaGenerator]) -> Vec<&mut GemmaGenerator> {
    generators.iter_mut().collect()
}

#[test]
fn steps_of_several_need_no_wait() {
    for options in [GeneratorOptions::default, in_slices] {
        let context = GpuContext::unblocking();
        let (mut all, opts) = three(&context, options());
        let (mut expected, _) = three(&opened(), options());
        for step in 0..12 {
            // One alone takes another way.
            let count = if step % 4 == 3 { 1 } else { 3 };
            let mut part = together(&mut all[..count]);
            if step == 5 {
                let mut dropped = pin!(GemmaGenerator::decode_batch_async(&mut part, &opts));
                assert!(dropped.as_mut().poll(&mut Context::from_waker(&Arc::new(Woken::default()).into())).is_pending());
            }
            let found = context.drive(GemmaGenerator::decode_batch_async(&mut part, &opts[..count]));
            let expected = GemmaGenerator::decode_batch(&mut together(&mut expected[..count]), &opts[..count]);
            let tokens = |results: Vec<Result<u32, Error>>| results.into_iter().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(tokens(found), tokens(expected), "step {step}");
        }
    }
}

#[test]
fn saving_needs_no_wait() {
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, GeneratorOptions::default());
    generator.prefill(PROMPT).unwrap();
    let greedy = SampleOpts::greedy();
    let tokens = steps(&context, &mut generator, &greedy);
    let mut bytes = Vec::new();
    assert!(matches!(generator.save(&mut bytes), Err(Error::Device(DeviceError::WouldBlock { .. }))));
    bytes.clear();
    context.drive(generator.save_async(&mut bytes)).unwrap();
    let mut blocking = demo(&opened(), GeneratorOptions::default());
    blocking.prefill(PROMPT).unwrap();
    assert_eq!((0..24).map(|_| blocking.step_cached(&greedy).unwrap()).collect::<Vec<_>>(), tokens);
    let mut expected = Vec::new();
    blocking.save(&mut expected).unwrap();
    assert!(bytes == expected, "{} and {} bytes", bytes.len(), expected.len());
}

/// A target with a drafter that is a model, and another that looks into the text.
fn drafting(context: &Arc<GpuContext>, drafter: &str, options: GeneratorOptions) -> GemmaGenerator {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints");
    let target = data.join("gemma4-target");
    let config = GemmaConfig::near_weights(&target).unwrap();
    let mut loader = SafetensorsLoader::open(&target).unwrap();
    let device = Device::Context(context.clone());
    let load = GemmaGenerator::with_options_async(config, &mut loader, device, options);
    let generator = context.drive(load).unwrap();
    let drafter = match drafter {
        "the text" => Drafter::prompt_lookup(),
        name => Drafter::from_path(data.join(name)).unwrap(),
    };
    context.drive(generator.with_drafter_async(drafter)).unwrap()
}

#[test]
fn steps_with_a_drafter_need_no_wait() {
    let prompt = [2, 17, 5, 17, 5, 40, 17, 5];
    for drafter in ["gemma4-assistant", "gemma4-assistant-ordered", "the text"] {
        for (opts, options) in
            [(SampleOpts::greedy(), in_slices()), (SampleOpts::temperature(1.5, 7), GeneratorOptions::default())]
        {
            let context = GpuContext::unblocking();
            let mut generator = drafting(&context, drafter, options);
            generator.prefill(prompt).unwrap();
            let mut tokens = steps(&context, &mut generator, &opts);
            // Several of a run.
            while tokens.len() < 48 {
                context.drive(generator.engine.awaited(Wait::Task)).unwrap();
                tokens.extend(context.drive(generator.advance_by(&opts, 48 - tokens.len(), Wait::Task)).unwrap());
            }
            let mut blocking = drafting(&opened(), drafter, GeneratorOptions::default());
            blocking.prefill(prompt).unwrap();
            assert_eq!(tokens, blocking.generate_cached(48, &opts).unwrap(), "{drafter}, {opts:?}");
            assert!(generator.draft_stats().drafted > 0 || drafter == "the text", "{drafter}");
        }
    }
}

#[test]
fn futures_go_from_thread_to_thread() {
    fn sent(_: impl Send) {}
    let greedy = SampleOpts::greedy();
    let mut generator = demo(&opened(), GeneratorOptions::default());
    sent(generator.step_async(&greedy));
    sent(generator.save_async(Vec::new()));
    sent(generator.prefill_get_last_logits_async(PROMPT));
    sent(generator.decode_get_logits_async(459));
    sent(generator.all_logits_async(PROMPT));
    sent(generator.recompute_all_logits_async(PROMPT));
    sent(GemmaGenerator::decode_batch_async(&mut [&mut generator], &[greedy]));
}

/// Of more chunks and slices than one.
fn long_prompt() -> Vec<u32> {
    (0..150).map(|index| 2 + index * 7 % 900).collect()
}

fn in_chunks() -> GeneratorOptions {
    GeneratorOptions { prefill_chunk: Some(16), ..in_slices() }
}

/// What the same kernels compute of a prompt whose runs may be cut otherwise: the time of a run decides how many tokens
/// the next has, and with it the order of sums. The worst that was seen is 2e-5.
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{what}: {worst}");
}

#[test]
fn logits_need_no_wait() {
    let prompt = &long_prompt();
    for options in [GeneratorOptions::default, in_chunks] {
        let context = GpuContext::unblocking();
        let mut generator = demo(&context, options());
        let mut blocking = demo(&opened(), options());
        let last = context.drive(generator.prefill_get_last_logits_async(prompt)).unwrap();
        assert_close(&last, &blocking.prefill_get_last_logits(prompt).unwrap(), "the last token's");
        for token in [459, 282] {
            let next = context.drive(generator.decode_get_logits_async(token)).unwrap();
            assert_close(&next, &blocking.decode_get_logits(token).unwrap(), "the next token's");
        }
        let recomputed = context.drive(generator.recompute_all_logits_async(prompt)).unwrap();
        assert_close(&recomputed, &blocking.recompute_all_logits(prompt).unwrap(), "without caches");
        assert_eq!(generator.tokens(), blocking.tokens());
        let each = context.drive(generator.all_logits_async(prompt)).unwrap();
        assert_close(&each, &blocking.all_logits(prompt).unwrap(), "each token's");
        assert_close(&each, &recomputed, "cached and not");
        let refused = generator.all_logits(prompt);
        assert!(matches!(refused, Err(Error::Device(DeviceError::WouldBlock { .. }))), "{refused:?}");
    }
}

#[test]
fn logits_that_are_dropped_or_cancelled_leave_the_generator_usable() {
    let prompt = &long_prompt();
    let greedy = SampleOpts::greedy();
    let expected = expected(in_chunks(), prompt, &greedy);
    let context = GpuContext::unblocking();
    for polls in 1..6 {
        let mut generator = demo(&context, in_chunks());
        {
            let mut all = pin!(generator.all_logits_async(prompt));
            let nothing = Arc::new(Woken::default()).into();
            for _ in 0..polls {
                assert!(all.as_mut().poll(&mut Context::from_waker(&nothing)).is_pending());
                context.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
            }
        }
        assert_eq!(steps(&context, &mut generator, &greedy), expected, "dropped after {polls} polls");
    }
    let mut generator = demo(&context, in_chunks());
    let cancel = CancelToken::new();
    generator.set_cancel(cancel.clone());
    {
        let mut last = pin!(generator.prefill_get_last_logits_async(prompt));
        assert!(last.as_mut().poll(&mut Context::from_waker(&Arc::new(Woken::default()).into())).is_pending());
        cancel.cancel();
        assert!(matches!(context.drive(last), Err(Error::Cancelled(_))));
    }
    generator.set_cancel(CancelToken::new());
    assert_eq!(steps(&context, &mut generator, &greedy), expected, "cancelled");
}

#[test]
fn a_deterministic_history_keeps_no_rows_of_logits_that_were_dropped() {
    let prompt = &long_prompt();
    let options = || GeneratorOptions { deterministic: true, prefill_chunk: Some(64), ..GeneratorOptions::default() };
    let context = GpuContext::unblocking();
    let mut generator = demo(&context, options());
    {
        let mut all = pin!(generator.all_logits_async(prompt));
        let nothing = Arc::new(Woken::default()).into();
        for _ in 0..2 {
            assert!(all.as_mut().poll(&mut Context::from_waker(&nothing)).is_pending());
            context.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        }
    }
    let short = &prompt[..12];
    let found = context.drive(generator.prefill_get_last_logits_async(short)).unwrap();
    let mut fresh = demo(&context, options());
    assert!(found == context.drive(fresh.prefill_get_last_logits_async(short)).unwrap(), "other bits");
}
