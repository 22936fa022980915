//! The tokenizer inside GGUF files against the goldens of its vocabulary and against the `tokenizer.json` of the same.

#[path = "common/draws.rs"]
mod draws;
#[path = "common/gguf.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod gguf;
#[path = "common/oracle.rs"]
#[allow(dead_code)] // Each test binary uses a part.
mod oracle;

use draws::Draws;
use gemmaflow::text::Tokenizer;
use gguf::{Writer, string};
use oracle::data;
use serde_json::Value;

/// Lines for each vocabulary.
const LINES: u32 = 10_000;

/// GGUF files, and the folder with their vocabulary's `tokenizer.json` and goldens.
const FILES: [(&str, &str); 4] =
    [("gemma1-k-q4_k_m", "spm"), ("gemma2-s-q4_0-pure", "spm"), ("gemma3-s-iq4_nl", "spm"), ("gemma4-assistant-q4_1", "gemma4")];

fn from_gguf(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(data("gguf").join(name).join("model.gguf")).expect("a file with a tokenizer")
}

fn from_json(folder: &str) -> Tokenizer {
    Tokenizer::from_file(data("tokenizers").join(folder)).expect("a tokenizer.json")
}

/// The `tokenizer.json` of a later model than Gemma 1, whose converter orders the merges of one score by the lengths of
/// their parts, the longest first. All runs of white space have one score.
fn from_later_json(folder: &str) -> Tokenizer {
    let bytes = std::fs::read(data("tokenizers").join(folder).join("tokenizer.json")).expect("a test file");
    let mut json: Value = serde_json::from_slice(&bytes).expect("JSON");
    let merges = json["model"]["merges"].as_array_mut().expect("merges");
    let parts = |merge: &Value| [0, 1].map(|part| merge[part].as_str().expect("a token").to_string());
    let result = |merge: &Value| {
        let result = parts(merge).concat();
        if result.chars().all(|c| "\n\t▁".contains(c)) { String::new() } else { result }
    };
    let mut ranks = std::collections::HashMap::new();
    for merge in merges.iter() {
        let rank = ranks.len();
        ranks.entry(result(merge)).or_insert(rank);
    }
    merges.sort_by_cached_key(|merge| (ranks[&result(merge)], parts(merge).map(|part| std::cmp::Reverse(part.chars().count()))));
    Tokenizer::from_bytes(json.to_string().as_bytes()).expect("a tokenizer.json")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Control tokens that llama.cpp finds in every text, so that the goldens have no ids of such texts as plain ones.
const ALWAYS_FOUND: [&str; 7] =
    ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|\"|>"];

/// Expected ids: as in tests/text.rs, Hugging Face's where llama.cpp has others. Texts that spell [`ALWAYS_FOUND`] are
/// held against the `tokenizer.json` below.
#[test]
fn texts_have_the_ids_of_the_goldens() {
    for (file, folder) in FILES {
        let tokenizer = from_gguf(file);
        let goldens = std::fs::read(data("tokenizers").join(folder).join("goldens.json")).expect("a test file");
        let goldens: Value = serde_json::from_slice(&goldens).expect("JSON");
        let rows = goldens["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), 338);
        let mut apart = 0;
        for row in rows {
            let text = row["text"].as_str().expect("text");
            // Hugging Face's column is of Gemma 1's merges; later ones agree with llama.cpp on runs of spaces.
            let later = folder == "spm" && file != FILES[0].0 && text.contains(&" ".repeat(31));
            let columns = if later { ["llamacpp"; 3] } else { ["llamacpp_no_special", "hf", "llamacpp"] };
            let expected = columns.iter().find_map(|&key| row.get(key)).expect("ids");
            let tokens = tokenizer.encode(text, false).expect("plain text");
            if folder == "gemma4" && ALWAYS_FOUND.iter().any(|name| text.contains(name)) {
                let control = |id: &u32| ALWAYS_FOUND.iter().any(|name| tokenizer.special_id(name) == Some(*id));
                assert!(!tokens.iter().any(control), "{file}: {text:?}");
                apart += 1;
                continue;
            }
            assert_eq!(tokens, ids(expected), "{file}: {text:?}");
            assert_eq!(tokenizer.decode(&tokens).expect("known ids"), text.replace('▁', " "), "{file}");
        }
        assert_eq!(apart, if folder == "gemma4" { 23 } else { 0 }, "{file}: rows that were not compared");
    }
}

/// Words, runs of white space, spelled control tokens, tags, letters of many scripts, pieces of the vocabulary itself.
fn line(draws: &mut Draws, words: &[&str], vocabulary: &[String]) -> String {
    let spelled =
        ["<bos>", "<eos>", "<start_of_turn>", "<|turn>", "<|tool_call>", "<unused3>", "<h1>", "</code>", "<0x41>", "<0x09>"];
    let mut line = String::new();
    for _ in 0..=draws.below(12) {
        match draws.below(9) {
            0..=2 => line.push_str(words[draws.below(words.len())]),
            3 => line.push_str(&[" ", "\n", "\t", "▁", "-", "="][draws.below(6)].repeat(1 + draws.below(70))),
            4 => line.push_str(spelled[draws.below(spelled.len())]),
            5 => line.push_str(&vocabulary[draws.below(vocabulary.len())]),
            6 => line.extend((0..=draws.below(4)).filter_map(|_| char::from_u32(draws.below(0x11_0000) as u32))),
            7 => line.push_str(&draws.below(1_000_000).to_string()),
            _ => line.extend((0..=draws.below(6)).filter_map(|_| char::from_u32(0x20 + draws.below(0x3000) as u32))),
        }
        if draws.below(3) > 0 {
            line.push(' ');
        }
    }
    line
}

#[test]
fn lines_have_the_ids_of_the_tokenizer_json() {
    let text = std::fs::read_to_string(data("held_out.txt")).expect("the held-out text");
    let words: Vec<&str> = text.split_whitespace().collect();
    for (file, folder) in [FILES[0], FILES[1], FILES[3]] {
        let gguf = from_gguf(file);
        let json = if file == FILES[1].0 { from_later_json(folder) } else { from_json(folder) };
        assert_eq!(gguf.vocab_size(), json.vocab_size());
        let vocabulary: Vec<String> = (0..json.vocab_size() as u32).filter_map(|id| json.decode(&[id]).ok()).collect();
        assert_eq!(vocabulary.len(), json.vocab_size());
        for id in 0..json.vocab_size() as u32 {
            assert_eq!(gguf.decode(&[id]).expect("a known id"), vocabulary[id as usize], "{file}: {id}");
        }
        let mut draws = Draws(7);
        let mut tokens = 0;
        for number in 0..LINES {
            let line = line(&mut draws, &words, &vocabulary);
            let expected = json.encode(&line, true).expect("plain text");
            assert_eq!(gguf.encode(&line, true).expect("plain text"), expected, "{file}: line {number}, {line:?}");
            tokens += expected.len();
        }
        println!("{file}: {tokens} tokens in {LINES} lines");
        for name in ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<|tool_call>", "▁the"]
        {
            assert_eq!(gguf.special_id(name), json.special_id(name), "{file}: {name}");
        }
    }
}

/// `<pad> <eos> <bos> <unk> ▁ a b ab` in the kind of file that lists no merges.
fn small() -> Writer {
    let tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "ab"].map(|token| string(token.as_bytes()));
    let types = [3i32, 3, 3, 2, 1, 1, 1, 1].map(|ty| ty.to_le_bytes().to_vec());
    let scores = [0f32, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0].map(|score| score.to_le_bytes().to_vec());
    Writer::new("gemma")
        .text("tokenizer.ggml.model", "llama")
        .array("tokenizer.ggml.tokens", 8, &tokens)
        .array("tokenizer.ggml.token_type", 5, &types)
        .array("tokenizer.ggml.scores", 6, &scores)
}

fn read(writer: &Writer) -> gemmaflow::Result<Tokenizer> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.gguf");
    writer.write(&path);
    Tokenizer::from_gguf(&path)
}

#[test]
fn files_without_a_tokenizer_or_with_a_strange_one_are_refused() {
    let tokenizer = read(&small()).expect("a small vocabulary");
    assert_eq!(tokenizer.encode("ab ba", true).expect("plain text"), [2, 7, 4, 6, 5]);
    let texts = |texts: &[&str]| -> Vec<Vec<u8>> { texts.iter().map(|text| string(text.as_bytes())).collect() };
    let tokens = |list: &[&str]| small().array("tokenizer.ggml.tokens", 8, &texts(list));
    let listed =
        |merges: &[&str]| small().text("tokenizer.ggml.model", "gemma4").array("tokenizer.ggml.merges", 8, &texts(merges));
    assert!(read(&listed(&["a b"])).is_ok());
    let without = |key: &str| {
        let mut writer = small();
        writer.pairs.retain(|(name, _, _)| name != key);
        writer
    };
    let cases = [
        (without("tokenizer.ggml.model"), "carries no tokenizer"),
        (without("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens is missing"),
        (without("tokenizer.ggml.scores"), "tokenizer.ggml.scores is missing"),
        (small().text("tokenizer.ggml.model", "gpt2"), "\"gpt2\", expected llama or gemma4"),
        (small().text("tokenizer.ggml.model", "gemma4"), "tokenizer.ggml.merges is missing"),
        (small().u32("tokenizer.ggml.unknown_token_id", 99), "unknown_token_id 99 is no token"),
        (small().array("tokenizer.ggml.scores", 6, &[vec![0; 4]]), "has 1 entries"),
        (small().array("tokenizer.ggml.scores", 8, &texts(&["a"])), "expected an array of numbers"),
        (small().array("tokenizer.ggml.tokens", 8, &[string(&[0xff])]), "texts in UTF-8"),
        (tokens(&["<pad>", "<eos>", "<bos>", "<unk>", "_", "a", "b", "ab"]), "another model's file"),
        (listed(&["ab"]), "expected two tokens and a space between"),
        (listed(&["a x"]), "do not fit its vocabulary"),
    ];
    for (writer, expected) in cases {
        let error = read(&writer).expect_err(expected).to_string();
        assert!(error.contains("x.gguf") && error.contains(expected), "'{expected}' in {error}");
    }
}

#[test]
fn a_hostile_vocabulary_takes_bounded_time() {
    // 2,000 tokens of a megabyte together, each of the longest that is still split, and one of a megabyte.
    let mut tokens: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a"].map(String::from).to_vec();
    tokens.extend((0..2000).map(|i| format!("{}{i:04}", "a".repeat(508))));
    tokens.push("b".repeat(1 << 20));
    let bytes: Vec<Vec<u8>> = tokens.iter().map(|token| string(token.as_bytes())).collect();
    let repeated = |bytes: [u8; 4]| vec![bytes.to_vec(); tokens.len()];
    let writer = small()
        .array("tokenizer.ggml.tokens", 8, &bytes)
        .array("tokenizer.ggml.token_type", 5, &repeated(1i32.to_le_bytes()))
        .array("tokenizer.ggml.scores", 6, &repeated(f32::NAN.to_le_bytes()));
    assert_eq!(read(&writer).expect("a strange vocabulary").encode("aa", false).expect("plain text"), [5, 5]);
}
