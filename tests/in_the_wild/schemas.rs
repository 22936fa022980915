//! Names in JSON that a schema does not have, and names that only look so.

use std::path::Path;

use gemmaflow::{
    Error,
    error::SamplingError,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, SampleHooks, SampleOpts},
    guide::Guides,
    runtime::Device,
    text::Tokenizer,
};
use serde_json::{Value, json};

/// Whether an answer may begin so.
fn allows(schema: &Value, answer: &str) -> bool {
    let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo"));
    let tokenizer = Tokenizer::from_file(demo).unwrap();
    let ends = [tokenizer.special_id("<eos>").unwrap()];
    let guide = Guides::new(&tokenizer, &ends).unwrap().json_schema(&schema.to_string()).unwrap();
    let mut generator = GemmaGenerator::from_path(GemmaConfig::from_file(demo).unwrap(), demo, Device::Cpu).unwrap();
    generator.prefill(tokenizer.encode(answer, true).unwrap()).unwrap();
    match generator.step_hooked(&SampleOpts::greedy(), &mut SampleHooks::new().with_processor(guide.starting_at(1))) {
        Ok(_) => true,
        Err(Error::Sampling(SamplingError::NoTokenAllowed { .. })) => panic!("{answer}: no token"),
        Err(error) => {
            assert!(error.to_string().contains("not what the grammar allows"), "{error}");
            false
        }
    }
}

/// `\u0061ge` is `age`: a reader keeps the last of two, so that what its schema asks would not hold.
#[test]
fn a_name_with_escapes_is_not_another_name() {
    let named = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let by_pattern = json!({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}});
    // A pattern that spells a character by its number has none of those characters.
    let numbered = json!({"type": "object", "properties": {"age": {"type": "integer"}, "b": {"pattern": "^\\u0041$"}},
        "required": ["age"]});
    for (schema, answer, expected) in [
        (&numbered, r#"{"age": 3, "\u0061ge": "old""#, false),
        (&named, r#"{"age": 3, "bag\n": "old""#, true),
        (&named, r#"{"age": 3, "\u0061ge": "old""#, false),
        (&named, r#"{"age": 3, "ag\u0065": "old""#, false),
        (&named, r#"{"age": 3, "\ud800": "old""#, false),
        (&by_pattern, r#"{"x_a": 3, "b": "old""#, true),
        (&by_pattern, r#"{"x_a": 3, "\u0078_b": "old""#, false),
    ] {
        assert_eq!(allows(schema, answer), expected, "{answer}");
    }
}

/// What a schema spells itself keeps its escapes.
#[test]
fn control_characters_that_a_schema_names_can_be_said() {
    let fixed = json!({"enum": ["a\u{1b}b"]});
    assert!(allows(&fixed, r#""a\u001bb"#));
    let named = json!({"type": "object", "properties": {"a\u{1b}": {"type": "integer"}}, "required": ["a\u{1b}"]});
    assert!(allows(&named, r#"{"a\u001b": 1"#));
}
