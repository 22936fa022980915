//! What a model emits, as events.

use gemmaflow::text::{ChatEvent, ChatFormat, EndReason, Message, ModelTurn, Tokenizer, ToolCall};
use serde_json::{Map, Value, json};

use super::{draws::Draws, gemma4, goldens, messages, of_family, spm};

fn events(format: ChatFormat, tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<ChatEvent> {
    let mut parser = format.parser(tokenizer);
    let mut events: Vec<ChatEvent> = tokens.iter().flat_map(|&token| parser.push(token)).collect();
    events.extend(parser.finish());
    assert_eq!(parser.push(tokens.first().copied().unwrap_or(0)), [], "something after the end");
    assert_eq!(parser.finish(), [], "a second end");
    events
}

/// The whole turn, and why it is over.
fn turn(events: Vec<ChatEvent>) -> (ModelTurn, EndReason) {
    let Some(&ChatEvent::End(reason)) = events.last() else { panic!("no end: {events:?}") };
    let mut turn = ModelTurn::default();
    events.into_iter().for_each(|event| turn.push(event));
    (turn, reason)
}

/// Tokens of a text in which the names of control tokens stand for them.
fn parsed(text: &str) -> Vec<u32> {
    let path = super::root("tests/data/tokenizers/gemma4/tokenizer.json");
    let theirs = tokenizers::Tokenizer::from_file(path).expect("a tokenizer that the crate can read");
    theirs.encode(text, false).expect("text").get_ids().to_vec()
}

/// Of a Gemma 4 answer, texts and thoughts joined.
fn read(answer: &str) -> Vec<ChatEvent> {
    let mut joined: Vec<ChatEvent> = Vec::new();
    for event in events(ChatFormat::Gemma4, &gemma4(), &parsed(answer)) {
        match (joined.last_mut(), event) {
            (Some(ChatEvent::Text(last)), ChatEvent::Text(more)) => last.push_str(&more),
            (Some(ChatEvent::Thought(last)), ChatEvent::Thought(more)) => last.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

fn said(text: &str) -> ChatEvent {
    ChatEvent::Text(text.into())
}

fn thought(text: &str) -> ChatEvent {
    ChatEvent::Thought(text.into())
}

fn call(name: &str, arguments: Value) -> ChatEvent {
    ChatEvent::ToolCall(ToolCall { name: name.into(), arguments: arguments.as_object().expect("an object").clone() })
}

fn broken(text: &str, problem: &str) -> ChatEvent {
    ChatEvent::BrokenToolCall { text: text.into(), problem: problem.into() }
}

const TURN: ChatEvent = ChatEvent::End(EndReason::Turn);
const CUT: ChatEvent = ChatEvent::End(EndReason::Cut);
const WAITS: ChatEvent = ChatEvent::End(EndReason::ToolResponse);

/// What the template renders for a turn of the model is what the model was trained to emit.
#[test]
fn answers_of_the_goldens_come_back() {
    let mut read = 0;
    for case in goldens().iter().filter(|case| case.get("error").is_none()) {
        let (format, tokenizer) = of_family(case["family"].as_str().expect("a family"));
        let messages = messages(case);
        for (index, message) in messages.iter().enumerate() {
            let Message::Model(expected) = message else { continue };
            // First, or one of several that are one turn.
            if index == 0 || [index - 1, index + 1].iter().any(|&near| matches!(messages.get(near), Some(Message::Model(_)))) {
                continue;
            }
            // With an empty thought in the prompt the answer begins behind it, where the turn after it does not.
            let bare = if format == ChatFormat::Gemma4 { ChatFormat::Gemma4E } else { format };
            let prompt = bare.encode(&tokenizer, &messages[..index], true).expect("a conversation");
            let whole = bare.encode(&tokenizer, &messages[..=index], false).expect("a conversation");
            assert!(whole.starts_with(&prompt), "{case:#} {index}\n{prompt:?}\n{whole:?}");
            let (found, reason) = turn(events(format, &tokenizer, &whole[prompt.len()..]));
            let text = expected.text.trim();
            assert_eq!(found, ModelTurn { text: text.into(), ..expected.clone() }, "{case:#}");
            assert_eq!(reason, if expected.tool_calls.is_empty() { EndReason::Turn } else { EndReason::ToolResponse });
            read += 1;
        }
    }
    assert_eq!(read, 65);
}

#[test]
fn a_turn_is_read_part_by_part() {
    let answer = "<|channel>thought\nTwo\n\nlines.\n<channel|>Wait: <|tool_call>call:a{}<tool_call|><|tool_call>call:b:c-d{x:[1,-2.5e3],\
        o:{k:<|\"|>{v}, <|\"|>,<|\"|>q<|\"|>:null},y:true, n : None }<tool_call|> and<|tool_response>never";
    let expected = [
        thought("Two\n\nlines."),
        said("Wait: "),
        call("a", json!({})),
        call("b:c-d", json!({"x": [1, -2500.0], "o": {"k": "{v}, ", "q": null}, "y": true, "n": null})),
        said(" and"),
        WAITS,
    ];
    assert_eq!(read(answer), expected);
    assert_eq!(read("<|channel>thought\n<channel|>4<turn|>"), [said("4"), TURN], "an empty thought");
    assert_eq!(read("4<eos>5"), [said("4"), TURN]);
    assert_eq!(read(""), [CUT]);
}

#[test]
fn answers_that_break_the_format_have_events_too() {
    let cases: [(&str, &[ChatEvent]); 20] = [
        ("<|channel>thought\nhm", &[thought("hm"), CUT]),
        ("<|channel>thought\nhm\n<turn|>", &[thought("hm"), TURN]),
        ("<|channel>thou<channel|>a", &[said("a"), CUT]),
        ("<|channel>plan\nb\n<channel|>a", &[thought("plan\nb"), said("a"), CUT]),
        ("<|channel>thoughts\n<channel|>a", &[thought("thoughts"), said("a"), CUT]),
        ("<|channel>thought\na<|channel>thought\nb\n<channel|>c", &[thought("athought\nb"), said("c"), CUT]),
        ("a<channel|>b<tool_call|>c<|\"|>d<|think|>e<tool_response|>f", &[said("abcdef"), CUT]),
        ("<|channel>thought\na\n<|tool_call>call:b{}<tool_call|>c", &[thought("a"), call("b", json!({})), said("c"), CUT]),
        ("a<|turn>user\nb", &[said("a"), TURN]),
        ("<|tool_call>call:a{x:1", &[broken("call:a{x:1", "it is cut off"), CUT]),
        ("<|tool_call>call:a{x:<|\"|>b<turn|>", &[broken("call:a{x:<|\"|>b", "it is cut off"), TURN]),
        ("<|tool_call>call:a{<|tool_call>call:b{}<tool_call|>", &[broken("call:a{", "it is cut off"), call("b", json!({})), CUT]),
        ("<|tool_call>x<|channel>thought\ny<channel|>z", &[broken("x", "it is cut off"), thought("y"), said("z"), CUT]),
        ("<|tool_call><tool_call|>", &[broken("", "it does not begin with 'call:'"), CUT]),
        ("<|tool_call>{\"name\": 1}<tool_call|>", &[broken("{\"name\": 1}", "it does not begin with 'call:'"), CUT]),
        ("<|tool_call>call:{}<tool_call|>", &[broken("call:{}", "it names no tool"), CUT]),
        ("<|tool_call>call:a<tool_call|>", &[broken("call:a", "expected '{' after its name, found its end"), CUT]),
        ("<|tool_call>call:a{}b<tool_call|>", &[broken("call:a{}b", "its arguments have ended, found 'b'"), CUT]),
        ("<|tool_call>call:a{}<|\"|><tool_call|>", &[broken("call:a{}<|\"|>", "its arguments have ended, found <|\"|>"), CUT]),
        ("<|tool_call>call:a{x:<|\"|>b}<tool_call|>", &[broken("call:a{x:<|\"|>b}", "a text in it does not end"), CUT]),
    ];
    for (answer, expected) in cases {
        assert_eq!(read(answer), expected, "{answer}");
    }
}

#[test]
fn arguments_that_are_none_are_named() {
    let deep = "[".repeat(100);
    let cases = [
        ("x", "expected a name and ':', found '}'"),
        (":1", "expected a name and ':', found ':'"),
        ("x:1,", "expected a name and ':', found '}'"),
        ("x:1 y:2", "'1 y' is no value"),
        ("x:1]", "expected ',' or '}', found ']'"),
        ("x:[1;2]", "'1;2' is no value"),
        ("x:[1}", "expected ',' or ']', found '}'"),
        ("x:", "expected a value, found '}'"),
        ("x:,y:1", "expected a value, found ','"),
        ("x:Oslo", "'Oslo' is no value; texts stand between <|\"|> tokens"),
        ("x:\"Oslo", "a text in it does not end"),
        ("x:NaN", "'NaN' is no value"),
        ("x:1e999", "'1e999' is no value"),
        ("x:1,x:2", "the argument 'x' is there twice"),
        ("x:<|\"|>a<|\"|>b", "expected ',' or '}', found 'b'"),
        (&format!("x:{deep}"), "more than 64 lists and objects lie within each other"),
    ];
    for (arguments, expected) in cases {
        let found = read(&format!("<|tool_call>call:a{{{arguments}}}<tool_call|>"));
        let [ChatEvent::BrokenToolCall { problem, .. }, CUT] = &found[..] else { panic!("{arguments}: {found:?}") };
        assert!(problem.contains(expected), "{arguments}: {problem}");
    }
}

#[test]
fn text_streams_in_whole_characters() {
    let tokenizer = gemma4();
    let mut parser = ChatFormat::Gemma4.parser(&tokenizer);
    // A character that the vocabulary has only as bytes.
    let bytes = tokenizer.encode("𝄞", false).expect("bytes");
    assert_eq!(bytes.len(), 4);
    let pushed: Vec<_> = bytes.iter().map(|&byte| parser.push(byte)).collect();
    assert_eq!(pushed, [vec![], vec![], vec![], vec![said("𝄞")]]);
    assert_eq!(parser.push(bytes[0]), []);
    let channel = tokenizer.special_id("<|channel>").expect("a control token");
    assert_eq!(parser.push(channel), [said("\u{fffd}")], "broken off by the channel");
    assert_eq!(parser.push(u32::MAX), [thought("\u{fffd}")]);
    assert_eq!(parser.finish(), [CUT]);
}

/// Without tokens of their own for anything, an answer of the older formats is text to its end.
#[test]
fn older_formats_have_text_and_an_end() {
    let tokenizer = spm();
    let mut tokens = tokenizer.encode("a <|channel>thought\nb<turn|>", false).expect("plain text");
    let end = tokenizer.special_id("<end_of_turn>").expect("a control token");
    for format in [ChatFormat::Gemma, ChatFormat::Gemma3] {
        assert!(format.stop_tokens(&tokenizer).contains(&end));
        let (found, reason) = turn(events(format, &tokenizer, &tokens));
        assert_eq!((found.text.as_str(), reason), ("a <|channel>thought\nb<turn|>", EndReason::Cut));
    }
    tokens.extend([end, 300]);
    let (found, reason) = turn(events(ChatFormat::Gemma3, &tokenizer, &tokens));
    assert_eq!((found.text.as_str(), reason), ("a <|channel>thought\nb<turn|>", EndReason::Turn));
    let names = ["<eos>", "<|turn>", "<turn|>", "<|tool_response>"].map(|name| gemma4().special_id(name));
    assert_eq!(ChatFormat::Gemma4.stop_tokens(&gemma4()), names.map(|id| id.expect("a control token")));
}

impl Draws {
    fn text(&mut self) -> String {
        let pieces =
            ["<|\"|>", "<tool_call|>", "}", "{", ",", ":", "[", "\"", "\n", " ", "Oslo", "ü", "𝄞", "null", "1", "<turn|>"];
        (0..self.below(6)).map(|_| pieces[self.below(pieces.len())]).collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth < 5 { 9 } else { 7 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(1 << 40) as i64 - (1 << 39)),
            3 => json!(f64::from_bits(self.below(usize::MAX) as u64)),
            4 => json!(u64::MAX - self.below(9) as u64),
            5 | 6 => json!(self.text()),
            7 => (0..self.below(4)).map(|_| self.value(depth + 1)).collect(),
            _ => Value::Object(self.fields(depth + 1)),
        }
    }

    fn fields(&mut self, depth: usize) -> Map<String, Value> {
        (0..self.below(4)).map(|i| (format!("{}_{i}", ["a", "B", "the key", "ö"][self.below(4)]), self.value(depth))).collect()
    }
}

#[test]
fn any_turn_comes_back() {
    let tokenizer = gemma4();
    let mut draws = Draws(3);
    for number in 0..2000 {
        let tool_calls = (0..1 + draws.below(3)).map(|_| ToolCall { name: "a.b".into(), arguments: draws.fields(0) }).collect();
        let expected = ModelTurn { thought: draws.text(), tool_calls, text: draws.text().trim().into() };
        let prompt = ChatFormat::Gemma4E.encode(&tokenizer, &[Message::user("a")], true).expect("a conversation");
        let messages = [Message::user("a"), Message::Model(expected.clone())];
        let whole = ChatFormat::Gemma4E.encode(&tokenizer, &messages, false).expect("a conversation");
        let found = turn(events(ChatFormat::Gemma4E, &tokenizer, &whole[prompt.len()..]));
        assert_eq!(found, (expected, EndReason::ToolResponse), "{number}");
    }
}

#[test]
fn any_tokens_have_events() {
    let tokenizer = gemma4();
    let controls = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<|think|>", "<pad>", "<tool|>"];
    let controls = controls.map(|name| tokenizer.special_id(name).expect("a control token"));
    let texts = ["call:", "a{", "}", "x:", "[", "]", ",", "thought\n", "\n", "1", "true"];
    let texts = texts.map(|text| tokenizer.encode(text, false).expect("plain text"));
    let ends = ChatFormat::Gemma4.stop_tokens(&tokenizer);
    let whole = parsed("<|tool_call>call:a{x:<|\"|>b<|\"|>,y:[1]}<tool_call|>");
    let mut draws = Draws(5);
    let mut kinds = [0; 5];
    for _ in 0..3000 {
        let mut tokens = Vec::new();
        for _ in 0..draws.below(120) {
            match draws.below(40) {
                0 => tokens.push(ends[draws.below(ends.len())]),
                1 => tokens.extend(&whole),
                2..=15 => tokens.push(controls[draws.below(controls.len())]),
                16..=32 => tokens.extend(&texts[draws.below(texts.len())]),
                _ => tokens.push(draws.below(tokenizer.vocab_size() + 3) as u32),
            }
        }
        let found = events(ChatFormat::Gemma4, &tokenizer, &tokens);
        let over = found.iter().position(|event| matches!(event, ChatEvent::End(_)));
        assert_eq!(over, Some(found.len() - 1), "one end, and it is the last: {tokens:?}");
        for event in &found {
            kinds[match event {
                ChatEvent::Text(text) | ChatEvent::Thought(text) => {
                    assert!(!text.is_empty(), "{tokens:?}");
                    usize::from(matches!(event, ChatEvent::Thought(_)))
                }
                ChatEvent::ToolCall(_) => 2,
                ChatEvent::BrokenToolCall { .. } => 3,
                _ => 4,
            }] += 1;
        }
    }
    assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
}

#[test]
fn a_call_without_end_is_kept_to_a_mebibyte() {
    let tokenizer = gemma4();
    let open = tokenizer.special_id("<|tool_call>").expect("a control token");
    let close = tokenizer.special_id("<tool_call|>").expect("a control token");
    let quote = tokenizer.special_id("<|\"|>").expect("a control token");
    let spaces = tokenizer.encode(&" ".repeat(64), false).expect("plain text");
    for filler in [quote, spaces[0]] {
        let mut parser = ChatFormat::Gemma4.parser(&tokenizer);
        assert_eq!(parser.push(open), []);
        let found: Vec<ChatEvent> = (0..(3 << 20) / 8).flat_map(|_| parser.push(filler)).collect();
        let [ChatEvent::BrokenToolCall { text, problem }] = &found[..] else { panic!("{} events", found.len()) };
        assert!((1 << 20..(1 << 20) + 65).contains(&text.len()), "{} bytes", text.len());
        assert!(problem.contains("longer than"), "{problem}");
        assert_eq!(parser.push(close), []);
        let after = tokenizer.encode("b", false).expect("plain text")[0];
        assert_eq!(parser.push(after), [said("b")]);
    }
}
