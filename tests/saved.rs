//! Saved histories and conversations: other layouts, what follows them, what lies in them, and answers in the middle of
//! a word.

#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;
#[path = "common/talk.rs"]
mod talk;

use std::io::{Cursor, Read};

use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Conversation, Event, FinishReason, Model, Usage},
    error::SamplingError,
    gemma::random_weights,
    generate::{GemmaGenerator, GeneratorOptions, LogitChanges, LogitProcessor, SampleHooks, SampleOpts, TokenSet},
    ir::DType,
    profile::CompileProfile,
    runtime::Device,
    text::{Message, Tokenizer},
};
use oracle::Oracle;
use talk::{conversation, devices, end, events, events_of, greedy, model, open, text};

const GREEDY: SampleOpts = SampleOpts::greedy();

fn with(oracle: &Oracle, device: &Device, options: GeneratorOptions) -> GemmaGenerator {
    GemmaGenerator::with_options(oracle.config.clone(), oracle.loader().as_mut(), device.clone(), options).unwrap()
}

fn tokens(oracle: &Oracle, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i * 11 + 5) % (oracle.config.vocab_size as u32 - 4) + 4).collect()
}

/// A history of 40 tokens with its rows, and what follows it.
fn history(oracle: &Oracle, device: &Device) -> (Vec<u8>, Vec<u32>) {
    let mut original = with(oracle, device, GeneratorOptions::default());
    original.prefill(tokens(oracle, 40)).unwrap();
    original.generate_cached(1, &GREEDY).unwrap();
    let mut bytes = Vec::new();
    original.save(&mut bytes).unwrap();
    (bytes, original.generate_cached(8, &GREEDY).unwrap())
}

/// The ring of runs of 128 tokens holds far more bytes than all caches of the small generator.
#[test]
fn rows_of_a_larger_layout_are_computed_again() {
    let oracle = Oracle::open("gemma3-text");
    for device in devices() {
        let (bytes, expected) = history(&oracle, &device);
        let half = || {
            let mut profile = CompileProfile::default();
            profile.precision.kv = DType::F16;
            profile
        };
        let small = || GeneratorOptions { prefill_chunk: Some(4), context: Some(64), ..GeneratorOptions::default() };
        let halves = GeneratorOptions { prefill_profile: half(), decode_profile: half(), ..small() };
        for options in [small(), halves] {
            let mut restored = with(&oracle, &device, options);
            restored.restore(&bytes[..]).unwrap();
            assert_eq!((restored.tokens().len(), restored.cached_rows()), (41, 0), "{device}");
            assert_eq!(restored.generate_cached(8, &GREEDY).unwrap(), expected, "{device}");
            // The sum counts for rows that are not taken too.
            for at in [200, bytes.len() - 100, bytes.len() - 1] {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1;
                let error = restored.restore(&wrong[..]).unwrap_err();
                assert!(matches!(&error, Error::Saved(problem) if problem.contains("checksum")), "{device} {at}: {error}");
                let error = restored.restore(&bytes[..at]).unwrap_err();
                assert!(matches!(&error, Error::Saved(problem) if problem.contains("cut")), "{device} {at}: {error}");
            }
            assert_eq!(restored.tokens().len(), 49, "{device}: nothing changed");
        }
    }
}

#[test]
fn more_tokens_than_the_context_holds_are_a_full_context() {
    let oracle = Oracle::open("gemma3-text");
    let (bytes, _) = history(&oracle, &Device::Gpu);
    for chunk in [None, Some(4)] {
        let options = GeneratorOptions { prefill_chunk: chunk, context: Some(40), ..GeneratorOptions::default() };
        let mut small = with(&oracle, &Device::Gpu, options);
        small.prefill([5, 6, 7]).unwrap();
        let error = small.restore(&bytes[..]).unwrap_err();
        assert!(matches!(error, Error::ContextFull { needed: 41, capacity: 40 }), "{error}");
        let mut wrong = bytes.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(matches!(small.restore(&wrong[..]), Err(Error::Saved(_))), "damage is told first");
        assert_eq!(small.tokens(), [5, 6, 7]);
    }
}

/// Counts from the bytes are believed as far as bytes are there.
#[test]
fn a_header_that_promises_too_much_allocates_nothing() {
    let oracle = Oracle::open("gemma3-text");
    let (bytes, _) = history(&oracle, &Device::Gpu);
    let mut own = with(&oracle, &Device::Gpu, GeneratorOptions::default());
    // The layout; the counts of tokens and rows, of bytes of rows; all of them.
    let changes: [&[usize]; 5] = [&[20, 60], &[28], &[28, 36], &[60], &[20, 28, 36, 60]];
    for change in changes {
        for huge in [u64::MAX, u64::MAX / 4 + 1, 1 << 40, u64::from(u32::MAX)] {
            let mut wrong = bytes.clone();
            change.iter().for_each(|at| wrong[*at..at + 8].copy_from_slice(&huge.to_le_bytes()));
            let error = own.restore(&wrong[..]).unwrap_err();
            assert!(matches!(error, Error::Saved(_)), "{change:?} {huge}: {error}");
        }
    }
}

#[test]
fn what_follows_a_save_is_left_to_the_reader() {
    let oracle = Oracle::open("gemma3-text");
    let (bytes, expected) = history(&oracle, &Device::Gpu);
    let both = [&bytes[..], &bytes[..], b"and more"].concat();
    for chunk in [None, Some(4)] {
        let options = GeneratorOptions { prefill_chunk: chunk, ..GeneratorOptions::default() };
        let (mut generator, mut reader) = (with(&oracle, &Device::Gpu, options), Cursor::new(&both));
        for number in 1..=2 {
            generator.restore(&mut reader).unwrap();
            assert_eq!(reader.position(), (number * bytes.len()) as u64);
            assert_eq!(generator.generate_cached(8, &GREEDY).unwrap(), expected);
        }
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "and more");
    }
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut bytes = Vec::new();
    for text in ["Who goes there?", "Where is the king?"] {
        let mut asked = conversation(&model, 5);
        asked.send(text).unwrap();
        asked.save(&mut bytes).unwrap();
    }
    let mut reader = &bytes[..];
    let mut restored = || model.restore(&mut reader).unwrap().messages().to_vec();
    assert_eq!([restored(), restored()].concat(), ["Who goes there?", "Where is the king?"].map(Message::user));
    assert!(reader.is_empty());
}

fn restored(model: &Model, conversation: &mut Conversation) -> Conversation {
    let mut bytes = Vec::new();
    conversation.save(&mut bytes).unwrap();
    model.restore(&bytes[..]).unwrap()
}

/// One step, and what is told of it.
fn step(model: &Model, conversation: &mut Conversation) -> Vec<Event> {
    model.step(&mut [conversation]).remove(0).unwrap()
}

/// Texts that an answer is stopped by in its middle: one that begins within a token and ends within another, and one
/// that begins as often as it can without coming. Saved after each step, in whatever the tokens have come to.
#[test]
fn an_answer_goes_on_from_every_token() {
    let model = open(&Device::Gpu, GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() });
    for plain in [false, true] {
        let asked = |stop: Vec<String>| {
            let mut asked = model.conversation().unwrap().with_options(AnswerOptions { stop, ..greedy(40) });
            if plain {
                asked.write("Enter ROMEO and JULIET, above.\nROMEO:\n").and_then(|()| asked.answer()).unwrap()
            } else {
                asked.send("Who goes there? Speak, or I shall call the watch before the morning.").unwrap()
            }
            asked
        };
        let whole: Vec<char> = text(&events(&mut asked(Vec::new()))).chars().collect();
        assert!(whole.len() > 40, "{whole:?}");
        let stop: String = whole[whole.len() / 2..][..9].iter().collect();
        let begins: Vec<String> = whole.iter().take(30).map(|c| format!("{c}\u{1F451}")).collect();
        let stops = [&[stop][..], &begins].concat();
        let expected = events(&mut asked(stops.clone()));
        assert_eq!(end(&expected).0, FinishReason::Stop(0));
        let mut original = asked(stops);
        let mut told = Vec::new();
        let mut saves = 0;
        while !matches!(told.last(), Some(Event::End { .. })) {
            let rest = events(&mut restored(&model, &mut original));
            let prompts = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Prompt { .. })).count();
            assert_eq!(text(&told) + &text(&rest), text(&expected), "plain {plain}, after {saves} steps");
            assert_eq!(prompts(&told) + prompts(&rest), prompts(&expected), "plain {plain}, after {saves} steps");
            let usages: [(FinishReason, Usage); 2] = [end(&rest), end(&expected)];
            assert_eq!(usages[0], usages[1]);
            told.extend(step(&model, &mut original));
            saves += 1;
        }
        assert!(saves > 10, "{saves}");
    }
}

#[test]
fn an_answer_keeps_the_stop_texts_that_it_began_with() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    let mut plain = conversation(&model, 40);
    plain.send("Who goes there?").unwrap();
    let whole = text(&events(&mut plain));
    let stop: String = whole.chars().skip(12).take(4).collect();
    let mut original = model.conversation().unwrap().with_options(AnswerOptions { stop: vec![stop.clone()], ..greedy(40) });
    original.send("Who goes there?").unwrap();
    events_of(&mut original, 2);
    // From the next answer on.
    original.set_options(AnswerOptions { stop: vec!["never".into()], ..greedy(40) });
    let mut restored = restored(&model, &mut original);
    let expected = events(&mut original);
    assert_eq!(end(&expected).0, FinishReason::Stop(0));
    assert_eq!(events(&mut restored), expected);
    assert_eq!(restored.options().stop, ["never"]);
}

/// Says these tokens behind the first `start` ones, whatever the model thinks.
struct Says {
    tokens: Vec<u32>,
    start: usize,
}

impl LogitProcessor for Says {
    fn name(&self) -> &str {
        "says"
    }

    fn process(&mut self, history: &[u32], changes: &mut LogitChanges) -> anyhow::Result<()> {
        let mut only = TokenSet::none(changes.vocab_size());
        self.tokens.get(history.len() - self.start).into_iter().for_each(|token| only.insert(*token));
        changes.allow_only(only);
        Ok(())
    }
}

/// What is thought, said and called, each joined.
fn joined(events: &[Event]) -> [String; 3] {
    let mut joined = [const { String::new() }; 3];
    for event in events {
        match event {
            Event::Thought(text) => joined[0].push_str(text),
            Event::Text(text) => joined[1].push_str(text),
            Event::ToolCall(call) => joined[2].push_str(&format!("{call:?}")),
            _ => {}
        }
    }
    joined
}

/// Thoughts, text and a call of a tool, with characters of several tokens.
#[test]
fn a_thought_goes_on_from_every_token() {
    const ANSWER: &str = "<|channel>thought\nLet me see: a café?\n<channel|>The café is shut, I say.\
        <|tool_call>call:weather{city:<|\"|>Zürich<|\"|>}<tool_call|>";
    let path = oracle::data("tokenizers/gemma4/tokenizer.json");
    let tokens = tokenizers::Tokenizer::from_file(&path).unwrap().encode(ANSWER, false).unwrap().get_ids().to_vec();
    let tokenizer = Tokenizer::from_file(path.parent().unwrap()).unwrap();
    let mut config = Oracle::open("gemma4-dense").config;
    config.vocab_size = tokenizer.vocab_size();
    let mut weights = random_weights(&config, DType::F32, 3).unwrap();
    let model = Model::from_loader(config, &mut weights, tokenizer, Device::Cpu, GeneratorOptions::default()).unwrap();
    let mut original =
        model.conversation().unwrap().with_options(AnswerOptions { stop: vec!["say.!".into()], ..greedy(tokens.len()) });
    original.send("Is the café open?").unwrap();
    let start = original.tokens().len();
    let hooks = || Some(SampleHooks::new().with_processor(Says { tokens: tokens.clone(), start }));
    original.set_hooks(hooks());
    let (mut told, mut ways) = (Vec::new(), Vec::new());
    while !matches!(told.last(), Some(Event::End { .. })) {
        let mut restored = restored(&model, &mut original);
        restored.set_hooks(hooks());
        ways.push([&told[..], &events(&mut restored)].concat());
        assert!(matches!(restored.messages().last(), Some(Message::Model(turn)) if !turn.tool_calls.is_empty()));
        // A save drops a step that was begun: the next token takes as many steps as it does without one.
        let known = original.tokens().len();
        while original.tokens().len() == known && !matches!(told.last(), Some(Event::End { .. })) {
            told.extend(step(&model, &mut original));
        }
    }
    let expected = joined(&told);
    assert_eq!(expected[..2], ["Let me see: a café?", "The café is shut, I say."]);
    assert!(expected[2].contains("Zürich"), "{}", expected[2]);
    assert!(ways.len() >= tokens.len());
    for (steps, way) in ways.iter().enumerate() {
        assert_eq!(joined(way), expected, "after {steps} steps");
        assert_eq!(end(way), end(&told));
    }
}

/// Temperatures and the like that have no meaning are an error of the step, and stay what they are in a save.
#[test]
fn options_without_meaning_are_saved_as_they_are() {
    let model = open(&Device::Gpu, GeneratorOptions::default());
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut original = conversation(&model, 8);
        original.send("Who goes there?").unwrap();
        let sampling = SampleOpts::temperature(number, 7).with_min_p(number);
        original.set_options(AnswerOptions { sampling, ..greedy(8) });
        let mut restored = restored(&model, &mut original);
        assert_eq!(format!("{:?}", restored.options()), format!("{:?}", original.options()));
        assert!(matches!(restored.next_event(), Err(Error::Sampling(SamplingError::Options(_)))));
        restored.set_options(greedy(8));
        original.set_options(greedy(8));
        assert_eq!(events(&mut restored), events(&mut original));
    }
}

/// What a save is refused by. Another number for the same files would make all conversations of earlier releases those
/// of "another model". The value is that of a program of its own over `config.json` and `model.safetensors`, of what
/// `src/generate/identity.rs` says.
#[test]
fn the_fingerprint_of_a_model_is_the_same_in_every_release() {
    for device in devices() {
        assert_eq!(open(&device, GeneratorOptions::default()).fingerprint().unwrap(), 0x6506_322b_ebd4_5315);
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo).
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn a_text_that_forgets_more_than_a_text_can_have_is_refused() {
    let model = model();
    let mut conversation = model.conversation().unwrap();
    conversation.write("To be, or not to be").unwrap();
    let mut saved = Vec::new();
    conversation.save(&mut saved).unwrap();
    let len = u64::from_le_bytes(saved[12..20].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&saved[28..28 + len]).unwrap();
    let refused = text.replace("\"forgotten\":0", &format!("\"forgotten\":{}", u64::MAX));
    assert_ne!(text, refused);
    let (sizes, sum) = ((refused.len() as u64).to_le_bytes(), fnv(refused.as_bytes()).to_le_bytes());
    let crafted = [&saved[..12], &sizes, &sum, refused.as_bytes(), &saved[28 + len..]].concat();
    let error = model.restore(&crafted[..]).unwrap_err();
    assert!(matches!(&error, Error::Saved(problem) if problem.contains("forgets")), "{error}");
}
