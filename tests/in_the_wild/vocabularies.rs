//! Vocabularies of GGUF files as converters write them: runs of white space, tags, strings that stand there twice, ids
//! without one.

use std::ops::ControlFlow;

use gemmaflow::{
    gemma::{GemmaConfig, random_weights},
    generate::{GemmaGenerator, SampleHooks, SampleOpts},
    guide::Guides,
    ir::DType,
    runtime::Device,
    text::Tokenizer,
};
use serde_json::{Value, json};

use crate::common::{
    gguf::{Writer, string},
    oracle::data,
};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// A file with these strings, types and scores.
pub fn writer(architecture: &str, tokens: &[(String, i32, f32)]) -> Writer {
    let strings: Vec<Vec<u8>> = tokens.iter().map(|(token, _, _)| string(token.as_bytes())).collect();
    let types: Vec<Vec<u8>> = tokens.iter().map(|(_, ty, _)| ty.to_le_bytes().to_vec()).collect();
    let scores: Vec<Vec<u8>> = tokens.iter().map(|(_, _, score)| score.to_le_bytes().to_vec()).collect();
    Writer::new(architecture)
        .text("tokenizer.ggml.model", "llama")
        .array("tokenizer.ggml.tokens", 8, &strings)
        .array("tokenizer.ggml.token_type", 5, &types)
        .array("tokenizer.ggml.scores", 6, &scores)
}

pub fn read(writer: &Writer) -> Tokenizer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.gguf");
    writer.write(&path);
    Tokenizer::from_gguf(&path).expect("a file with a tokenizer")
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// How converters write a token that was not learned.
#[derive(Clone, Copy, Debug)]
enum Converter {
    /// llama.cpp's: types of the added tokens, spaces for `▁`, one score.
    LlamaCpp,
    /// One that reads a SentencePiece model alone: all are text, with the score 0.
    Raw,
    /// One score for all tokens.
    Flat,
}

/// The vocabulary of a part of a real one.
fn converted(vocabulary: &Value, converter: Converter) -> Vec<(String, i32, f32)> {
    let list = |key: &str| numbers(&vocabulary[key]);
    let learned = list("learned");
    let special = list("special");
    let added = list("added");
    let tokens = vocabulary["tokens"].as_array().expect("tokens").iter().map(|token| token.as_str().expect("a string"));
    let has_bytes = vocabulary["tokens"].as_array().is_some_and(|tokens| tokens.contains(&json!("<0x09>")));
    (0..)
        .zip(tokens)
        .map(|(id, token)| {
            let rank = learned.iter().position(|other| *other == id);
            let score = rank.map_or(0.0, |rank| -(rank as f32));
            let (text, ty, score) = match converter {
                _ if token.starts_with("<0x") => (token.to_string(), BYTE, 0.0),
                _ if token == "\t" && !has_bytes => ("<0x09>".into(), BYTE, 0.0),
                Converter::LlamaCpp if special.contains(&id) || token.starts_with("<unused") || token == "<mask>" => {
                    (token.into(), CONTROL, -1000.0)
                }
                Converter::LlamaCpp if added.contains(&id) => (token.replace('▁', " "), USER_DEFINED, -1000.0),
                _ => (token.to_string(), NORMAL, score),
            };
            (text, ty, if matches!(converter, Converter::Flat) { -1000.0 } else { score })
        })
        .collect()
}

/// Ids by the package `tokenizers` with parts of the real `tokenizer.json` of Gemma 1, 2 and 3.
#[test]
fn white_space_and_tags_have_the_ids_of_the_tokenizer_json() {
    let bytes = std::fs::read(data("tokenizers").join("white_space.json")).expect("a test file");
    let goldens: Value = serde_json::from_slice(&bytes).expect("JSON");
    for architecture in ["gemma", "gemma2", "gemma3"] {
        let vocabulary = &goldens[architecture];
        for converter in [Converter::LlamaCpp, Converter::Raw, Converter::Flat] {
            let tokenizer = read(&writer(architecture, &converted(vocabulary, converter)));
            for row in vocabulary["rows"].as_array().expect("rows") {
                let text = row["text"].as_str().expect("a text");
                let ids = tokenizer.encode(text, false).expect("plain text");
                assert_eq!(ids, numbers(&row["ids"]), "{architecture}, {converter:?}: {text:?}");
                assert_eq!(tokenizer.decode(&ids).expect("known ids"), text.replace('▁', " "), "{architecture}: {text:?}");
            }
        }
    }
}

/// `<pad> <eos> <bos> <unk> ▁ a b ab`, then what is given.
pub fn small(more: &[(&str, i32)]) -> Vec<(String, i32, f32)> {
    let first = [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2), ("▁", 1), ("a", 1), ("b", 1), ("ab", 1)];
    (0..).zip(first.iter().chain(more)).map(|(id, (token, ty))| (token.to_string(), *ty, -(id as f32))).collect()
}

#[test]
fn a_string_that_stands_there_twice_is_one_text_of_two_ids() {
    let tokenizer = read(&writer("gemma3", &small(&[("ab", 1), ("<eos>", 1), ("", 1), ("", 1), ("[PAD12]", 5), ("aa", 1)])));
    assert_eq!(tokenizer.vocab_size(), 14);
    assert_eq!(tokenizer.encode("ab aa", false).expect("plain text"), [7, 4, 13]);
    assert_eq!(tokenizer.decode(&[7, 8]).expect("known ids"), "abab");
    assert_eq!(tokenizer.decode(&[5, 9, 10, 11, 12, 6]).expect("known ids"), "ab", "the twin of <eos>, and ids without a string");
    assert_eq!(tokenizer.special_id("<eos>"), Some(1));
    assert!(tokenizer.decode(&[14]).is_err());
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(4_000_000_000).as_deref(), Some("\u{fffd}"));
}

/// A `tokenizer.json` with a gap in its vocabulary, an added token behind another gap, and one that repeats a string
/// of the vocabulary.
fn gapped() -> Value {
    let added = |id: u32, content: &str, special: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [added(15, "<mine>", false), added(12, "<eos>", true), added(13, "ab", false)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<bos>": 2, "▁": 4, "a": 5, "b": 6, "ab": 7, "c": 9}, "merges": [["a", "b"]]}
    })
}

#[test]
fn tokens_behind_a_gap_keep_the_ids_of_the_file() {
    let bytes = serde_json::to_vec(&gapped()).expect("JSON");
    let tokenizer = Tokenizer::from_bytes(&bytes).expect("a tokenizer.json");
    assert_eq!(tokenizer.vocab_size(), 16);
    assert_eq!(tokenizer.encode("ab<mine>c a", false).expect("plain text"), [7, 15, 9, 4, 5]);
    assert_eq!(tokenizer.decode(&[13, 15, 3, 14, 12, 9]).expect("known ids"), "ab<mine>c");
    assert_eq!(tokenizer.special_id("<eos>"), Some(12));
    let mut far = gapped();
    far["added_tokens"][0]["id"] = json!(u32::MAX);
    let error = Tokenizer::from_bytes(&serde_json::to_vec(&far).expect("JSON")).expect_err("an id of four thousand million");
    assert!(error.to_string().contains("4294967295"), "{error}");
}

/// A model with more rows than strings, and one with fewer.
#[test]
fn guided_output_copes_with_twins_and_gaps() {
    let tokens = ["1", "2", "12", "12", "", "{", "}", "<eos>"].map(|token| (token, NORMAL));
    let tokenizer = read(&writer("gemma3", &small(&tokens)));
    let ends = [1, 15];
    let guides = Guides::new(&tokenizer, &ends).expect("a vocabulary");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    for vocab_size in [tokenizer.vocab_size() + 48, tokenizer.vocab_size() - 2] {
        let config = GemmaConfig { vocab_size, ..GemmaConfig::from_file(demo).expect("a configuration") };
        let mut weights = random_weights(&config, DType::F32, 3).expect("a small model");
        let generator = GemmaGenerator::from_loader(config, &mut weights, Device::Cpu).expect("a small model");
        let mut generator = generator.with_stop_tokens(&ends);
        for seed in 0..8 {
            let guide = guides.regex("(12)+1").expect("an expression").after_thinking(13, 14);
            let mut hooks = SampleHooks::new().with_processor(guide);
            generator.prefill([2, 5]).expect("a prompt");
            let opts = SampleOpts::temperature(1.0, seed);
            let said = generator.generate_hooked(12, &opts, &mut hooks, |_| ControlFlow::Continue(())).expect("an answer");
            let text = tokenizer.decode(&said).expect("known ids");
            let answer = said.first() != Some(&13);
            assert!(!answer || text.chars().all(|c| "12".contains(c)), "{vocab_size}: {text:?}");
        }
    }
}
