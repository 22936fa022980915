//! Runs in submits of bounded length: the same bits, more submits, and a generator that stays usable whatever happens
//! between two.

#[path = "common/busy.rs"]
mod busy;
#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use busy::keep_busy;
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    conversation::{AnswerOptions, Event, FinishReason, Model},
    error::DeviceError,
    gemma::GemmaConfig,
    generate::{Drafter, GemmaGenerator, GeneratorOptions, LogitBias, SampleHooks, SampleOpts},
    runtime::{
        Device, GpuContext, GpuOptions, Opened, OwnDevice, wanted_features, wanted_limits,
        wgpu::{DeviceDescriptor, Features},
    },
};
use oracle::{Oracle, worst};

/// Shorter than any dispatch: each is a submit of its own.
const SHORTEST: Option<Duration> = Some(Duration::from_nanos(1));
/// Longer than any run.
const LONG: Option<Duration> = Some(Duration::from_secs(3600));
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
const PROMPT: [u32; 3] = [2, 910, 262];
/// What transformers writes after "ROMEO:" (assets/demo/expected.json).
const EXPECTED: [u32; 8] = [282, 459, 391, 415, 382, 358, 268, 303];

fn options(submit_time: Option<Duration>) -> GeneratorOptions {
    // Runs of one token are what the shortest time makes of a prompt, and runs of other sizes round otherwise.
    GeneratorOptions { submit_time, prefill_chunk: Some(1), ..GeneratorOptions::default() }
}

fn of(oracle: &Oracle, submit_time: Option<Duration>) -> GemmaGenerator {
    let (config, mut loader) = (oracle.config.clone(), oracle.loader());
    GemmaGenerator::with_options(config, loader.as_mut(), Device::Gpu, options(submit_time)).unwrap()
}

fn demo(device: Device, options: GeneratorOptions) -> GemmaGenerator {
    let folder = Path::new(DEMO);
    let (config, mut loader) = (GemmaConfig::from_file(folder).unwrap(), load_from_path(folder).unwrap());
    GemmaGenerator::with_options(config, loader.as_mut(), device, options).unwrap()
}

fn open() -> Arc<GpuContext> {
    match Device::Gpu.open(&GpuOptions::default()).expect("a GPU adapter (lavapipe will do)") {
        Opened::Gpu(context) => context,
        Opened::Reference => panic!("Device::Gpu opened the reference"),
    }
}

fn submits(generator: &GemmaGenerator) -> u64 {
    generator.counters().expect("a GPU counts").submits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_family_computes_the_same_bits_in_a_submit_a_dispatch() {
    for name in ["gemma1-mha", "gemma2", "gemma3-text", "gemma3n", "gemma4-dense", "gemma4-e2b", "gemma4-moe", "vaultgemma"] {
        let oracle = Oracle::open(name);
        let prompt = oracle.tokens("p7.input_ids");
        let (mut whole, mut sliced) = (of(&oracle, None), of(&oracle, SHORTEST));
        // One run of many tokens, without caches.
        let expected = whole.recompute_all_logits(&prompt).unwrap();
        assert_eq!(bits(&sliced.recompute_all_logits(&prompt).unwrap()), bits(&expected), "{name}");
        assert!(worst(&expected, &oracle.f32("p7.logits")) <= oracle.gate(), "{name}");
        let last = whole.prefill_get_last_logits(&prompt).unwrap();
        assert_eq!(bits(&sliced.prefill_get_last_logits(&prompt).unwrap()), bits(&last), "{name}");
        let expected = whole.generate_cached(5, &SampleOpts::greedy()).unwrap();
        assert_eq!(sliced.generate_cached(5, &SampleOpts::greedy()).unwrap(), expected, "{name}");
        let (before, dispatches) = (submits(&sliced), sliced.stats().dispatches_per_token as u64);
        sliced.step_cached(&SampleOpts::greedy()).unwrap();
        // What chooses the token, one or two dispatches, goes with the last.
        let made = submits(&sliced) - before;
        assert!((1..=2).contains(&(dispatches - made)), "{name}: {made} submits of {dispatches} dispatches");
    }
}

#[test]
fn texts_are_those_of_whole_runs() {
    let (mut whole, mut sliced) = (demo(Device::Gpu, options(None)), demo(Device::Gpu, options(SHORTEST)));
    let drawn = SampleOpts::temperature(0.8, 7).with_top_k(40);
    let penalised = drawn.with_repetition_penalty(1.2);
    for opts in [SampleOpts::greedy(), drawn, penalised] {
        let [expected, found] = [&mut whole, &mut sliced].map(|generator| {
            generator.prefill(PROMPT).unwrap();
            generator.generate_cached(24, &opts).unwrap()
        });
        assert_eq!(found, expected, "{opts:?}");
    }
    sliced.prefill(PROMPT).unwrap();
    assert_eq!(sliced.generate_cached(8, &SampleOpts::greedy()).unwrap(), EXPECTED);
    let with_lookup = |submit_time| {
        let options = GeneratorOptions { submit_time, ..GeneratorOptions::default() };
        let mut generator = demo(Device::Gpu, options).with_drafter(Drafter::prompt_lookup()).unwrap();
        generator.prefill([PROMPT, PROMPT, PROMPT].concat()).unwrap();
        generator.generate_cached(40, &SampleOpts::greedy()).unwrap()
    };
    assert_eq!(with_lookup(SHORTEST), with_lookup(None));
}

#[test]
fn a_run_that_fits_is_one_submit_and_runs_ahead() {
    let context = open();
    let options = GeneratorOptions { submit_time: LONG, ..GeneratorOptions::default() };
    let mut generator = demo(Device::Context(context.clone()), options);
    generator.prefill(PROMPT).unwrap();
    generator.generate_cached(4, &SampleOpts::greedy()).unwrap();
    let (before, mut made) = (submits(&generator), Vec::new());
    let outcome = generator.generate_cached_with(20, &SampleOpts::greedy(), |_| {
        made.push(context.counters().snapshot().submits - before);
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.unwrap().len(), 20);
    // The step after the one whose token is handed over is under way.
    assert_eq!(made, (2..=20).chain([20]).collect::<Vec<u64>>());
}

#[test]
fn a_prompt_is_run_in_as_many_tokens_as_the_time_allows() {
    let oracle = Oracle::open("gemma3-text");
    let prompt = oracle.tokens("p70.input_ids");
    let with = |submit_time| {
        let (config, mut loader) = (oracle.config.clone(), oracle.loader());
        let options = GeneratorOptions { submit_time, ..GeneratorOptions::default() };
        GemmaGenerator::with_options(config, loader.as_mut(), Device::Gpu, options).unwrap()
    };
    let mut whole = with(None);
    let mut long = with(LONG);
    let mut short = with(SHORTEST);
    let expected = whole.all_logits(&prompt).unwrap();
    assert_eq!(bits(&long.all_logits(&prompt).unwrap()), bits(&expected));
    assert_eq!(submits(&long), submits(&whole));
    let found = short.all_logits(&prompt).unwrap();
    assert!(worst(&found, &oracle.f32("p70.logits")) <= oracle.gate());
    // A run a token, a submit a dispatch.
    assert!(submits(&short) > submits(&whole) + prompt.len() as u64 * oracle.config.num_hidden_layers as u64);
}

#[test]
fn without_timestamps_the_host_times() {
    let context = open();
    let adapter = context.adapter().clone();
    let timestamps = Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    let descriptor = DeviceDescriptor {
        required_features: wanted_features(&adapter) - timestamps,
        required_limits: wanted_limits(&adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    for submit_time in [SHORTEST, Some(Duration::from_millis(1)), LONG] {
        let own = OwnDevice { adapter: adapter.clone(), device: device.clone(), queue: queue.clone() };
        let mut generator = demo(Device::Own(own), options(submit_time));
        for _ in 0..3 {
            generator.prefill(&PROMPT[..1]).unwrap();
            generator.prefill(PROMPT).unwrap();
            assert_eq!(generator.generate_cached(8, &SampleOpts::greedy()).unwrap(), EXPECTED);
        }
    }
}

#[test]
fn a_break_between_tokens_and_a_fork_lose_nothing() {
    let mut sliced = demo(Device::Gpu, options(SHORTEST));
    sliced.prefill(PROMPT).unwrap();
    let mut left = 3;
    let first = sliced.generate_cached_with(8, &SampleOpts::greedy(), |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(first.unwrap(), EXPECTED[..3]);
    let mut fork = sliced.fork().unwrap();
    let beside = std::thread::spawn(move || fork.generate_cached(5, &SampleOpts::greedy()).unwrap());
    assert_eq!(sliced.generate_cached(5, &SampleOpts::greedy()).unwrap(), EXPECTED[3..]);
    assert_eq!(beside.join().unwrap(), EXPECTED[3..]);
    sliced.prefill(&PROMPT[..2]).unwrap();
    sliced.prefill(PROMPT).unwrap();
    assert_eq!(sliced.generate_cached(8, &SampleOpts::greedy()).unwrap(), EXPECTED);
}

#[test]
fn a_device_lost_between_slices_is_an_error_and_the_history_stays() {
    let context = open();
    let mut sliced = demo(Device::Context(context.clone()), options(SHORTEST));
    sliced.prefill(PROMPT).unwrap();
    let mut seen = Vec::new();
    let outcome = sliced.generate_cached_with(8, &SampleOpts::greedy(), |token| {
        seen.push(token);
        if seen.len() == 2 {
            context.device().destroy();
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Err(Error::Device(DeviceError::Lost(_)))), "{outcome:?}");
    assert_eq!((&sliced.tokens()[..3], &sliced.tokens()[3..]), (&PROMPT[..], &EXPECTED[..2]));
}

/// Polls `future` once.
fn poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_step_given_up_between_slices_loses_nothing() {
    let context = open();
    let mut sliced = demo(Device::Context(context.clone()), options(SHORTEST));
    let mut given_up = 0;
    // So that the first is given up even where a device is faster than its slices are submitted.
    keep_busy(&context);
    // The prompt's rows first, then slices of the step.
    for given_up_after in (1..30).step_by(4) {
        sliced.prefill([PROMPT[0], 700 + given_up_after as u32]).unwrap();
        sliced.prefill(PROMPT).unwrap();
        let (before, greedy) = (submits(&sliced), SampleOpts::greedy());
        let mut step = Box::pin(sliced.step_async(&greedy));
        let mut polled = Poll::Pending;
        while polled.is_pending() && context.counters().snapshot().submits - before < given_up_after {
            polled = poll(&mut step);
        }
        drop(step);
        // A poll goes on as long as the device is done already, at times to the end of the step.
        if let Poll::Ready(chosen) = polled {
            assert_eq!(chosen.unwrap(), EXPECTED[0]);
            continue;
        }
        given_up += 1;
        assert_eq!(sliced.tokens(), PROMPT);
        assert_eq!(sliced.generate_cached(8, &SampleOpts::greedy()).unwrap(), EXPECTED, "after {given_up_after} slices");
    }
    assert!(given_up > 0, "none of 8 was given up");
}

#[test]
fn steps_together_are_submits_of_slices_with_the_same_tokens() {
    let step = |submit_time| {
        let mut first = demo(Device::Gpu, options(submit_time));
        first.prefill(PROMPT).unwrap();
        let (mut second, mut third) = (first.fork().unwrap(), first.share_weights().unwrap());
        third.prefill([PROMPT[0], 700]).unwrap();
        let (mut tokens, mut made) = (Vec::new(), 0);
        for _ in 0..6 {
            let before = submits(&first);
            let opts = [SampleOpts::greedy(), SampleOpts::temperature(0.9, 4), SampleOpts::greedy()];
            let chosen = GemmaGenerator::decode_batch(&mut [&mut first, &mut second, &mut third], &opts);
            tokens.push(chosen.into_iter().collect::<Result<Vec<u32>, _>>().unwrap());
            made = submits(&first) - before;
        }
        (tokens, made)
    };
    let ((whole, one), (sliced, many)) = (step(LONG), step(SHORTEST));
    assert_eq!(sliced, whole);
    assert_eq!((one, many > 20), (1, true), "{many} slices");
}

#[test]
fn an_answer_is_cancelled_between_two_slices() {
    let context = open();
    let model = Model::open(DEMO, Device::Context(context.clone()), options(SHORTEST)).unwrap();
    let greedy = AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(8), ..AnswerOptions::default() };
    let ban = || SampleHooks::new().with_processor(LogitBias::new().with(700, -1.0));
    for hooked in [false, true] {
        let mut conversation = model.conversation().unwrap().with_options(greedy.clone());
        conversation.set_hooks(hooked.then(ban));
        conversation.write("ROMEO:\n").unwrap();
        conversation.answer().unwrap();
        keep_busy(&context);
        let mut event = Box::pin(async { conversation.next_event_async().await });
        assert!(poll(&mut event).is_pending());
        drop(event);
        let before = model.counters().unwrap().submits;
        conversation.cancel_token().cancel();
        let events: Vec<Event> = conversation.events().map(Result::unwrap).collect();
        assert!(matches!(events[..], [Event::End { finish_reason: FinishReason::Cancelled, .. }]), "{events:?}");
        assert_eq!(model.counters().unwrap().submits, before, "nothing is submitted for an answer that is cancelled");
        conversation.answer().unwrap();
        conversation.finish(|_| ControlFlow::Continue(())).unwrap();
        assert_eq!(conversation.tokens(), [&PROMPT[..], &EXPECTED].concat());
    }
}

#[test]
fn steps_with_hooks_wait_for_the_device_without_blocking() {
    let model = Model::open(DEMO, Device::Gpu, options(None)).unwrap();
    let ban = SampleHooks::new().with_processor(LogitBias::new().with(700, -1.0));
    let greedy = AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(8), ..AnswerOptions::default() };
    let mut conversation = model.conversation().unwrap().with_options(greedy).with_hooks(ban);
    conversation.write("ROMEO:\n").unwrap();
    conversation.answer().unwrap();
    let mut waits = 0;
    loop {
        let mut event = Box::pin(async { conversation.next_event_async().await });
        let told = loop {
            match event.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(told) => break told.unwrap(),
                Poll::Pending => waits += 1,
            }
            std::thread::yield_now();
        };
        if told.is_none() {
            break;
        }
    }
    assert_eq!(conversation.tokens(), [&PROMPT[..], &EXPECTED].concat());
    assert!(waits > 0, "some step takes longer than it takes to ask");
}

#[test]
fn steps_with_hooks_make_no_buffer_for_their_times() {
    let mut sliced = demo(Device::Gpu, options(SHORTEST));
    sliced.prefill(PROMPT).unwrap();
    let mut hooks = SampleHooks::new().with_processor(LogitBias::new().with(700, -1.0));
    let mut steps = || {
        let mut step = || sliced.step_hooked(&SampleOpts::greedy(), &mut hooks).unwrap().token;
        let tokens: Vec<u32> = (0..4).map(|_| step()).collect();
        (tokens, sliced.counters().unwrap().buffers_created)
    };
    let ((first, made), (second, then)) = (steps(), steps());
    assert_eq!([first, second].concat(), EXPECTED);
    assert_eq!(made, then);
}
