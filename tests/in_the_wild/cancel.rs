//! Work that is cancelled ends where it is: nothing more is handed to the device or read of a weight, and nothing is
//! lost. What is counted is what happens between the cancellation and the return; no clock is asked.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use gemmaflow::{
    Error, Result,
    conversation::{AnswerOptions, Event, FinishReason, Model},
    embed::GemmaEmbedder,
    gemma::GemmaConfig,
    generate::{CancelToken, GemmaGenerator, GeneratorOptions, LogitChanges, LogitProcessor, SampleHooks, SampleOpts},
    runtime::Device,
    weights::{Tensor, TensorSource, WeightMap},
};

use super::common::oracle::{Oracle, worst};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
/// What transformers writes after "ROMEO:" and a new line (assets/demo/expected.json).
const EXPECTED: [u32; 8] = [282, 459, 391, 415, 382, 358, 268, 303];
const PROMPT: [u32; 3] = [2, 910, 262];

fn demo(device: Device) -> GemmaGenerator {
    GemmaGenerator::from_path(GemmaConfig::from_file(DEMO).unwrap(), DEMO, device).unwrap()
}

fn submits(generator: &GemmaGenerator) -> u64 {
    generator.counters().map_or(0, |counters| counters.submits)
}

fn is_cancelled<T: std::fmt::Debug>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(Error::Cancelled(_)))
}

/// Cancels while the device works at the logits that it is asked about.
struct Cancelling(CancelToken);

impl LogitProcessor for Cancelling {
    fn name(&self) -> &str {
        "cancelling"
    }

    fn process(&mut self, _: &[u32], _: &mut LogitChanges) -> anyhow::Result<()> {
        self.0.cancel();
        Ok(())
    }
}

/// Weights that cancel a token at the read with a number, and count those that come later.
struct Reads {
    inner: Tensor,
    token: CancelToken,
    count: Arc<AtomicUsize>,
    last: usize,
}

impl TensorSource for Reads {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.count.fetch_add(1, SeqCst) + 1 == self.last {
            self.token.cancel();
        }
        self.inner.read_bytes(offset as usize, out)
    }
}

/// The weights of an oracle, of which the read number `last` cancels `token`.
fn cancelling(oracle: &Oracle, token: &CancelToken, count: &Arc<AtomicUsize>, last: usize) -> WeightMap {
    let mut loader = oracle.loader();
    let mut tensors = Vec::new();
    for key in loader.remaining_keys() {
        let inner = loader.take(&key).unwrap();
        let (dtype, shape) = (inner.dtype(), inner.shape().to_vec());
        let source = Reads { inner, token: token.clone(), count: count.clone(), last };
        tensors.push(Tensor::new(key, dtype, shape, Arc::new(source), 0));
    }
    WeightMap::from_tensors(tensors)
}

#[test]
fn a_run_of_the_reference_ends_between_two_reads() {
    let oracle = Oracle::open("gemma3-text");
    let tokens = oracle.tokens("p33.input_ids");
    for last in [1, 7, 60] {
        let (token, count) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut weights = cancelling(&oracle, &token, &count, last);
        let mut generator = GemmaGenerator::from_loader(oracle.config.clone(), &mut weights, Device::Cpu).unwrap();
        count.store(0, SeqCst);
        generator.set_cancel(token.clone());
        assert!(is_cancelled(&generator.all_logits(&tokens)), "{last}");
        // Other threads may have been about to read.
        let most = last + std::thread::available_parallelism().map_or(1, usize::from);
        assert!(count.load(SeqCst) <= most, "{last}: {} reads", count.load(SeqCst));
        assert!(
            is_cancelled(&generator.step_cached(&SampleOpts::greedy())) && is_cancelled(&generator.recompute_all_logits(&tokens))
        );
        generator.set_cancel(CancelToken::new());
        assert!(worst(&generator.all_logits(&tokens).unwrap(), &oracle.f32("p33.logits")) < oracle.gate(), "{last}");
    }
}

#[test]
fn nothing_is_handed_to_the_device_any_more() {
    for device in [Device::Gpu, Device::Cpu] {
        let mut generator = demo(device);
        generator.prefill(PROMPT).unwrap();
        assert_eq!(generator.generate_cached(2, &SampleOpts::greedy()).unwrap(), EXPECTED[..2]);
        let token = CancelToken::new();
        generator.set_cancel(token.clone());
        token.cancel();
        let before = submits(&generator);
        let history = generator.tokens().to_vec();
        assert!(is_cancelled(&generator.step_cached(&SampleOpts::greedy())));
        assert!(is_cancelled(&generator.generate_cached(4, &SampleOpts::greedy())));
        assert!(is_cancelled(&generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::default())));
        assert_eq!((submits(&generator), generator.tokens()), (before, &history[..]));
        let mut beside = generator.share_weights().unwrap();
        beside.prefill(PROMPT).unwrap();
        assert_eq!(beside.step_cached(&SampleOpts::greedy()).unwrap(), EXPECTED[0], "another generator has its own");
        generator.set_cancel(CancelToken::new());
        assert_eq!(generator.generate_cached(6, &SampleOpts::greedy()).unwrap(), EXPECTED[2..]);
    }
}

#[test]
fn a_wait_for_the_device_ends_and_nothing_is_lost() {
    let model = Model::open(DEMO, Device::Gpu, GeneratorOptions::default()).unwrap();
    let options = AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(8), ..AnswerOptions::default() };
    let mut conversation = model.conversation().unwrap().with_options(options);
    let token = conversation.cancel_token();
    conversation.set_hooks(Some(SampleHooks::default().with_processor(Cancelling(token))));
    conversation.write("ROMEO:\n").unwrap();
    conversation.answer().unwrap();
    let events: Vec<Event> = conversation.events().collect::<Result<_>>().unwrap();
    let made = model.counters().unwrap().submits;
    let ended = |event: &Event| match event {
        Event::End { finish_reason, usage } => *finish_reason == FinishReason::Cancelled && usage.completion_tokens == 0,
        _ => false,
    };
    assert!(events.iter().any(ended), "{events:?}");
    assert_eq!(model.counters().unwrap().submits, made);
    conversation.set_hooks(None);
    conversation.answer().unwrap();
    conversation.finish(|_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(conversation.tokens().ends_with(&EXPECTED), "{:?}", conversation.tokens());
}

#[test]
fn a_future_resolves_when_it_is_cancelled() {
    let mut generator = demo(Device::Gpu);
    let token = CancelToken::new();
    generator.set_cancel(token.clone());
    generator.prefill(PROMPT.repeat(40)).unwrap();
    let opts = SampleOpts::greedy();
    {
        let mut step = pin!(generator.step_async(&opts));
        let mut task = Context::from_waker(Waker::noop());
        let mut outcome = step.as_mut().poll(&mut task);
        token.cancel();
        while outcome.is_pending() {
            std::thread::yield_now();
            outcome = step.as_mut().poll(&mut task);
        }
        // On a fast device the token may have come first.
        assert!(matches!(outcome, Poll::Ready(Err(Error::Cancelled(_)) | Ok(_))), "{outcome:?}");
    }
    generator.set_cancel(CancelToken::new());
    generator.prefill(PROMPT).unwrap();
    assert_eq!(generator.generate_cached(8, &SampleOpts::greedy()).unwrap(), EXPECTED);
}

#[test]
fn a_step_of_several_ends_for_all_and_is_taken_again() {
    for device in [Device::Gpu, Device::Cpu] {
        let mut first = demo(device);
        let mut second = first.share_weights().unwrap();
        let opts = [SampleOpts::greedy(); 2];
        first.prefill(PROMPT).unwrap();
        second.prefill(PROMPT).unwrap();
        GemmaGenerator::decode_batch(&mut [&mut first, &mut second], &opts).into_iter().for_each(|token| {
            assert_eq!(token.unwrap(), EXPECTED[0]);
        });
        let token = CancelToken::new();
        second.set_cancel(token.clone());
        token.cancel();
        let outcome = GemmaGenerator::decode_batch(&mut [&mut first, &mut second], &opts);
        assert!(is_cancelled(&outcome[1]), "{outcome:?}");
        let went_on = usize::from(outcome[0].is_ok());
        second.set_cancel(CancelToken::new());
        assert_eq!(first.generate_cached(4, &opts[0]).unwrap(), EXPECTED[1 + went_on..][..4]);
        assert_eq!(second.generate_cached(4, &opts[0]).unwrap(), EXPECTED[1..5]);
    }
}

#[test]
fn an_embedder_gives_up_all_texts() {
    let oracle = Oracle::open("embeddinggemma");
    let tokens = [oracle.tokens("p7.input_ids"), oracle.tokens("p33.input_ids")];
    for device in [Device::Gpu, Device::Cpu] {
        let embedder = GemmaEmbedder::from_path(&oracle.folder, device).unwrap();
        let token = CancelToken::new();
        let cancelled = embedder.clone().with_cancel(token.clone());
        let expected = cancelled.embed(&tokens).unwrap();
        token.cancel();
        assert!(is_cancelled(&cancelled.embed(&tokens)));
        assert_eq!(embedder.embed(&tokens).unwrap(), expected, "other handles go on");
    }
    let (token, count) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut weights = cancelling(&oracle, &token, &count, 9);
    let embedder = GemmaEmbedder::from_loader(oracle.config.clone(), &mut weights, Device::Cpu).unwrap();
    let embedder = embedder.with_cancel(token);
    assert!(is_cancelled(&embedder.embed(&tokens)));
    assert!(count.load(SeqCst) <= 9 + std::thread::available_parallelism().map_or(1, usize::from));
}
