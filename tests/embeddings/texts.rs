//! Texts and vectors as sentence-transformers cuts them, and texts that cannot be embedded beside others that can.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use super::{
    GATE, apart,
    common::{
        gguf::GgufOracle,
        oracle::{Oracle, data},
    },
};
use gemmaflow::{
    Error, Result,
    checkpoint::load_from_path,
    embed::{EmbedderOptions, EmbeddingTask, GemmaEmbedder},
    error::{EmbeddingError, PromptError},
    gemma::GemmaConfig,
    runtime::Device,
    text::Tokenizer,
};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::<_, _>::unwrap) {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).map(drop).unwrap()
        }
    }
}

/// A copy of the oracle's checkpoint with more files beside it.
fn with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&data("checkpoints/embeddinggemma"), folder.path());
    for (name, content) in files {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

fn open(folder: &Path, device: Device) -> Result<GemmaEmbedder> {
    GemmaEmbedder::from_path(folder, device)
}

#[test]
fn vectors_have_as_many_numbers_as_the_checkpoint_says() {
    let oracle = Oracle::open("embeddinggemma");
    let (tokens, expected) = (oracle.tokens("p33.input_ids"), oracle.f32("p33.embedding"));
    for (said, dimensions) in [(json!(16), 16), (json!(1), 1), (json!(4096), 48), (json!(null), 48)] {
        let folder = with(&[("config_sentence_transformers.json", json!({"prompts": {}, "truncate_dim": said}))]);
        for device in [Device::Cpu, Device::Gpu] {
            let embedder = open(folder.path(), device).unwrap();
            let vector = &embedder.embed(&[&tokens]).unwrap()[0];
            assert_eq!((embedder.dimensions(), vector.len()), (dimensions, dimensions));
            assert!(apart(vector, &expected[..dimensions]) < GATE);
            assert_eq!(embedder.with_dimensions(48).unwrap().dimensions(), 48, "asked for more, it gives more");
        }
    }
    for odd in [json!(0), json!(-1), json!("x")] {
        let folder = with(&[("config_sentence_transformers.json", json!({"truncate_dim": odd}))]);
        assert!(open(folder.path(), Device::Cpu).is_err(), "{odd}");
    }
}

#[test]
fn a_text_that_cannot_be_embedded_is_refused_alone() {
    let oracle = Oracle::open("embeddinggemma");
    let names = ["p7", "p33", "p2", "p1"];
    let mut tokens: Vec<Vec<u32>> = names.iter().map(|name| oracle.tokens(&format!("{name}.input_ids"))).collect();
    tokens.insert(2, Vec::new());
    tokens.push(vec![2, 99_999]);
    let files = [("sentence_bert_config.json", json!({"max_seq_length": 20, "do_lower_case": false}))];
    let folder = with(&files);
    for device in [Device::Cpu, Device::Gpu] {
        let embedder = open(folder.path(), device).unwrap();
        assert_eq!(embedder.max_tokens(), 20);
        let found = embedder.embed_each(&tokens).unwrap();
        for (index, name) in [(0, "p7"), (3, "p2"), (4, "p1")] {
            let vector = found[index].as_ref().unwrap();
            assert!(apart(vector, &oracle.f32(&format!("{name}.embedding"))) < GATE, "{name}");
        }
        assert!(
            matches!(found[1], Err(Error::Embedding(EmbeddingError::TextTooLong { index: 1, tokens: 33, most: 20 }))),
            "{:?}",
            found[1]
        );
        assert!(matches!(found[2], Err(Error::Embedding(EmbeddingError::EmptyText { index: 2 }))), "{:?}", found[2]);
        assert!(matches!(found[5], Err(Error::Prompt(PromptError::TokenOutOfRange { token: 99_999, .. }))), "{:?}", found[5]);
        assert!(matches!(embedder.embed(&tokens), Err(Error::Embedding(EmbeddingError::TextTooLong { index: 1, .. }))));
        assert!(embedder.embed_each::<Vec<u32>>(&[]).unwrap().is_empty());
    }
    // The tokenizer's own limit where sentence-transformers' file has none; the model's where both are longer.
    let limit = |files: &[(&str, Value)]| open(with(files).path(), Device::Cpu).unwrap().max_tokens();
    assert_eq!(limit(&[("tokenizer_config.json", json!({"model_max_length": 24}))]), 24);
    assert_eq!(limit(&[("tokenizer_config.json", json!({"model_max_length": 1e30}))]), oracle.config.max_position_embeddings);
    assert_eq!(
        limit(&[("sentence_bert_config.json", json!({"max_seq_length": 1 << 20}))]),
        oracle.config.max_position_embeddings
    );
    let lower = with(&[("sentence_bert_config.json", json!({"do_lower_case": true}))]);
    assert!(matches!(open(lower.path(), Device::Cpu), Err(Error::Unsupported(what)) if what.contains("do_lower_case")));
}

#[test]
fn a_text_that_is_too_long_is_cut_where_asked() {
    let known: Value = serde_json::from_slice(&fs::read(data("keys/cut.json")).unwrap()).unwrap();
    let (text, cut): (&str, Vec<u32>) = (known["text"].as_str().unwrap(), serde_json::from_value(known["cut"].clone()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    fs::copy(data("tokenizers/spm/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let settings = r#"{"add_bos_token": true, "add_eos_token": true}"#;
    fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    let tokenizer = Tokenizer::from_file(folder.path()).unwrap();
    let path = GgufOracle::open("embeddinggemma-s-q4_0").path;
    let embedder = |truncate| {
        let options = EmbedderOptions { context: Some(12), truncate, ..EmbedderOptions::default() };
        let config = GemmaConfig::from_gguf(&path).unwrap();
        GemmaEmbedder::with_options(config, load_from_path(&path).unwrap().as_mut(), Device::Cpu, options).unwrap()
    };
    let whole = embedder(false);
    let tokens = whole.tokens(&tokenizer, &EmbeddingTask::Plain, &[text]).unwrap();
    assert_eq!(json!(tokens[0].len()), known["whole"]);
    let short = "the red";
    let each = whole.embed_texts_each(&tokenizer, &EmbeddingTask::Plain, &[short, text, "", short]).unwrap();
    assert!(each[0].is_ok() && each[3].is_ok());
    assert!(matches!(each[1], Err(Error::Embedding(EmbeddingError::TextTooLong { index: 1, most: 12, .. }))), "{:?}", each[1]);
    assert!(matches!(each[2], Err(Error::Embedding(EmbeddingError::EmptyText { index: 2 }))), "{:?}", each[2]);
    let cutting = embedder(true);
    assert_eq!(cutting.tokens(&tokenizer, &EmbeddingTask::Plain, &[text]).unwrap()[0].tokens(), cut);
    let vector = &cutting.embed_texts(&tokenizer, &EmbeddingTask::Plain, &[text]).unwrap()[0];
    assert_eq!(*vector, cutting.embed(&[cut]).unwrap()[0]);
    let ids = vec![5; 13];
    assert!(
        matches!(cutting.embed(&[ids]), Err(Error::Embedding(EmbeddingError::TextTooLong { .. }))),
        "ids are taken as they are"
    );
}

/// What a subscriber writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn told(work: impl FnOnce()) -> String {
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt().with_writer(written.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_model_without_its_dense_modules_says_that_vectors_differ() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = fs::read(GgufOracle::open("embeddinggemma-s-q4_0").path).unwrap();
    let says = "vectors differ";
    fs::write(&path, &bytes).unwrap();
    assert!(!told(|| drop(open(&path, Device::Cpu).unwrap())).contains(says));
    // The tensors of the dense modules and their keys under other names.
    for (name, other) in [(&b"dense_2"[..], &b"other_2"[..]), (b"dense_3", b"other_3")] {
        while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            bytes[at..at + name.len()].copy_from_slice(other);
        }
    }
    fs::write(&path, &bytes).unwrap();
    let warned = told(|| drop(open(&path, Device::Cpu).unwrap()));
    assert!(warned.contains(says) && warned.contains("WARN"), "{warned}");
    // One of two.
    let half: Vec<u8> = fs::read(GgufOracle::open("embeddinggemma-s-q4_0").path).unwrap();
    let at = half.windows(14).position(|window| window == b"dense_3.weight").unwrap();
    let mut half = half;
    half[at..at + 7].copy_from_slice(b"other_3");
    fs::write(&path, &half).unwrap();
    let error = open(&path, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("dense_3.weight"), "{error}");
    let folder = with(&[]);
    fs::remove_file(folder.path().join("modules.json")).unwrap();
    assert!(told(|| drop(open(folder.path(), Device::Cpu).unwrap())).contains(says));
}
