//! What an application hears: events by every road, stop texts, cancelling anywhere, hooks.

#[path = "common/talk.rs"]
mod talk;

use std::{
    ops::ControlFlow,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use futures_core::Stream;
use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Conversation, Event, FinishReason, Model},
    error::PromptError,
    gemma::GemmaConfig,
    generate::{CancelToken, Chosen, GemmaGenerator, GeneratorOptions, LogitBias, SampleHooks, SampleOpts},
    runtime::Device,
    text::{ChatFormat, Message, ModelTurn, Tokenizer},
};
use talk::{DEMO, conversation, devices, end, events, events_of, greedy, model, open, text};

/// The demo model's answer without any of this: a prompt in its chat format, tokens, text.
fn by_hand(device: Device, messages: &[Message], most: usize) -> (Vec<u32>, String) {
    let (tokenizer, format) = (Tokenizer::from_file(DEMO).unwrap(), ChatFormat::Gemma3);
    let mut generator = GemmaGenerator::from_path(GemmaConfig::from_file(DEMO).unwrap(), DEMO, device)
        .unwrap()
        .with_stop_tokens(&format.stop_tokens(&tokenizer));
    generator.prefill(format.encode(&tokenizer, messages, true).unwrap()).unwrap();
    let tokens = generator.generate_cached(most, &SampleOpts::greedy()).unwrap();
    let text = tokenizer.decode(&tokens).unwrap();
    (tokens, text)
}

#[test]
fn an_answer_is_the_generators_text_and_becomes_a_message() {
    for device in devices() {
        let model = open(&device, GeneratorOptions::default());
        let mut conversation = conversation(&model, 40);
        assert_eq!((conversation.used(), conversation.left(), conversation.max_context()), (0, 2048, 2048));
        let mut messages = Vec::new();
        for said in ["Who goes there?", "Speak, or I shall call the watch."] {
            messages.push(Message::user(said));
            let (tokens, expected) = by_hand(device.clone(), &messages, 40);
            conversation.send(said).unwrap();
            let told = events(&mut conversation);
            assert_eq!(text(&told), expected, "{device}");
            let (finish_reason, usage) = end(&told);
            assert_eq!((finish_reason, usage.completion_tokens), (FinishReason::Length, tokens.len()), "{device}");
            assert!(
                usage.cached_tokens < usage.prompt_tokens
                    && usage.prompt_tokens + usage.completion_tokens == conversation.tokens().len()
            );
            messages.push(Message::Model(ModelTurn { text: expected, ..ModelTurn::default() }));
            assert_eq!(conversation.messages(), messages, "{device}");
            assert_eq!(conversation.used() + conversation.left(), 2048);
            assert!(conversation.next_event().unwrap().is_none(), "nothing more is said");
        }
        // The second prompt begins as the first one and its answer did.
        let usage = model.counters().map(|counters| counters.bytes_read_back);
        assert!(usage.is_none_or(|bytes| bytes < 4 * 200), "greedy answers read their tokens: {usage:?}");
    }
}

#[test]
fn plain_text_goes_on_without_turns() {
    let model = model();
    let mut story = conversation(&model, 24);
    story.write("ROMEO:\n").unwrap();
    story.answer().unwrap();
    let first = text(&events(&mut story));
    // What transformers writes (assets/demo/expected.json).
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(Path::new(DEMO).join("expected.json")).unwrap()).unwrap();
    assert!(expected.to_string().contains(first.split('\n').next().unwrap()), "{first:?}");
    story.answer().unwrap();
    let second = text(&events(&mut story));
    let mut whole = conversation(&model, 48);
    whole.write("ROMEO:\n").unwrap();
    whole.answer().unwrap();
    assert_eq!(text(&events(&mut whole)), format!("{first}{second}"));
    story.write(" And so").unwrap();
    assert!(story.used() > 48 && story.messages().is_empty());
    assert!(matches!(story.push(Message::user("x")), Err(Error::Chat(_))));
    assert!(matches!(conversation_with_a_message(&model).write("x"), Err(Error::Chat(_))));
    assert!(matches!(model.conversation().unwrap().answer(), Err(Error::Prompt(PromptError::Empty))));
}

fn conversation_with_a_message(model: &Model) -> Conversation {
    let mut conversation = conversation(model, 8);
    conversation.push(Message::user("x")).unwrap();
    conversation
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The items of a stream, and how often it had none yet.
fn drain<S: Stream + Unpin + Send>(mut stream: S) -> (Vec<S::Item>, usize) {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut items, mut waits) = (Vec::new(), 0);
    loop {
        match Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(item)) => items.push(item),
            Poll::Ready(None) => return (items, waits),
            Poll::Pending => {
                waits += 1;
                std::thread::park();
            }
        }
    }
}

#[test]
fn iterator_callback_stream_and_steps_tell_the_same() {
    for device in devices() {
        let model = open(&device, GeneratorOptions::default());
        model.keep_prompts(0);
        let said = "What light through yonder window breaks?";
        let ask = || {
            let mut conversation = conversation(&model, 30);
            conversation.send(said).unwrap();
            conversation
        };
        let expected = events(&mut ask());
        let mut called = Vec::new();
        let answer = ask().finish(|event| {
            called.push(event.clone());
            ControlFlow::Continue(())
        });
        assert_eq!((called, answer.unwrap()), (expected.clone(), text(&expected)));
        let (streamed, waits) = drain(ask().stream());
        assert_eq!(streamed.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), expected, "{device}");
        assert_eq!(waits > 0, device == Device::Gpu, "{device}: {waits} waits");
        let mut stepped = ask();
        let mut told = Vec::new();
        while told.last().is_none_or(|event| !matches!(event, Event::End { .. })) {
            told.extend(model.step(&mut [&mut stepped]).remove(0).unwrap());
        }
        assert_eq!(told, expected, "{device}");
        assert_eq!(model.step(&mut [&mut stepped]).remove(0).unwrap(), []);
        let mut awaited = ask();
        let mut told = Vec::new();
        while told.last().is_none_or(|event| !matches!(event, Event::End { .. })) {
            told.extend(pollster::block_on(model.step_async(&mut [&mut awaited])).remove(0).unwrap());
        }
        assert_eq!(told, expected, "{device}");
        let (mut saved, mut blocking) = (Vec::new(), Vec::new());
        pollster::block_on(awaited.save_async(&mut saved)).unwrap();
        awaited.save(&mut blocking).unwrap();
        assert!(saved == blocking, "{device}: {} and {} bytes", saved.len(), blocking.len());
        // By hand, event by event.
        let mut pulled = ask();
        let mut by_event = Vec::new();
        while let Some(event) = pollster::block_on(pulled.next_event_async()).unwrap() {
            by_event.push(event);
        }
        assert_eq!(by_event, expected);
    }
}

#[test]
fn a_stop_text_ends_an_answer_wherever_tokens_cut_it() {
    let model = model();
    let mut plain = conversation(&model, 60);
    plain.send("Who goes there?").unwrap();
    let whole = text(&events(&mut plain));
    let chars: Vec<(usize, char)> = whole.char_indices().collect();
    for from in (4..chars.len() - 9).step_by(7) {
        let stop = &whole[chars[from].0..chars[from + 8].0];
        let at = whole.find(stop).unwrap();
        let options = AnswerOptions { stop: vec!["never in it\u{1}".into(), stop.into()], ..greedy(60) };
        let mut conversation = model.conversation().unwrap().with_options(options);
        conversation.send("Who goes there?").unwrap();
        let told = events(&mut conversation);
        assert_eq!((text(&told).as_str(), end(&told).0), (&whole[..at], FinishReason::Stop(1)), "{stop:?}");
        assert!(matches!(conversation.messages().last(), Some(Message::Model(turn)) if turn.text == whole[..at]));
    }
}

#[test]
fn text_comes_in_whole_characters() {
    let model = model();
    let mut conversation = conversation(&model, 80);
    conversation.write("Épée, naïve façade: 🜁 ").unwrap();
    conversation.answer().unwrap();
    for event in events(&mut conversation) {
        if let Event::Text(text) = event {
            assert!(!text.is_empty() && text.chars().all(|c| c != char::REPLACEMENT_CHARACTER) || text.contains('\u{fffd}'));
        }
    }
}

#[test]
fn an_answer_is_cancelled_in_prefill_and_in_decode_and_goes_on() {
    for device in devices() {
        let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
        let model = open(&device, options);
        let long = "To be, or not to be, that is the question. ".repeat(12);
        // While the prompt is read: after its first part.
        let mut conversation = conversation(&model, 20);
        let cancel = conversation.cancel_token();
        conversation.send(long.as_str()).unwrap();
        let first = conversation.next_event().unwrap().unwrap();
        assert!(matches!(first, Event::Prompt { done, total } if done < total), "{device}: {first:?}");
        let submits = model.counters().map(|counters| counters.submits);
        cancel.cancel();
        let (finish_reason, usage) = end(&events(&mut conversation));
        assert_eq!((finish_reason, usage.completion_tokens), (FinishReason::Cancelled, 0), "{device}");
        assert_eq!(model.counters().map(|counters| counters.submits), submits, "{device}: nothing more was submitted");
        assert_eq!(conversation.messages().len(), 1);
        // The same answer again goes on from the rows that were read.
        conversation.answer().unwrap();
        let told = events(&mut conversation);
        assert!(end(&told).1.cached_tokens >= 16, "{device}");
        let mut undisturbed = model.conversation().unwrap().with_options(greedy(20));
        undisturbed.send(long.as_str()).unwrap();
        assert_eq!(text(&events(&mut undisturbed)), text(&told), "{device}");

        // While it answers, from another thread: what was said stays.
        let mut conversation = model.conversation().unwrap().with_options(greedy(1000));
        conversation.send("Who goes there?").unwrap();
        let cancel = conversation.cancel_token();
        let mut said = String::new();
        let mut told = Vec::new();
        while let Some(event) = conversation.next_event().unwrap() {
            said.push_str(&event.to_string());
            told.push(event);
            if said.len() > 20 {
                let cancel = cancel.clone();
                std::thread::spawn(move || cancel.cancel()).join().unwrap();
            }
        }
        assert_eq!(end(&told).0, FinishReason::Cancelled);
        assert!(matches!(conversation.messages().last(), Some(Message::Model(turn)) if turn.text == said && said.len() < 60));
        conversation.send("Nay, answer me.").unwrap();
        assert!(!text(&events_of(&mut conversation, 30)).is_empty(), "the next answer is not cancelled");
        // Dropping an iterator half way, stopping, and a callback that breaks keep what was said too.
        conversation.stop();
        let messages = conversation.messages().len();
        conversation.send("Long live the king!").unwrap();
        let answer = conversation.finish(|event| match event {
            Event::Text(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(!answer.unwrap().is_empty());
        assert_eq!(conversation.messages().len(), messages + 2);
        assert!(conversation.next_event().unwrap().is_none());
    }
}

#[test]
fn loading_is_cancelled_by_a_token_and_by_its_callback() {
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = GeneratorOptions { cancel: Some(cancel.clone()), ..GeneratorOptions::default() };
    assert!(matches!(Model::open(DEMO, Device::Gpu, options), Err(Error::Cancelled(_))));
    let (cancel, seen) = (CancelToken::new(), cancel);
    let token = cancel.clone();
    let on_progress = Box::new(move |progress: gemmaflow::runtime::UploadProgress| {
        if progress.done > 0 {
            token.cancel();
        }
        true
    });
    let options = GeneratorOptions { cancel: Some(cancel), on_progress: Some(on_progress), ..GeneratorOptions::default() };
    assert!(matches!(Model::open(DEMO, Device::Gpu, options), Err(Error::Cancelled(_))));
    assert!(seen.is_cancelled());
}

#[test]
fn hooks_have_a_say_and_tell_probabilities() {
    let model = model();
    let mut plain = conversation(&model, 12);
    plain.send("Who goes there?").unwrap();
    events(&mut plain);
    let banned = plain.tokens()[plain.tokens().len() - 12];
    let hooks = SampleHooks::new().with_processor(LogitBias::new().banning([banned])).with_logprobs(3);
    let mut hooked = conversation(&model, 12).with_hooks(hooks);
    hooked.send("Who goes there?").unwrap();
    let told = events(&mut hooked);
    let chosen: Vec<&Chosen> =
        told.iter().filter_map(|event| if let Event::Token(chosen) = event { Some(chosen) } else { None }).collect();
    assert_eq!(chosen.len(), 12);
    assert!(
        chosen.iter().all(|chosen| chosen.token != banned && chosen.top.len() == 3 && chosen.logprob.is_some_and(|p| p <= 0.0))
    );
    assert_eq!(chosen[0].top[0].0, banned, "the model's own distribution");
    assert_eq!(hooked.tokens()[hooked.tokens().len() - 12..], chosen.iter().map(|chosen| chosen.token).collect::<Vec<_>>());
    // In steps with others too.
    let hooks = SampleHooks::new().with_processor(LogitBias::new().banning([banned]));
    let (mut with, mut without) = (conversation(&model, 12).with_hooks(hooks), conversation(&model, 12));
    with.send("Who goes there?").unwrap();
    without.send("Who goes there?").unwrap();
    for _ in 0..40 {
        assert!(model.step(&mut [&mut with, &mut without]).iter().all(Result::is_ok));
    }
    assert_eq!((with.messages(), without.messages()), (hooked.messages(), plain.messages()));
}

#[test]
fn a_step_takes_a_conversation_with_hooks_a_token_on() {
    let model = model();
    let bias = SampleHooks::new().with_processor(LogitBias::new().with(700, -1.0));
    let mut hooked = conversation(&model, 4).with_hooks(bias);
    hooked.send("Who goes there?").unwrap();
    let prompt = hooked.tokens().len();
    for answered in 1..=4 {
        let told = model.step(&mut [&mut hooked]).remove(0).unwrap();
        assert!(!told.is_empty() && hooked.tokens().len() == prompt + answered, "{told:?}");
    }
}
