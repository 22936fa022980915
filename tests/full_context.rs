//! Answers that are longer than the context, and how full it is.

#[path = "common/talk.rs"]
mod talk;

use std::{future::poll_fn, ops::ControlFlow, pin::Pin};

use futures_core::Stream;
use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    conversation::{AnswerOptions, Conversation, Event, FinishReason, Model, Overflow},
    error::CallbackError,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, LogitChanges, LogitProcessor, SampleHooks, SampleOpts},
    runtime::Device,
    text::Message,
};
use talk::{DEMO, conversation, devices, end, events, greedy, open, text};

/// Answers of `most` tokens in a context that forgets.
fn forgetful(device: &Device, context: usize, most: usize) -> Conversation {
    let model = open(device, GeneratorOptions { context: Some(context), ..GeneratorOptions::default() });
    model.conversation().unwrap().with_options(AnswerOptions { overflow: Overflow::Forget, ..greedy(most) })
}

/// Forbids what ends a turn, and notes where answers begin; the `failing`th of them is an error.
struct Endless {
    ends: Vec<u32>,
    begun: usize,
    failing: Option<usize>,
    start: Option<usize>,
}

impl Endless {
    fn new(conversation: &Conversation, failing: Option<usize>) -> Self {
        let model = conversation.model();
        let mut ends = model.format().unwrap().stop_tokens(model.tokenizer());
        ends.extend(&model.config().eos_token_ids);
        Self { ends, begun: 0, failing, start: None }
    }
}

impl LogitProcessor for Endless {
    fn name(&self) -> &str {
        "endless"
    }

    fn begin(&mut self, history: usize) {
        self.begun += 1;
        assert_ne!(Some(self.begun), self.failing, "as the test wants it");
        self.start = Some(history);
    }

    fn process(&mut self, history: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        let start = self.start.take_if(|start| *start > history.len());
        anyhow::ensure!(start.is_none(), "an answer that begins at {start:?} of {} tokens", history.len());
        self.ends.iter().for_each(|end| changes.ban(*end));
        Ok(())
    }
}

/// The text of an answer of 300 tokens, which is also what the conversation keeps.
fn long_answer(conversation: &mut Conversation, context: usize) -> String {
    let mut told = Vec::new();
    while let Some(event) = conversation.next_event().unwrap() {
        assert!(conversation.tokens().len() <= context);
        told.push(event);
    }
    let (finish_reason, usage) = end(&told);
    assert_eq!((finish_reason, usage.completion_tokens), (FinishReason::Length, 300));
    text(&told)
}

#[test]
fn an_answer_outgrows_its_context_many_times() {
    for device in devices() {
        for context in [32, 96] {
            let mut turns = forgetful(&device, context, 300);
            turns.set_hooks(Some(SampleHooks::new().with_processor(Endless::new(&turns, None))));
            turns.push(Message::system("Be brief.")).unwrap();
            turns.send("Speak.").unwrap();
            let told = long_answer(&mut turns, context);
            let Some(Message::Model(turn)) = turns.messages().last() else { panic!("it answered") };
            assert_eq!(turn.text, told, "{device} {context}: nothing is lost");
            // The answer cannot be held, and goes with its question.
            turns.set_hooks(None);
            turns.set_options(AnswerOptions { overflow: Overflow::Forget, ..greedy(5) });
            turns.send("And now?").unwrap();
            assert_eq!(end(&events(&mut turns)).0, FinishReason::Length);
            assert_eq!(turns.messages().len(), 5);

            let mut story = forgetful(&device, context, 300);
            story.write("ROMEO:\n").unwrap();
            story.answer().unwrap();
            let told = long_answer(&mut story, context);
            assert!(story.used() <= context && told.len() > 300, "{device} {context}: {}", told.len());
            let kept = story.model().tokenizer().decode(&story.tokens()[1..]).unwrap();
            assert!(told.ends_with(kept.trim_start_matches('\u{fffd}')), "{device} {context}: {kept:?} is its end");
        }
    }
}

/// Also without hooks, where steps run ahead, and in steps with others.
#[test]
fn steps_ahead_and_together_outgrow_a_context_alike() {
    let mut alone = forgetful(&Device::Gpu, 64, 300);
    let mut together = alone.fork().unwrap();
    for conversation in [&mut alone, &mut together] {
        conversation.write("JULIET:\n").unwrap();
        conversation.answer().unwrap();
    }
    let whole = events(&mut alone);
    assert_eq!(end(&whole).1.completion_tokens, 300);
    let (model, mut told) = (together.model().clone(), Vec::new());
    while !matches!(told.last(), Some(Event::End { .. })) {
        told.extend(model.step(&mut [&mut together]).remove(0).unwrap());
    }
    assert_eq!(text(&told), text(&whole));
}

/// What an answer of a model with a large context says in the room of a small one.
fn in_room(large: &Model, begin: &impl Fn(&Model) -> Conversation, context: usize) -> (Vec<u32>, usize) {
    let mut conversation = begin(large);
    let prompt = conversation.tokens().len();
    conversation.set_options(greedy(context - prompt));
    events(&mut conversation);
    (conversation.tokens()[..context].to_vec(), context - prompt)
}

fn turns(model: &Model) -> Conversation {
    let mut turns = model.conversation().unwrap();
    turns.set_hooks(Some(SampleHooks::new().with_processor(Endless::new(&turns, None))));
    turns.send("Who goes there?").unwrap();
    turns
}

fn story(model: &Model) -> Conversation {
    let mut story = model.conversation().unwrap();
    story.write("JULIET:\n").unwrap();
    story.answer().unwrap();
    story
}

/// Takes all that an answer tells, one way or another.
type Way = fn(&mut Conversation) -> Vec<Event>;

/// Every way to take an answer: an iterator, an event at a time, a callback, a stream, and steps with others.
const WAYS: [Way; 5] = [
    |conversation| events(conversation),
    |conversation| std::iter::from_fn(|| conversation.next_event().unwrap()).collect(),
    |conversation| {
        let mut told = Vec::new();
        conversation
            .finish(|event| {
                told.push(event.clone());
                ControlFlow::Continue(())
            })
            .unwrap();
        told
    },
    |conversation| {
        let (mut stream, mut told) = (conversation.stream(), Vec::new());
        pollster::block_on(async {
            while let Some(event) = poll_fn(|task| Pin::new(&mut stream).poll_next(task)).await {
                told.push(event.unwrap());
            }
        });
        told
    },
    |conversation| {
        let (model, mut told) = (conversation.model().clone(), Vec::new());
        let mut other = story(&model);
        while !matches!(told.last(), Some(Event::End { .. })) {
            let mut steps = model.step(&mut [conversation, &mut other]);
            told.extend(steps.remove(0).unwrap());
        }
        told
    },
];

#[test]
fn an_answer_that_meets_the_end_of_the_context_ends_with_its_reason() {
    const CONTEXT: usize = 48;
    for device in devices() {
        let large = open(&device, GeneratorOptions::default());
        let small = open(&device, GeneratorOptions { context: Some(CONTEXT), ..GeneratorOptions::default() });
        for begin in [turns, story] {
            let (tokens, room) = in_room(&large, &begin, CONTEXT);
            for (way, take) in WAYS.iter().enumerate() {
                let mut answering = begin(&small);
                let greedy = AnswerOptions { max_tokens: None, ..greedy(0) };
                answering.set_options(greedy.clone());
                let told = take(&mut answering);
                let (finish_reason, usage) = end(&told);
                assert_eq!((finish_reason, usage.completion_tokens), (FinishReason::Length, room), "{device} way {way}");
                assert_eq!(answering.tokens(), tokens, "{device} way {way}: as with more room");
                assert_eq!(answering.left(), 0, "{device} way {way}");
                if let Some(Message::Model(turn)) = answering.messages().last() {
                    assert_eq!(turn.text, text(&told), "{device} way {way}: what was said stays");
                }
                // The next prompt is the one that does not fit.
                let (before, again) = (answering.messages().to_vec(), answering.send("And now?"));
                if !before.is_empty() {
                    assert!(matches!(again, Err(Error::ContextFull { capacity: CONTEXT, .. })), "{device} way {way}");
                    assert_eq!(answering.messages(), before);
                }
                // It goes on where the oldest may be forgotten.
                answering.set_options(AnswerOptions { overflow: Overflow::Forget, max_tokens: Some(5), ..greedy });
                if !before.is_empty() {
                    answering.send("And now?").unwrap();
                    assert_eq!(end(&events(&mut answering)).1.completion_tokens, 5, "{device} way {way}");
                }
            }
        }
    }
}

/// The loops of a generator end likewise; a step alone has no token to give.
#[test]
fn loops_of_a_generator_end_with_the_context() {
    for device in devices() {
        let load = |context| {
            let options = GeneratorOptions { context, ..GeneratorOptions::default() };
            let config = GemmaConfig::from_file(DEMO).unwrap();
            GemmaGenerator::with_options(config, load_from_path(DEMO).unwrap().as_mut(), device.clone(), options).unwrap()
        };
        let mut large = load(None);
        let mut small = load(Some(24));
        let opts = SampleOpts::greedy();
        let prompt: Vec<u32> = (0..12).map(|i| 4 + i * 7).collect();
        large.prefill(&prompt).unwrap();
        let expected = large.generate_cached(12, &opts).unwrap();
        type Loop = fn(&mut GemmaGenerator, usize, &SampleOpts) -> gemmaflow::Result<Vec<u32>>;
        let loops: [Loop; 4] = [
            |generator, n, opts| generator.generate(n, opts),
            |generator, n, opts| generator.generate_cached(n, opts),
            |generator, n, opts| generator.generate_hooked(n, opts, &mut SampleHooks::new(), |_| ControlFlow::Continue(())),
            |generator, n, opts| {
                let mut told = Vec::new();
                generator.generate_cached_with(n, opts, |token| {
                    told.push(token);
                    ControlFlow::Continue(())
                })?;
                Ok(told)
            },
        ];
        for (index, generate) in loops.iter().enumerate() {
            small.prefill(&prompt).unwrap();
            assert_eq!(generate(&mut small, 100, &opts).unwrap(), expected, "{device} loop {index}");
            assert_eq!(small.tokens().len(), small.max_context(), "{device} loop {index}");
            let error = generate(&mut small, 1, &opts).unwrap_err();
            assert!(matches!(error, Error::ContextFull { needed: 25, capacity: 24 }), "{device} loop {index}: {error}");
            assert!(generate(&mut small, 0, &opts).unwrap().is_empty(), "{device} loop {index}: nothing was asked for");
        }
    }
}

#[test]
fn a_prompt_that_leaves_no_room_is_refused_and_nothing_is_forgotten() {
    for device in devices() {
        let mut full = forgetful(&device, 40, 500);
        full.push(Message::system("Speak as a king, and of nothing but the weather in the north, and never of love.")).unwrap();
        let error = full.send("Who goes there?").unwrap_err();
        assert!(matches!(error, Error::ContextFull { capacity: 40, .. }), "{device}: {error}");
        assert_eq!(full.messages().len(), 1, "{device}: it was not said");
    }
}

/// Hooks that fail when they hear that the answer begins anew, in a full context, hear it again.
#[test]
fn hooks_that_fail_where_room_is_made_are_told_again() {
    for device in devices() {
        for plain in [false, true] {
            let open = |failing: Option<usize>| {
                let mut conversation = forgetful(&device, 64, 120);
                conversation.set_hooks(Some(SampleHooks::new().with_processor(Endless::new(&conversation, failing))));
                if plain {
                    conversation.write("ROMEO:\n").and_then(|()| conversation.answer()).unwrap();
                } else {
                    conversation.send("Speak.").unwrap();
                }
                conversation
            };
            let expected = text(&events(&mut open(None)));
            let mut disturbed = open(Some(2));
            let (mut told, mut errors) = (String::new(), 0);
            loop {
                match disturbed.next_event() {
                    Ok(Some(event)) => told.push_str(&event.to_string()),
                    Ok(None) => break,
                    Err(error) => {
                        assert!(matches!(error, Error::Callback(CallbackError::Hook { .. })), "{error}");
                        errors += 1;
                    }
                }
            }
            assert_eq!((told, errors), (expected, 1), "{device} plain {plain}");
        }
    }
}

#[test]
fn what_is_used_follows_the_messages() {
    let model = talk::model();
    let mut talk = conversation(&model, 6);
    let counted = |talk: &Conversation| {
        let format = model.format().unwrap();
        format.encode(model.tokenizer(), talk.messages(), false).map(|tokens| tokens.len())
    };
    assert_eq!(talk.used(), 0);
    talk.push(Message::system("Speak as a king.")).unwrap();
    assert_eq!(talk.used(), 0, "no prompt yet, and the model has seen nothing");
    talk.push(Message::user("Who goes there?")).unwrap();
    let bookmark = talk.bookmark();
    assert_eq!((talk.used(), talk.left()), (counted(&talk).unwrap(), 2048 - counted(&talk).unwrap()));
    talk.answer().unwrap();
    events(&mut talk);
    assert_eq!(talk.used(), counted(&talk).unwrap());
    // Other messages, as many as before.
    for text in ["Well.", "That is a long story, and it is late."] {
        talk.rewind(&bookmark);
        talk.push(Message::model(text)).unwrap();
        assert_eq!(talk.used(), counted(&talk).unwrap(), "{text}");
        assert_eq!(talk.fork().unwrap().used(), talk.used());
    }
    talk.push(Message::model("Out of turn.")).unwrap();
    assert!(counted(&talk).is_err());
    assert_eq!(talk.used(), talk.tokens().len(), "what the model saw last");
    assert!(talk.used() > 0);
}
