//! Output that a grammar constrains: valid by construction, whatever the model would rather say.

use std::{collections::BTreeSet, ops::ControlFlow, path::Path};

use gemmaflow::{
    Error,
    conversation::{AnswerOptions, Model},
    error::{CallbackError, SamplingError},
    gemma::{GemmaConfig, random_weights},
    generate::{GemmaGenerator, GeneratorOptions, LogitBias, LogitProcessor, SampleHooks, SampleOpts},
    guide::{Guide, Guides},
    ir::DType,
    runtime::Device,
    text::Tokenizer,
};
use serde_json::Value;

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "speaker": { "type": "string", "maxLength": 12 },
        "mood": { "enum": ["merry", "grave", "wroth"] },
        "age": { "type": "integer", "minimum": 1, "maximum": 99 },
        "friends": { "type": "array", "items": { "type": "string", "maxLength": 6 }, "minItems": 1, "maxItems": 3 },
        "crowned": { "type": "boolean" }
    },
    "required": ["speaker", "mood", "age", "friends", "crowned"],
    "additionalProperties": false
}"#;

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"))
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(demo()).unwrap()
}

/// Two tokens that end an answer: that of the model, and one more.
fn ends(tokenizer: &Tokenizer) -> [u32; 2] {
    [tokenizer.special_id("<eos>").unwrap(), tokenizer.special_id("<pad>").unwrap()]
}

fn trained(device: Device) -> GemmaGenerator {
    GemmaGenerator::from_path(GemmaConfig::from_file(demo()).unwrap(), demo(), device).unwrap()
}

fn random(device: Device, seed: u32) -> GemmaGenerator {
    let config = GemmaConfig::from_file(demo()).unwrap();
    let mut weights = random_weights(&config, DType::BF16, seed).unwrap();
    GemmaGenerator::from_loader(config, &mut weights, device).unwrap()
}

/// What `SCHEMA` says, by hand.
fn fulfils(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    let fields = value.as_object().expect("an object");
    let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["speaker", "mood", "age", "friends", "crowned"]), "{text}");
    let short = |value: &Value, most: usize| value.as_str().is_some_and(|text| text.chars().count() <= most);
    assert!(short(&fields["speaker"], 12), "{text}");
    assert!(["merry", "grave", "wroth"].contains(&fields["mood"].as_str().unwrap()), "{text}");
    assert!((1..=99).contains(&fields["age"].as_i64().unwrap()), "{text}");
    let friends = fields["friends"].as_array().expect("an array");
    assert!((1..=3).contains(&friends.len()) && friends.iter().all(|friend| short(friend, 6)), "{text}");
    assert!(fields["crowned"].is_boolean(), "{text}");
}

/// An answer's tokens, the end not among them.
fn answer(generator: &mut GemmaGenerator, prompt: &[u32], opts: &SampleOpts, guide: Guide, ends: &[u32]) -> Vec<u32> {
    let mut hooks = SampleHooks::new().with_processor(guide);
    generator.prefill(prompt).unwrap();
    let mut new = Vec::new();
    let outcome = generator.generate_hooked(400, opts, &mut hooks, |chosen| {
        new.push(chosen.token);
        if ends.contains(&chosen.token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    outcome.unwrap();
    let end = new.pop().expect("tokens");
    assert!(ends.contains(&end), "it did not end: {new:?}");
    new
}

#[test]
fn every_answer_fulfils_its_schema() {
    let tokenizer = tokenizer();
    let ends = ends(&tokenizer);
    let guide = Guides::new(&tokenizer, &ends).unwrap().json_schema(SCHEMA).unwrap();
    let prompt = tokenizer.encode("ROMEO:\n", true).unwrap();
    let mut texts = BTreeSet::new();
    // The reference is slow.
    let on_gpu = [trained(Device::Gpu), random(Device::Gpu, 1), random(Device::Gpu, 2)].map(|generator| (generator, 4));
    for (mut generator, seeds) in on_gpu.into_iter().chain([(random(Device::Cpu, 1), 1)]) {
        for seed in 0..seeds {
            let drawn = SampleOpts::temperature(1.0, seed);
            for opts in [SampleOpts::greedy(), drawn, drawn.with_top_k(40).with_top_p(0.9)] {
                let new = answer(&mut generator, &prompt, &opts, guide.clone(), &ends);
                let text = tokenizer.decode(&new).unwrap();
                fulfils(&text);
                texts.insert(text);
            }
        }
    }
    assert!(texts.len() > 12, "{texts:?}");
}

/// The tokens that a guide allows after a history.
fn allowed(guide: &mut Guide, history: &[u32], tokenizer: &Tokenizer) -> Result<BTreeSet<u32>, String> {
    // What is not allowed is what remains when everything else is banned: asked of the model, one token at a time.
    let mut generator = trained(Device::Cpu);
    let mut left = BTreeSet::new();
    loop {
        let bans = LogitBias::new().banning(left.iter().copied());
        generator.prefill(history).unwrap();
        let mut hooks = SampleHooks::new().with_processor(Borrowed(guide.clone())).with_processor(bans);
        match generator.step_hooked(&SampleOpts::greedy(), &mut hooks) {
            Ok(chosen) => left.insert(chosen.token),
            Err(Error::Sampling(SamplingError::NoTokenAllowed { .. })) => return Ok(left),
            Err(error) => return Err(error.to_string()),
        };
        assert!(left.len() <= tokenizer.vocab_size());
    }
}

/// A guide under another name.
struct Borrowed(Guide);

impl LogitProcessor for Borrowed {
    fn name(&self) -> &str {
        "borrowed"
    }

    fn process(&mut self, history: &[u32], changes: &mut gemmaflow::generate::LogitChanges) -> anyhow::Result<()> {
        self.0.process(history, changes)
    }
}

#[test]
fn ends_are_allowed_where_the_grammar_may_end_and_alone_where_it_must() {
    let tokenizer = tokenizer();
    let ends = ends(&tokenizer);
    let guides = Guides::new(&tokenizer, &ends).unwrap();
    let both = BTreeSet::from(ends);
    let text = |text: &str| tokenizer.encode(text, false).unwrap();
    let mut guide = guides.regex("ab?").unwrap().starting_at(1);
    let after = |said: &[u32], guide: &mut Guide| allowed(guide, &[&[2], said].concat(), &tokenizer);
    let first = after(&[], &mut guide).unwrap();
    assert!(!first.is_empty() && first.is_disjoint(&both), "{first:?}");
    let [a, b] = [text("a")[0], text("b")[0]];
    assert!(first.contains(&a), "{first:?}");
    let second = after(&[a], &mut guide).unwrap();
    assert!(second.is_superset(&both) && second.contains(&b), "{second:?}");
    assert_eq!(after(&[a, b], &mut guide).unwrap(), both);
    for end in ends {
        assert_eq!(after(&[a, end], &mut guide).unwrap(), both);
        assert_eq!(after(&[a, b, end], &mut guide).unwrap(), both);
    }
    // A history that is no answer, and then one that is.
    let error = after(&[b], &mut guide).unwrap_err();
    assert!(error.contains("borrowed: ") && error.contains("not what the grammar allows"), "{error}");
    assert_eq!(after(&[a, b], &mut guide).unwrap(), both);
    // A history that ends before the constraint begins.
    let mut later = guides.regex("ab?").unwrap().starting_at(9);
    assert!(after(&[b], &mut later).unwrap().len() > 900);
}

/// One guide through rewinds, forks and other texts: what it allows is what a new one does.
#[test]
fn a_guide_follows_the_history_wherever_it_goes() {
    let tokenizer = tokenizer();
    let ends = ends(&tokenizer);
    let guides = Guides::new(&tokenizer, &ends).unwrap();
    let guide = guides.json_schema(SCHEMA).unwrap().starting_at(3);
    let mut generator = trained(Device::Cpu);
    let mut hooks = SampleHooks::new().with_processor(guide.clone());
    let prompt = [2, 910, 262];
    let texts: Vec<Vec<u32>> =
        (0..3).map(|seed| answer(&mut generator, &prompt, &SampleOpts::temperature(1.0, seed), guide.clone(), &ends)).collect();
    for (text, cut) in [(0, 5), (1, 9), (0, 14), (0, 3), (2, 11), (2, 12), (2, 0), (1, 20)] {
        let history = [&prompt[..], &texts[text][..cut]].concat();
        generator.prefill(&history).unwrap();
        let opts = SampleOpts::temperature(1.5, cut as u64);
        let found = generator.step_hooked(&opts, &mut hooks).unwrap();
        generator.prefill(&history).unwrap();
        let expected = generator.step_hooked(&opts, &mut SampleHooks::new().with_processor(guide.clone())).unwrap();
        assert_eq!(found, expected, "{text} {cut}");
    }
}

#[test]
fn a_model_may_think_before_it_answers() {
    let tokenizer = tokenizer();
    let ends = ends(&tokenizer);
    let guides = Guides::new(&tokenizer, &ends).unwrap();
    let [open, close] = [700, 701];
    let mut guide = guides.regex("ab?").unwrap().starting_at(1).after_thinking(open, close);
    let plain = allowed(&mut guides.regex("ab?").unwrap().starting_at(1), &[2], &tokenizer).unwrap();
    let mut first = allowed(&mut guide, &[2], &tokenizer).unwrap();
    assert!(first.remove(&open) && first == plain, "{first:?}");
    let thought = allowed(&mut guide, &[2, open, 44, 45], &tokenizer).unwrap();
    assert_eq!(thought.len(), 1024 - 2, "all but the ends");
    assert_eq!(allowed(&mut guide, &[2, open, 44, close], &tokenizer).unwrap(), plain);
    let a = tokenizer.encode("a", false).unwrap()[0];
    assert!(allowed(&mut guide, &[2, open, close, a], &tokenizer).unwrap().contains(&ends[1]));
    assert!(allowed(&mut guide, &[2, a], &tokenizer).unwrap().contains(&ends[0]));
}

/// What people send who mean harm, or err: an error each, at once, and no panic.
#[test]
fn grammars_that_cannot_be_are_errors() {
    let tokenizer = tokenizer();
    let guides = Guides::new(&tokenizer, &ends(&tokenizer)).unwrap();
    let long: String = (0..8000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let references: String = (0..3000).map(|i| format!(r##", "d{i}": {{"$ref": "#/$defs/d{}"}}"##, i + 1)).collect();
    let references = format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{"d3000": true{references}}}}}"##);
    let chain: String = (0..900).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let refused: Vec<(&str, Result<Guide, Error>)> = vec![
        ("no JSON", guides.json_schema("{\"type\": ")),
        ("an unknown type", guides.json_schema(r#"{"type": "poem"}"#)),
        ("nothing", guides.json_schema("false")),
        ("contradiction", guides.json_schema(r#"{"type": "integer", "minimum": 5, "maximum": 4}"#)),
        ("a reference abroad", guides.json_schema(r#"{"$ref": "http://example.com/schema.json"}"#)),
        ("a file", guides.json_schema(r#"{"$ref": "file:///etc/passwd"}"#)),
        ("a reference to nothing", guides.json_schema(r##"{"$ref": "#/$defs/none"}"##)),
        ("deep", guides.json_schema(&format!("{}true{}", r#"{"not":"#.repeat(5000), "}".repeat(5000)))),
        ("deep regex", guides.regex(&format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("a long regex", guides.regex(&"ab|".repeat(200_000))),
        ("no regex", guides.regex("(((")),
        ("look-around", guides.regex("a(?=b)")),
        ("no Lark", guides.lark("start: \"a")),
        ("no start", guides.lark("begin: \"a\"")),
        ("itself", guides.lark("start: start")),
        ("too many rules", guides.lark(&format!("start: r0\n{long}"))),
        ("too many references", guides.json_schema(&references)),
        ("a chain without an end", guides.lark(&format!("start: r0\n{chain}"))),
        ("empty", guides.lark("")),
    ];
    let taken: Vec<&str> = refused.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(what, _)| *what).collect();
    assert!(taken.is_empty(), "these were taken: {taken:?}");
    for (what, outcome) in refused {
        let error = outcome.map(|guide| panic!("{what} was taken: {guide:?}")).unwrap_err();
        assert!(matches!(error, Error::Grammar(_)), "{what}: {error:?}");
        assert!(error.to_string().len() < 1200 && !error.to_string().contains("backtrace"), "{what}: {error}");
    }
    for ends in [&[][..], &[1, 1 << 20]] {
        assert!(matches!(Guides::new(&tokenizer, ends), Err(Error::Grammar(_))));
    }
    // A control token by its name or its number is none of a grammar's business.
    for grammar in ["start: <bos> \"a\"", "start: <[2]> \"a\""] {
        let outcome = guides.lark(grammar).map(|mut guide| {
            guide = guide.starting_at(1);
            allowed(&mut guide, &[2], &tokenizer)
        });
        assert!(outcome.as_ref().map_or(true, |left| left.as_ref().is_ok_and(BTreeSet::is_empty)), "{grammar}: {outcome:?}");
    }
    // A chain that ends is none the worse for its length.
    let ends_well = chain.replace("r899: r900", "r899: \"a\"");
    assert!(guides.lark(&format!("start: r0\n{ends_well}")).is_ok());
}

/// Grammars that are small to write and large to match: a step is an answer or an error, and the process lives.
#[test]
fn a_step_of_a_large_grammar_ends() {
    let tokenizer = tokenizer();
    let guides = Guides::new(&tokenizer, &ends(&tokenizer)).unwrap();
    let a = tokenizer.encode("a", false).unwrap()[0];
    let grammars = [
        guides.regex("((a{1,5000}){1,5000}){1,5000}b"),
        guides.regex("(a|aa|aaa|aaaa)*(a?){1000}a{1000}"),
        guides.regex("(.*a.{500}){20}"),
        guides.lark("start: x* \"b\"\nx: \"a\" | \"a\" x | x \"a\" | x x"),
        guides.json_schema(r#"{"type": "array", "items": {"type": "string", "minLength": 100000}, "maxItems": 100000}"#),
    ];
    for (which, guide) in grammars.into_iter().enumerate() {
        let Ok(guide) = guide else { continue };
        let mut generator = trained(Device::Cpu);
        for length in [0, 1, 2, 40] {
            generator.prefill([&[2][..], &vec![a; length]].concat()).unwrap();
            let mut hooks = SampleHooks::new().with_processor(guide.clone().starting_at(1));
            let outcome = generator.step_hooked(&SampleOpts::greedy(), &mut hooks);
            let typed = matches!(
                &outcome,
                Ok(_) | Err(Error::Callback(CallbackError::Hook { .. }) | Error::Sampling(SamplingError::NoTokenAllowed { .. }))
            );
            assert!(typed, "{which} {length}: {outcome:?}");
        }
    }
}

#[test]
fn every_answer_of_a_conversation_is_held_to_its_grammar() {
    let (tokenizer, options) = (tokenizer(), AnswerOptions { sampling: SampleOpts::greedy(), ..AnswerOptions::default() });
    let guide = Guides::new(&tokenizer, &ends(&tokenizer)).unwrap().regex("(yes|no), my (lord|lady)").unwrap();
    let model = Model::open(demo(), Device::Gpu, GeneratorOptions::default()).unwrap();
    let mut conversation =
        model.conversation().unwrap().with_options(options).with_hooks(SampleHooks::new().with_processor(guide));
    for asked in ["Who goes there?", "Art thou a friend?", "Speak!"] {
        conversation.send(asked).unwrap();
        let said = conversation.finish(|_| ControlFlow::Continue(())).unwrap();
        assert!(["yes, my lord", "yes, my lady", "no, my lord", "no, my lady"].contains(&said.as_str()), "{asked} {said:?}");
    }
    // A guide that comes in the middle of an answer holds for the whole of it.
    let guide = Guides::new(&tokenizer, &ends(&tokenizer)).unwrap().regex("(yes|no), my (lord|lady)").unwrap();
    let mut conversation = model.conversation().unwrap().with_hooks(SampleHooks::new().with_processor(guide.clone()));
    conversation.send("Who goes there?").unwrap();
    let told: Vec<_> = conversation.events().take(3).map(|event| event.unwrap().to_string()).collect();
    let mut saved = Vec::new();
    conversation.save(&mut saved).unwrap();
    let mut restored = model.restore(&saved[..]).unwrap().with_hooks(SampleHooks::new().with_processor(guide));
    let said = told.concat() + &restored.finish(|_| ControlFlow::Continue(())).unwrap();
    assert!(["yes, my lord", "yes, my lady", "no, my lord", "no, my lady"].contains(&said.as_str()), "{said:?}");
}
