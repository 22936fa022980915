//! The programs with text as editors and shells of any system write it, and with files beside a model.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use gemmaflow::{
    conversation::Model, gemma::GemmaConfig, generate::GeneratorOptions, profile::CompileProfile, runtime::Device,
    text::Tokenizer,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An example, which `cargo test` builds beside the tests; with `--test` it does not.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    folder.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION)
}

/// What a program says to these bytes on stdin: whether it succeeded, stdout, stderr.
fn run(name: &str, arguments: &[&str], input: &[u8]) -> (bool, String, String) {
    let mut command = Command::new(program(name));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the example, built by `cargo test` or `cargo build --examples`");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn utf16(text: &str, little: bool) -> Vec<u8> {
    let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
    units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
}

/// The encodings in which a text means the same.
fn encodings(text: &str) -> [Vec<u8>; 5] {
    let plain = text.as_bytes().to_vec();
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let windows = [b"\xef\xbb\xbf", text.replace('\n', "\r\n").as_bytes()].concat();
    [plain, marked, windows, utf16(text, true), utf16(text, false)]
}

const CHAT: [&str; 6] = ["--device", "cpu", "--temperature", "0", "--max-tokens", "4"];

#[test]
fn chat_reads_lines_in_any_encoding() {
    // U+0A0A and U+0A00 hold bytes that end lines elsewhere.
    let text = "/context\nWho goes thère? \u{a0a}\u{a00}\u{1f600}\n/context\nlast line without an end";
    let [plain, others @ ..] = encodings(text);
    let (ok, expected, told) = run("chat", &CHAT, &plain);
    assert!(ok && expected.lines().count() >= 2 && told.contains("0 of 2048 tokens"), "{expected:?} {told}");
    let context =
        |told: &str| told.lines().filter(|line| line.contains("of 2048 tokens")).map(str::to_string).collect::<Vec<_>>();
    for input in others {
        let (ok, said, others) = run("chat", &CHAT, &input);
        assert!(ok, "{others}");
        assert_eq!((said, context(&others)), (expected.clone(), context(&told)), "{:x?}", &input[..4]);
    }
}

#[test]
fn a_line_that_is_no_text_is_told_and_the_next_one_is_answered() {
    let (ok, expected, _) = run("chat", &CHAT, b"hello\nonce more\n");
    assert!(ok);
    for broken in [&b"caf\xe9"[..], b"\xff\xff", b"\xc3", b"\xed\xa0\x80"] {
        let (ok, said, told) = run("chat", &CHAT, &[b"hello\n", broken, b"\nonce more\n"].concat());
        assert!(ok && told.contains("line 2: this is no UTF-8 text") && told.contains("passed over"), "{told}");
        assert_eq!(said, expected, "{broken:x?}");
    }
    // Half a surrogate pair in the second line.
    let mut input = utf16("hello\n\u{1f600}\nonce more\n", true);
    let at = 2 * (1 + 6);
    input.drain(at..at + 2);
    let (ok, said, told) = run("chat", &CHAT, &input);
    assert!(ok && told.contains("line 2: its byte-order mark says UTF-16"), "{told}");
    assert_eq!(said, expected);
}

#[test]
fn embed_reads_files_in_any_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_that_embeds(folder.path());
    let file = folder.path().join("lines.txt");
    let rank = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let arguments = ["--model", model.to_str().unwrap(), "--device", "cpu", "--query", "the king", file.to_str().unwrap()];
        run("embed", &arguments, b"")
    };
    let [plain, others @ ..] = encodings("the king and his men\nlove and death\n");
    let (ok, expected, told) = rank(&plain);
    assert!(ok && expected.lines().count() == 2, "{told}");
    for bytes in others {
        assert_eq!(rank(&bytes).1, expected, "{:x?}", &bytes[..4]);
    }
    for (bytes, problem) in [
        (&b"the king\ncaf\xe9\n"[..], "byte 13 is 0xe9"),
        (&utf16("love and death", true)[2..28], "UTF-16 text without a byte-order mark"),
        (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
        (b"\xff\xfea\0b", "ends in the middle"),
    ] {
        let (ok, _, told) = rank(bytes);
        let shown = file.to_str().unwrap();
        assert!(!ok && told.contains(problem) && told.contains(shown), "{problem}: {told}");
    }
}

/// A small model that embeds texts, with a tokenizer of its own size.
fn model_that_embeds(folder: &Path) -> PathBuf {
    let from = Path::new(ROOT).join("tests/data/checkpoints/embeddinggemma");
    let to = folder.join("model");
    for part in ["", "1_Pooling", "2_Dense", "3_Dense"] {
        fs::create_dir_all(to.join(part)).unwrap();
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    fs::write(to.join("tokenizer.json"), small_tokenizer()).unwrap();
    to
}

/// The demo's tokenizer with control tokens, a space and letters alone, as many as the small model has rows.
fn small_tokenizer() -> Vec<u8> {
    let text = fs::read(Path::new(ROOT).join("assets/demo/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < 6);
    let letters = ["▁".to_string()].into_iter().chain(":|\n".chars().chain('a'..='z').map(String::from));
    vocab.extend(letters.zip(6..).map(|(letter, id)| (letter, id.into())));
    tokenizer["model"]["merges"] = serde_json::json!([]);
    tokenizer["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"].as_u64().unwrap() < 6);
    serde_json::to_vec(&tokenizer).unwrap()
}

#[test]
fn json_reads_a_schema_in_any_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.json");
    let answer = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        run("json", &["--device", "cpu", "--schema", file.to_str().unwrap()], b"")
    };
    for bytes in encodings("{\n\"enum\": [\"mérry\"]}") {
        let (ok, said, told) = answer(&bytes);
        assert!(ok && serde_json::from_str::<String>(&said).is_ok_and(|said| said == "mérry"), "{said:?} {told}");
    }
    let (ok, _, told) = answer(b"{\"enum\": [\"m\xe9rry\"]}");
    assert!(!ok && told.contains("schema.json: this is no UTF-8 text"), "{told}");
}

/// The files of a model, each with a mark as Windows' editors write it.
#[test]
fn files_beside_a_model_may_begin_with_a_mark() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(ROOT).join("assets/demo");
    fs::copy(demo.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let texts =
        ["config.json", "generation_config.json", "tokenizer.json"].map(|name| (name, fs::read(demo.join(name)).unwrap()));
    let more = [
        ("tokenizer_config.json", b"{\"add_bos_token\": true}".to_vec()),
        ("gemma.rlx.toml", b"[precision]\nkv = 'f16'\n".to_vec()),
    ];
    for (name, text) in texts.iter().chain(&more) {
        fs::write(folder.path().join(name), [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    }
    let options = GeneratorOptions::near_weights(folder.path()).unwrap();
    Model::open(folder.path(), Device::Cpu, options).unwrap();
    assert_eq!(GemmaConfig::from_file(folder.path()).unwrap(), GemmaConfig::from_file(&demo).unwrap());
    let plain = CompileProfile::from_toml("[precision]\nkv = 'f16'\n", true).unwrap();
    assert_eq!(CompileProfile::near_weights(folder.path(), true).unwrap(), plain);
    let encode = |path: &Path| Tokenizer::from_file(path).unwrap().encode("Who goes there?", true).unwrap();
    assert_eq!(encode(folder.path()), encode(&demo));
    // Text in another encoding is named.
    for (name, text) in &texts {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, utf16(std::str::from_utf8(text).unwrap(), true)).unwrap();
        let error = Model::open(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap_err().to_string();
        assert!(error.contains("UTF-16") && error.contains(name), "{error}");
        fs::write(&path, before).unwrap();
    }
}

#[test]
fn programs_sample_as_recommended_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(ROOT).join("assets/demo");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(demo.join(name), folder.path().join(name)).unwrap();
    }
    let model = folder.path().to_str().unwrap();
    let recommend = |text: &str| fs::write(folder.path().join("generation_config.json"), text).unwrap();
    let generate = |more: &[&str]| {
        let arguments =
            [&["--model", model, "--device", "cpu", "--prompt", "ROMEO:", "--max-tokens", "12", "--seed", "7"], more].concat();
        let (ok, said, told) = run("generate", &arguments, b"");
        assert!(ok, "{told}");
        (said, told)
    };
    recommend("{}");
    let (_, told) = generate(&[]);
    assert!(!told.contains("recommends"), "{told}");
    let (greedy, _) = generate(&["--temperature", "0"]);
    let (hot, _) = generate(&["--temperature", "1.7", "--top-k", "0"]);
    assert_ne!(greedy, hot);

    recommend(r#"{"do_sample": false}"#);
    let (said, told) = generate(&[]);
    assert!(said == greedy && told.contains("maker recommends: greedy"), "{told}");
    recommend(r#"{"do_sample": true, "temperature": 1.7, "top_k": 0, "no_repeat_ngram_size": 3}"#);
    let (said, told) = generate(&[]);
    assert!(said == hot && told.contains("maker recommends: temperature 1.7\n"), "{told}");
    assert!(told.contains("no_repeat_ngram_size is 3"), "{told}");
    let (said, told) = generate(&["--temperature", "0"]);
    assert!(said == greedy && told.contains("as asked for: greedy"), "{told}");

    for (name, arguments) in [("chat", &["--max-tokens", "3"][..]), ("json", &["--max-tokens", "200"])] {
        let (_, _, told) = run(name, &[&["--model", model, "--device", "cpu"], arguments].concat(), b"Hi!\n");
        assert!(told.contains("maker recommends: temperature 1.7"), "{name}: {told}");
    }
    recommend(r#"{"do_sample": true, "top_p": "0.95"}"#);
    let (ok, _, told) = run("generate", &["--model", model, "--device", "cpu"], b"");
    assert!(!ok && told.contains("generation_config.json: top_p is \"0.95\", expected a number"), "{told}");
}

/// `main` prints the `Debug` of what it returns.
#[test]
fn an_error_that_reaches_main_is_a_sentence() {
    let error = GemmaConfig::from_file("no/such/folder").unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    let full = gemmaflow::Error::ContextFull { needed: 2049, capacity: 2048 };
    assert!(format!("{full:?}").starts_with("the context would hold 2049 tokens, the capacity is 2048; "), "{full:?}");
}
