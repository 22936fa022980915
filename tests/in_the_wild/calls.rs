//! Tool calls as Gemma 4 writes them when it leaves its own format: in the marks of JSON and Python.

use gemmaflow::text::{ChatEvent, ChatFormat, Tokenizer};
use serde_json::{Value, json};

use super::common::oracle::data;

/// The arguments of a call, in which `§` stands for the quotation token, or what is wrong with it.
fn arguments(call: &str) -> Result<Value, String> {
    let tokenizer = Tokenizer::from_file(data("tokenizers/gemma4")).unwrap();
    let id = |name: &str| tokenizer.special_id(name).unwrap();
    let mut tokens = vec![id("<|tool_call>")];
    for (number, part) in call.split('§').enumerate() {
        tokens.extend((number > 0).then(|| id("<|\"|>")));
        tokens.extend(tokenizer.encode(part, false).unwrap());
    }
    tokens.push(id("<tool_call|>"));
    let mut parser = ChatFormat::Gemma4.parser(&tokenizer);
    let mut events: Vec<ChatEvent> = tokens.into_iter().flat_map(|token| parser.push(token)).collect();
    match (events.pop(), events.is_empty()) {
        (Some(ChatEvent::ToolCall(call)), true) => Ok(call.arguments.into()),
        (Some(ChatEvent::BrokenToolCall { problem, .. }), true) => Err(problem),
        other => panic!("{other:?}"),
    }
}

/// The marks are no part of what they enclose, in names and in values.
#[test]
fn texts_in_the_marks_of_json_and_python_are_read() {
    let cases = [
        (r#"call:f{refs:["ds_15"]}"#, json!({"refs": ["ds_15"]})),
        ("call:f{refs:['ds_15', 'b']}", json!({"refs": ["ds_15", "b"]})),
        (r#"call:f{opts:{"mode": "fast", "count": 3}}"#, json!({"opts": {"mode": "fast", "count": 3}})),
        (r#"call:f{"count": 3}"#, json!({"count": 3})),
        (r#"call:f{"a": §b§}"#, json!({"a": "b"})),
        (r#"call:f{a: "has } brace, and \"more\": [\n\u00e9"}"#, json!({"a": "has } brace, and \"more\": [\né"})),
        (r#"call:f{a: 'it\'s "so"'}"#, json!({"a": "it's \"so\""})),
        (r#"call:f{a: "", b: '\\'}"#, json!({"a": "", "b": "\\"})),
        // Within quotation tokens they are text.
        (r#"call:f{a:§"b" 'c'§}"#, json!({"a": "\"b\" 'c'"})),
    ];
    for (call, expected) in cases {
        assert_eq!(arguments(call), Ok(expected), "{call}");
    }
}

/// Nothing is guessed: a text that is cut short or a quotation token too many makes a broken call.
#[test]
fn what_cannot_be_read_is_broken() {
    for call in [
        r#"call:f{a: "b}"#,
        r#"call:f{a: "b"c}"#,
        r#"call:f{a: "\x"}"#,
        r#"call:f{"": 1}"#,
        "call:f{a: 'b§c'§}",
        "call:f{a:§sql(§§§ SELECT §§§)§,b:1}",
        "call:f{a:§look§b:1}",
        "call:f{a: fast}",
    ] {
        arguments(call).expect_err(call);
    }
}
