//! Pictures in a conversation: what is said of them, and how they are forgotten, kept, forked, saved and recovered.

#[path = "common/busy.rs"]
mod busy;
#[path = "picture_talk/crops.rs"]
mod crops;
#[path = "picture_talk/encoding.rs"]
mod encoding;
#[path = "picture_talk/layout.rs"]
mod layout;
#[path = "picture_talk/programs.rs"]
mod programs;
#[path = "common/shown.rs"]
mod shown;
#[path = "picture_talk/sounds.rs"]
mod sounds;
#[path = "common/talk.rs"]
mod talk;
#[path = "picture_talk/towers.rs"]
mod towers;
#[path = "picture_talk/video.rs"]
mod video;

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    conversation::{AnswerOptions, Conversation, Event, Model, Overflow},
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions, SampleOpts},
    prompt::{Prompt, SoftTokens},
    runtime::Device,
    text::{Content, Message, Part, Tokenizer},
};
use talk::{conversation, devices, end, events, events_of, greedy, text};
use tempfile::TempDir;

/// The models, and the tokens around a picture in each.
const MODELS: [(&str, [u32; 2]); 2] = [("gemma3-vision", [147, 148]), ("gemma4-vision", [145, 146])];

/// Soft tokens of a picture, at most.
const BUDGET: usize = 70;

struct Seeing {
    folder: TempDir,
    model: Model,
}

impl Seeing {
    fn new(name: &'static str, device: &Device, options: GeneratorOptions) -> Self {
        let folder = shown::folder(name);
        let model = Model::open(folder.path(), device.clone(), options).unwrap();
        Self { folder, model }
    }

    /// One of the two pictures that have as many tokens.
    fn picture(&self, number: usize) -> Part {
        let image = shown::image("gemma3-vision", &format!("two.{number}.png"));
        self.model.picture_within(&image, BUDGET).unwrap()
    }

    fn shown(&self, number: usize, question: &str) -> Content {
        Content::from([self.picture(number), question.into()])
    }

    fn soft(&self, number: usize) -> SoftTokens {
        match self.picture(number) {
            Part::Soft(soft) => soft,
            other => panic!("{other:?}"),
        }
    }

    fn generator(&self, device: &Device) -> GemmaGenerator {
        let config = GemmaConfig::from_file(self.folder.path()).unwrap();
        let options = GeneratorOptions { longest_picture: Some(280), ..GeneratorOptions::default() };
        let mut loader = load_from_path(self.folder.path()).unwrap();
        let generator = GemmaGenerator::with_options(config, loader.as_mut(), device.clone(), options).unwrap();
        generator.with_stop_tokens(&self.model.chat_template().stop_tokens(self.model.tokenizer()))
    }

    fn answer(&self, said: impl Into<Content>) -> String {
        let mut conversation = conversation(&self.model, 12);
        conversation.send(said).unwrap();
        text(&events(&mut conversation))
    }
}

/// The turns of a conversation laid out by hand: ids between texts, which are tokenised here.
fn by_hand(tokenizer: &Tokenizer, parts: &[(&[u32], &str)]) -> Prompt {
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    parts.iter().fold(Prompt::new(), |prompt, (ids, text)| prompt.then(*ids).then(encode(text)))
}

#[test]
fn two_turns_are_those_of_the_generator_with_the_prompt_laid_out_by_hand() {
    for device in devices() {
        for (name, [begin, end]) in MODELS {
            let seeing = Seeing::new(name, &device, GeneratorOptions::default());
            let soft = seeing.soft(0);
            let mut generator = seeing.generator(&device);
            let mut conversation = conversation(&seeing.model, 10);
            let tokenizer = seeing.model.tokenizer();
            // Gemma 4 opens the model's turn with a thought that is empty, and drops it from earlier turns.
            let thought = [&[99][..], &[100]];
            let opened: &[(&[u32], &str)] = match name {
                "gemma4-vision" => &[(&[105], "model\n"), (thought[0], "thought\n"), (thought[1], "")],
                _ => &[(&[105], "model\n")],
            };
            conversation.send(seeing.shown(0, " What is this? ")).unwrap();
            let asked = by_hand(tokenizer, &[(&[2, 105], "user\n\n\n"), (&[begin], "")])
                .then(soft)
                .then(by_hand(tokenizer, &[(&[end], "\n\nWhat is this?"), (&[106], "\n")]));
            generator.prefill(asked.clone().then(by_hand(tokenizer, opened))).unwrap();
            let said = generator.generate_cached(10, &SampleOpts::greedy()).unwrap();
            let answer = text(&events(&mut conversation));
            assert_eq!(conversation.tokens(), generator.tokens(), "{device} {name}");
            assert_eq!(answer, tokenizer.decode(&said).unwrap(), "{device} {name}");

            conversation.send("And that?").unwrap();
            let again =
                [(&[105][..], "model\n"), (&[], answer.trim()), (&[106], "\n"), (&[105], "user\nAnd that?"), (&[106], "\n")];
            // Its words follow "model\n" in one text.
            let turn = format!("model\n{}", answer.trim());
            let again = [(again[0].0, turn.as_str()), again[2], again[3], again[4]];
            generator.prefill(asked.then(by_hand(tokenizer, &again)).then(by_hand(tokenizer, opened))).unwrap();
            generator.generate_cached(10, &SampleOpts::greedy()).unwrap();
            let told = events(&mut conversation);
            assert_eq!(conversation.tokens(), generator.tokens(), "{device} {name}");
            assert!(end_of(&told) > 30, "{device} {name}: the picture's rows are kept: {told:?}");
            let closed = seeing.model.chat_template().encode(tokenizer, conversation.messages(), false).unwrap();
            assert_eq!((conversation.used(), conversation.left()), (closed.len(), 2048 - closed.len()));
        }
    }
}

fn end_of(told: &[Event]) -> usize {
    end(told).1.cached_tokens
}

#[test]
fn two_pictures_of_the_same_ids_share_no_rows() {
    for device in devices() {
        let seeing = Seeing::new("gemma3-vision", &device, GeneratorOptions::default());
        seeing.model.keep_prompts(0);
        let ask = |number: usize| seeing.shown(number, "What is this?");
        let expected = [seeing.answer(ask(0)), seeing.answer(ask(1))];
        assert_ne!(expected[0], expected[1], "the model sees the pictures");
        // Kept prompts.
        seeing.model.keep_prompts(64 << 20);
        for (number, cached) in [(0, 0..1), (1, 0..9), (0, 20..99), (1, 20..99)] {
            let mut conversation = conversation(&seeing.model, 12);
            conversation.send(ask(number)).unwrap();
            let told = events(&mut conversation);
            assert_eq!(text(&told), expected[number], "{device}");
            assert!(cached.contains(&end_of(&told)), "{device} {number}: {:?}", end(&told));
        }
        seeing.model.keep_prompts(0);
        // Another picture in the place of the one that was taken back.
        let mut conversation = conversation(&seeing.model, 12);
        let before = conversation.bookmark();
        for number in [0, 1, 0] {
            conversation.rewind(&before);
            conversation.send(ask(number)).unwrap();
            let told = events(&mut conversation);
            assert_eq!((text(&told), end_of(&told) < 9), (expected[number].clone(), true), "{device} {number}");
        }
        // Forks that go on with one each.
        let mut trunk = talk::conversation(&seeing.model, 12);
        trunk.send("Hello").unwrap();
        events(&mut trunk);
        let mut fork = trunk.fork().unwrap();
        let alone = |number: usize| {
            let mut other = talk::conversation(&seeing.model, 12);
            other.send("Hello").unwrap();
            events(&mut other);
            other.send(ask(number)).unwrap();
            text(&events(&mut other))
        };
        let expected = [alone(0), alone(1)];
        trunk.send(ask(0)).unwrap();
        fork.send(ask(1)).unwrap();
        assert_eq!([text(&events(&mut trunk)), text(&events(&mut fork))], expected, "{device}");
        assert_ne!(trunk.messages(), fork.messages());
    }
}

#[test]
fn a_saved_conversation_goes_on_with_its_pictures() {
    for device in devices() {
        let seeing = Seeing::new("gemma3-vision", &device, GeneratorOptions::default());
        let mut original = conversation(&seeing.model, 12);
        original.send(seeing.shown(0, "What is this?")).unwrap();
        events(&mut original);
        original.send(seeing.shown(1, "And this?")).unwrap();
        let told = text(&events_of(&mut original, 5));
        let mut bytes = Vec::new();
        original.save(&mut bytes).unwrap();
        assert_eq!(bytes[8..12], 2u32.to_le_bytes());
        let computed = |conversation: &mut Conversation| {
            let rest = text(&events(conversation));
            conversation.send("Which one do you like better?").unwrap();
            let told = events(conversation);
            (rest, text(&told), end(&told).1.prompt_tokens)
        };
        let mut restored = seeing.model.restore(&bytes[..]).unwrap();
        assert_eq!((restored.messages(), restored.tokens()), (original.messages(), original.tokens()));
        let expected = computed(&mut original);
        assert_eq!(computed(&mut restored), expected, "{device}: after {told:?}");
        // On a model whose rows are laid out otherwise they are computed from what is in the file.
        let options = GeneratorOptions { prefill_chunk: Some(32), ..GeneratorOptions::default() };
        let other = Seeing::new("gemma3-vision", &device, options);
        assert_eq!(computed(&mut other.model.restore(&bytes[..]).unwrap()), expected, "{device}");
        for len in (0..bytes.len()).step_by(bytes.len() / 200) {
            let cut = seeing.model.restore(&bytes[..len]);
            assert!(matches!(cut, Err(Error::Saved(_))), "cut at {len}: {cut:?}");
            let mut wrong = bytes.clone();
            wrong[len] ^= 16;
            let wrong = seeing.model.restore(&wrong[..]);
            assert!(matches!(wrong, Err(Error::Saved(_))), "changed at {len}: {wrong:?}");
        }
        // Text alone is written as releases before pictures read it.
        let mut plain = conversation(&seeing.model, 4);
        plain.send("Hello").unwrap();
        let mut bytes = Vec::new();
        plain.save(&mut bytes).unwrap();
        assert_eq!(bytes[8..12], 1u32.to_le_bytes());
        assert_eq!(seeing.model.restore(&bytes[..]).unwrap().messages(), plain.messages());
    }
}

/// Whole pictures among tokens.
fn pictures(tokens: &[u32]) -> usize {
    let whole = [&[147][..], &[149; 16], &[148]].concat();
    tokens.windows(whole.len()).filter(|window| *window == whole).count()
}

#[test]
fn a_full_context_forgets_pictures_whole() {
    for device in devices() {
        let options = GeneratorOptions { context: Some(160), ..GeneratorOptions::default() };
        let seeing = Seeing::new("gemma3-vision", &device, options);
        let forgetful = || {
            let options = AnswerOptions { overflow: Overflow::Forget, ..greedy(12) };
            seeing.model.conversation().unwrap().with_options(options)
        };
        let mut conversation = forgetful();
        let mut counts = Vec::new();
        for turn in 0..9 {
            let said = if turn < 2 { seeing.shown(turn, "What is this?") } else { "Where is the king?".into() };
            conversation.send(said).unwrap();
            let (_, usage) = end(&events(&mut conversation));
            let tokens = conversation.tokens();
            counts.push(pictures(tokens));
            if tokens.len() == usage.prompt_tokens + usage.completion_tokens {
                // The model may say the placeholder too.
                let placeholders = tokens[..usage.prompt_tokens].iter().filter(|token| **token == 149).count();
                assert_eq!(placeholders, 16 * pictures(tokens), "{device} {turn}: none is in part");
            }
        }
        assert!(counts[..2] == [1, 2] && counts.ends_with(&[0]), "{device}: {counts:?}");
        assert_eq!(conversation.messages().len(), 18, "the caller still has them all");
        // In the middle of an answer the picture that is asked about stays.
        let mut long = forgetful();
        long.set_options(AnswerOptions { overflow: Overflow::Forget, ..greedy(250) });
        long.send("Where is the king?").unwrap();
        events_of(&mut long, 6);
        long.send(seeing.shown(0, "What is this?")).unwrap();
        let told = events(&mut long);
        assert_eq!(pictures(long.tokens()), 1, "{device}: {:?}", end(&told));
        assert!(end(&told).1.completion_tokens > 120, "{device}: the context was full: {:?}", end(&told));
    }
}

#[test]
fn steps_together_with_a_text_are_those_alone() {
    for device in devices() {
        for (name, _) in MODELS {
            let options = GeneratorOptions { prefill_chunk: Some(16), ..GeneratorOptions::default() };
            let seeing = Seeing::new(name, &device, options);
            seeing.model.keep_prompts(0);
            let says = [seeing.shown(0, "What is this?"), "Who goes there?".into(), seeing.shown(1, "What is this?")];
            let expected: Vec<String> = says.iter().map(|said| seeing.answer(said.clone())).collect();
            let mut together: Vec<Conversation> = says.iter().map(|_| conversation(&seeing.model, 12)).collect();
            let mut told = vec![Vec::new(); says.len()];
            for (conversation, said) in together.iter_mut().zip(&says) {
                conversation.send(said.clone()).unwrap();
            }
            while told.iter().any(|told| !matches!(told.last(), Some(Event::End { .. }))) {
                let mut all: Vec<&mut Conversation> = together.iter_mut().collect();
                for (outcome, told) in seeing.model.step(&mut all).into_iter().zip(&mut told) {
                    told.extend(outcome.unwrap());
                }
            }
            let found: Vec<String> = told.iter().map(|told| text(told)).collect();
            assert_eq!(found, expected, "{device} {name}");
        }
    }
}

#[test]
fn a_picture_that_the_model_does_not_take_is_refused_and_nothing_was_said() {
    let seeing = Seeing::new("gemma3-vision", &Device::Cpu, GeneratorOptions { longest_picture: Some(8), ..Default::default() });
    let mut conversation = conversation(&seeing.model, 4);
    conversation.push(Message::system("Be brief.")).unwrap();
    let error = conversation.send(seeing.shown(0, "What is this?")).unwrap_err();
    assert!(error.to_string().contains("longest_picture"), "{error}");
    assert_eq!(conversation.messages().len(), 1);
    conversation.send("Who goes there?").unwrap();
    assert!(!events(&mut conversation).is_empty());
}
