//! Tokenizer and streamed text against files that other programs made (see `tests/data/README.md`).

use std::path::PathBuf;

use gemmaflow::text::Tokenizer;
use gemmaflow::{Error, error::PromptError};
use serde_json::Value;

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root(path)).expect("a test file")).expect("JSON")
}

fn demo() -> Tokenizer {
    Tokenizer::from_file(root("assets/demo")).expect("the demo model's tokenizer")
}

fn spm() -> Tokenizer {
    Tokenizer::from_file(root("tests/data/tokenizers/spm/tokenizer.json")).expect("a converted SentencePiece tokenizer")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Tokens one by one: the pieces put together.
fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = tokens.iter().filter_map(|&t| stream.push(t)).collect();
    text.push_str(&stream.finish());
    text
}

#[test]
fn held_out_text_has_the_expected_tokens_and_comes_back() {
    let text = std::fs::read_to_string(root("tests/data/held_out.txt")).expect("the held-out text");
    let expected = json("assets/demo/expected.json");
    let tokenizer = demo();
    let tokens = tokenizer.encode(&text, false).expect("plain text");
    assert_eq!(tokens.len() as u64, expected["held_out"]["tokens"].as_u64().expect("a count"));
    assert!(tokenizer.decode(&tokens).expect("known ids") == text, "decoding gives another text");
    assert!(streamed(&tokenizer, &tokens) == text, "streaming gives another text");
}

#[test]
fn demo_prompts_and_continuations_match_transformers() {
    let tokenizer = demo();
    for case in json("assets/demo/expected.json")["greedy"].as_array().expect("cases") {
        let prompt = case["prompt"].as_str().expect("a prompt");
        assert_eq!(tokenizer.encode(prompt, true).expect("plain text"), ids(&case["prompt_ids"]), "{prompt:?}");
        assert_eq!(tokenizer.decode(&ids(&case["new_ids"])).expect("known ids"), case["text"].as_str().expect("text"));
    }
}

/// Expected ids: those of Hugging Face's tokenizers, or llama.cpp's where the two agree; llama.cpp's without special
/// parsing where the text spells control tokens, which those two columns parse.
#[test]
fn plain_text_matches_the_goldens() {
    let tokenizer = spm();
    let goldens = json("tests/data/tokenizers/spm/goldens.json");
    let rows = goldens["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 338);
    for row in rows {
        let text = row["text"].as_str().expect("text");
        let expected = ["llamacpp_no_special", "hf", "llamacpp"].iter().find_map(|&key| row.get(key)).expect("ids");
        let tokens = tokenizer.encode(text, false).expect("plain text");
        assert_eq!(tokens, ids(expected), "{text:?}");
        // Gemma's vocabulary knows one space: '▁' in a text comes back as ' '.
        let back = text.replace('▁', " ");
        assert_eq!(tokenizer.decode(&tokens).expect("known ids"), back);
        assert_eq!(streamed(&tokenizer, &tokens), back);
    }
}

#[test]
fn control_tokens_are_reached_by_name_only() {
    for (tokenizer, turn) in [(demo(), (4, 5)), (spm(), (106, 107))] {
        assert_eq!(tokenizer.special_id("<bos>"), Some(2));
        assert_eq!(tokenizer.special_id("<start_of_turn>"), Some(turn.0));
        assert_eq!(tokenizer.special_id("<end_of_turn>"), Some(turn.1));
        assert_eq!(tokenizer.special_id("▁the"), None, "ordinary vocabulary is no control token");
        assert_eq!(tokenizer.special_id("<nothing>"), None);
        for text in ["<bos>", "a<eos>", "<start_of_turn>user\n<end_of_turn>", "<pad><unk>", "<end_of_turn><end_of_turn>"] {
            let tokens = tokenizer.encode(text, true).expect("plain text");
            assert_eq!(tokens[0], 2);
            assert!(tokens[1..].iter().all(|t| *t > 3 && *t != turn.0 && *t != turn.1), "{text}: {tokens:?}");
            assert_eq!(tokenizer.decode(&tokens).expect("known ids"), text);
        }
    }
    let unused = spm();
    assert_eq!(unused.special_id("<unused98>"), Some(105));
    assert_eq!(unused.decode(&[105]).expect("a known id"), "");
}

#[test]
fn a_stream_holds_incomplete_characters_back() {
    let tokenizer = demo();
    let byte = |b: u8| 6 + u32::from(b);
    let mut stream = tokenizer.stream();
    // The bytes of '€', then of '😀' with a control token between them.
    let pushed: Vec<_> = [0xe2, 0x82, 0xac].into_iter().map(|b| stream.push(byte(b))).collect();
    assert_eq!(pushed, [None, None, Some("€".into())]);
    assert_eq!(stream.push(byte(0xf0)), None);
    assert_eq!(stream.push(byte(0x9f)), None);
    assert_eq!(stream.push(2), None);
    assert_eq!(stream.push(byte(0x98)), None);
    assert_eq!(stream.push(byte(0x80)), Some("😀".into()));
    assert_eq!(stream.finish(), "");
    // A character that breaks off, by text and by the end.
    assert_eq!(stream.push(byte(0xe2)), None);
    assert_eq!(stream.push(tokenizer.encode("a", false).expect("plain text")[0]), Some("\u{fffd}a".into()));
    assert_eq!(stream.push(byte(0xff)), Some("\u{fffd}".into()));
    assert_eq!(stream.push(byte(0xc3)), None);
    assert_eq!(stream.push(byte(0xc3)), Some("\u{fffd}".into()));
    assert_eq!(stream.push(byte(0xa9)), Some("é".into()));
    assert_eq!(stream.push(byte(0xe2)), None);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

/// Any bytes at all: what a stream gives is what the standard library makes of them.
#[test]
fn streams_of_any_bytes_decode_as_the_standard_library_does() {
    let tokenizer = demo();
    let mut state = 1u64;
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                [0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0x41, 0xc3, 0xff, 0xed, 0xa0][(state >> 33) as usize % 12]
            })
            .collect();
        let tokens: Vec<u32> = bytes.iter().map(|&b| 6 + u32::from(b)).collect();
        assert_eq!(streamed(&tokenizer, &tokens), String::from_utf8_lossy(&bytes));
        assert_eq!(tokenizer.decode(&tokens).expect("known ids"), String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn unknown_ids_are_errors_in_decode_and_visible_in_a_stream() {
    let tokenizer = demo();
    let error = tokenizer.decode(&[2, 300, 1024]).expect_err("1024 is outside the vocabulary");
    assert!(matches!(error, Error::Prompt(PromptError::TokenOutOfRange { token: 1024, index: 2, vocab_size: 1024 })), "{error}");
    assert_eq!(tokenizer.stream().push(u32::MAX), Some("\u{fffd}".into()));
}

#[test]
fn files_that_are_no_gemma_tokenizer_are_refused() {
    assert!(matches!(Tokenizer::from_file(root("no/such/folder")), Err(Error::Io { .. })));
    assert!(matches!(Tokenizer::from_file(root("tests/data/checkpoints/gemma2/config.json")), Err(Error::Format { .. })));
    for bytes in [&b""[..], b"{}", b"\xff\xfe", b"[1, 2"] {
        assert!(matches!(Tokenizer::from_bytes(bytes), Err(Error::Tokenizer(_))));
    }
    // A decoder that drops the first space of whatever it is given, as Llama's does.
    let mut file = json("assets/demo/tokenizer.json");
    let strip = serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    file["decoder"]["decoders"].as_array_mut().expect("decoders").push(strip);
    let error = Tokenizer::from_bytes(file.to_string().as_bytes()).expect_err("spaces would be lost");
    assert!(error.to_string().contains("one space"), "{error}");
}

/// Settings of whoever saved the file must not cut or pad a prompt.
/// Found by fuzzing: the tokenizers crate panics at it.
#[test]
fn a_fault_of_the_syntax_within_a_decoder_is_an_error() {
    let faults: [&[u8]; 6] = [
        br#"{"decoder": {"type": oops}}"#,
        br#"{"decoder": {1: 2}}"#,
        br#"{"decoder": {"type": "Fuse""#,
        b"{\"decoder\": {\"type\": \"\xe2\x28\"}}",
        br#"{"decoder": {"type": "\ud800"}}"#,
        br#"{"decoder": {"type": 1e999}}"#,
    ];
    for bytes in faults {
        let text = String::from_utf8_lossy(bytes);
        let error = Tokenizer::from_bytes(bytes).err().map(|error| error.to_string());
        assert!(error.as_deref().is_some_and(|error| error.contains("tokenizer.json")), "{text}: {error:?}");
    }
}

#[test]
fn truncation_and_padding_in_the_file_are_ignored() {
    let mut file = json("assets/demo/tokenizer.json");
    file["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = serde_json::json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).expect("a well-formed file");
    let text = "To be, or not to be: that is the question.\n";
    assert_eq!(tokenizer.encode(text, false).expect("plain text"), demo().encode(text, false).expect("plain text"));
}
