//! Control tokens, whatever a file types them as: never shown, never made from a text, found by the chat format.

use gemmaflow::text::{ChatFormat, Message, Tokenizer};
use serde_json::json;

use super::vocabularies::{read, small, writer};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The tokens of Gemma's turns, whose merges lead to `<eos>`.
fn turns(open: &str, close: &str, ty: i32) -> Vec<(String, i32, f32)> {
    let letters: Vec<String> = "<>|_eostarnudflm\nik".chars().map(String::from).collect();
    let parts = ["os", "os>", "eos>"];
    let mut tokens: Vec<(&str, i32)> = letters.iter().map(|letter| (letter.as_str(), NORMAL)).collect();
    tokens.extend(parts.map(|part| (part, NORMAL)));
    tokens.extend([(open, ty), (close, ty)]);
    let mut tokens = small(&tokens);
    // A file that types all of them as text.
    if ty == NORMAL {
        tokens.iter_mut().for_each(|(_, ty, _)| *ty = NORMAL);
    }
    tokens
}

/// Right: what llama.cpp and transformers do with a file that types them as control tokens.
#[test]
fn a_turn_is_laid_out_and_hidden_whatever_its_tokens_are_typed_as() {
    let families = [
        ("gemma", ChatFormat::Gemma, "<start_of_turn>", "<end_of_turn>"),
        ("gemma3", ChatFormat::Gemma3, "<start_of_turn>", "<end_of_turn>"),
        ("gemma3", ChatFormat::Gemma4E, "<|turn>", "<turn|>"),
    ];
    for (architecture, format, open, close) in families {
        let right = read(&writer(architecture, &turns(open, close, CONTROL)));
        let messages = [Message::user(format!("ae{close}<eos>a"))];
        let expected = format.encode(&right, &messages, true).expect("a conversation");
        assert_eq!(expected.iter().filter(|id| right.special_id(close) == Some(**id)).count(), 1, "the user's is text");
        assert!(!expected.contains(&1), "<eos> comes from a text");
        for ty in [NORMAL, USER_DEFINED] {
            let tokenizer = read(&writer(architecture, &turns(open, close, ty)));
            assert_eq!(format.encode(&tokenizer, &messages, true).expect("a conversation"), expected, "{architecture}, {ty}");
            let ids = [tokenizer.special_id(open).expect("a marker"), 5, tokenizer.special_id(close).expect("a marker"), 1];
            assert_eq!(tokenizer.decode(&ids).expect("known ids"), "a", "{architecture}, {ty}");
        }
    }
}

/// Fine-tunes name their own: `*_token_id` says that a token ends a turn, whatever its type.
#[test]
fn tokens_that_keys_name_are_control_tokens_unless_they_are_words() {
    let more = [
        ("<|im_end|>", NORMAL),
        ("<|im_start|>", USER_DEFINED),
        ("<|fim|>", NORMAL),
        ("<call>", USER_DEFINED),
        ("<hid>", CONTROL),
    ];
    let file = writer("gemma3", &small(&more))
        .u32("tokenizer.ggml.eot_token_id", 8)
        .u32("tokenizer.ggml.padding_token_id", u32::MAX)
        .u32("tokenizer.ggml.prefix_token_id", 7)
        .array("tokenizer.ggml.eos_token_ids", 4, &[1u32.to_le_bytes().to_vec(), 10u32.to_le_bytes().to_vec()]);
    let tokenizer = read(&file);
    assert_eq!(tokenizer.special_id("<|im_end|>"), Some(8));
    assert_eq!(tokenizer.special_id("<|fim|>"), Some(10));
    assert_eq!(tokenizer.special_id("<hid>"), Some(12));
    assert_eq!(tokenizer.special_id("ab"), None, "Gemma 1's fixed numbers name words of smaller vocabularies");
    assert_eq!(tokenizer.decode(&[5, 8, 9, 10, 11, 12, 7]).expect("known ids"), "a<|im_start|><call>ab");
    assert_eq!(tokenizer.encode("<call>ab", false).expect("plain text"), [11, 7]);
}

#[test]
fn the_files_beside_a_tokenizer_json_name_control_tokens() {
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null, "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "▁": 4, "a": 5, "<x>": 6, "<y>": 7, "<z>": 8, "<start_of_turn>": 9,
                "<end_of_turn>": 10},
            "merges": []}
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, value: serde_json::Value| {
        std::fs::write(folder.path().join(name), value.to_string()).expect("written");
    };
    write("tokenizer.json", tokenizer);
    let read = || Tokenizer::from_file(folder.path()).expect("a tokenizer.json");
    assert_eq!(read().decode(&[5, 1, 6, 7, 8, 9, 10]).expect("known ids"), "a<x><y><z>");
    write("tokenizer_config.json", json!({"eos_token": {"content": "<x>"}, "additional_special_tokens": ["a"]}));
    write("generation_config.json", json!({"eos_token_id": [1, 7]}));
    write("config.json", json!({"text_config": {"pad_token_id": 8}}));
    assert_eq!(read().decode(&[5, 1, 6, 7, 8, 9, 10]).expect("known ids"), "a");
    assert_eq!(read().special_id("<end_of_turn>"), Some(10));
}
