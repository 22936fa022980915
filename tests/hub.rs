//! Models from a hub on this machine: whole, interrupted, refused, and hostile.

#[path = "hub/away.rs"]
mod away;
#[path = "../examples/common/environment.rs"]
mod environment;
#[path = "hub/offline.rs"]
mod offline;
#[path = "hub/projector.rs"]
mod projector;
#[path = "common/hub.rs"]
mod server;
#[path = "hub/environment.rs"]
mod variables;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use gemmaflow::{
    Error,
    checkpoint::load_from_path,
    embed::GemmaEmbedder,
    error::HubError,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, SampleOpts},
    hub::{DownloadProgress, HubOptions, download},
    runtime::Device,
};
use server::{COMMIT, Fault, Hub, REPOSITORY, etag};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DEMO: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
const WEIGHTS: &str = "model.safetensors";

/// A hub with the demo model, and an empty cache.
struct Case {
    hub: Hub,
    folder: TempDir,
    seen: Arc<Mutex<Vec<DownloadProgress>>>,
}

impl Case {
    fn new(hub: Hub) -> Self {
        Self { hub, folder: tempfile::tempdir().unwrap(), seen: Arc::default() }
    }

    fn demo() -> Self {
        Self::new(Hub::of_folder(&Path::new(ROOT).join("assets/demo"), &DEMO))
    }

    /// Small files alone: configuration and weights of nothing.
    fn small() -> Self {
        let weights = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Self::new(Hub::new([("config.json".to_string(), b"{}".to_vec()), (WEIGHTS.to_string(), weights)]))
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("home/hub")
    }

    fn options(&self) -> HubOptions {
        let seen = self.seen.clone();
        let on_progress = Box::new(move |progress| {
            seen.lock().unwrap().push(progress);
            true
        });
        HubOptions { endpoint: self.hub.endpoint(), on_progress: Some(on_progress), ..HubOptions::new(self.cache()) }
    }

    fn get(&self) -> Result<PathBuf, Error> {
        self.get_named(REPOSITORY)
    }

    fn get_named(&self, name: &str) -> Result<PathBuf, Error> {
        self.seen.lock().unwrap().clear();
        download(&name.parse()?, self.options())
    }

    fn offline(&self) -> Result<PathBuf, Error> {
        download(&REPOSITORY.parse()?, HubOptions { offline: true, ..self.options() })
    }

    /// The bytes that the hub has for `file`.
    fn bytes(&self, file: &str) -> Vec<u8> {
        self.hub.state().files[file].clone()
    }

    fn blob(&self, file: &str) -> PathBuf {
        let bytes = self.bytes(file);
        self.cache().join("models--some-one--tiny.model/blobs").join(etag(file, &bytes))
    }

    fn part(&self, file: &str) -> PathBuf {
        let blob = self.blob(file);
        blob.with_file_name(format!("{}.part", blob.file_name().unwrap().to_str().unwrap()))
    }

    /// Every file and link below the test's folder.
    fn tree(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        found
    }

    /// What was fetched of large files, as the first byte of each request.
    fn starts(&self) -> Vec<usize> {
        self.hub.state().fetched.iter().map(|request| request.range_start().unwrap_or(0)).collect()
    }

    /// Requests to the hub, and for large files.
    fn counts(&self) -> (usize, usize) {
        let state = self.hub.state();
        (state.asked.len(), state.fetched.len())
    }

    /// Fails unless the folder has the files that the hub has.
    fn is_whole(&self, folder: &Path) {
        for (name, bytes) in &self.hub.state().files {
            assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name}");
        }
    }
}

fn transfer_error(result: Result<PathBuf, Error>, expected: &str) {
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Hub(HubError::Transfer { .. })), "{text}");
    assert!(text.contains(expected) && text.contains(REPOSITORY) && text.contains("goes on where it ended"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_model_comes_whole_and_generates() {
    let case = Case::demo();
    let folder = case.get().unwrap();
    case.is_whole(&folder);
    let mut generator = GemmaGenerator::from_path(GemmaConfig::near_weights(&folder).unwrap(), &folder, Device::Cpu).unwrap();
    generator.prefill([2, 910, 262]).unwrap();
    assert_eq!(generator.generate_cached(3, &SampleOpts::greedy()).unwrap(), [282, 459, 391]);

    let seen = case.seen.lock().unwrap();
    let bytes: u64 = case.hub.state().files.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(seen.last(), Some(&DownloadProgress { done: bytes, total: bytes }));
    assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done && pair[1].done - pair[0].done <= 256 << 10));
    assert!(seen.iter().all(|progress| progress.done <= progress.total));
}

#[test]
fn the_cache_is_the_one_of_hugging_face() {
    let case = Case::demo();
    let folder = case.get().unwrap();
    let repository = hf_hub::Cache::new(case.cache()).model(REPOSITORY.into());
    for file in DEMO {
        assert_eq!(repository.get(file), Some(folder.join(file)));
        assert_eq!(fs::canonicalize(folder.join(file)).unwrap(), fs::canonicalize(case.blob(file)).unwrap());
    }
    let main = case.cache().join("models--some-one--tiny.model/refs/main");
    assert_eq!(fs::read_to_string(main).unwrap(), COMMIT);
    // A content, a link and a lock for each, and the commit's name with its own.
    assert_eq!(case.tree().len(), 3 * DEMO.len() + 2, "{:?}", case.tree());
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let case = Case::demo();
    let folder = case.get().unwrap();
    case.hub.forget();
    assert_eq!(case.get().unwrap(), folder);
    assert_eq!(case.counts(), (1, 0));

    case.hub.forget();
    assert_eq!(case.offline().unwrap(), folder);
    assert_eq!(case.counts(), (0, 0));

    // A newer commit with the same weights.
    let newer = "f".repeat(40);
    {
        let mut state = case.hub.state();
        state.commit.clone_from(&newer);
        state.files.insert("generation_config.json".into(), b"{\"eos_token_id\": 1}".to_vec());
    }
    let updated = case.get().unwrap();
    assert!(updated.ends_with(&newer) && folder.is_dir());
    case.is_whole(&updated);
    assert_eq!(case.starts().len(), 0);
    assert_eq!(case.offline().unwrap(), updated);
}

#[test]
fn an_interrupted_download_goes_on_in_the_next_run() {
    let case = Case::small();
    let bytes = case.bytes(WEIGHTS);
    case.hub.state().faults.extend([Fault::Cut(100_000), Fault::Drop]);
    transfer_error(case.get(), WEIGHTS);
    assert!(fs::read(case.part(WEIGHTS)).unwrap() == bytes[..100_000]);
    assert!(!case.blob(WEIGHTS).exists());
    assert!(matches!(case.offline(), Err(Error::Hub(HubError::Offline { .. }))));

    case.hub.forget();
    let folder = case.get().unwrap();
    assert_eq!(case.starts(), [100_000]);
    case.is_whole(&folder);
    assert!(!case.part(WEIGHTS).exists());
    // What was there is counted once: the configuration was complete.
    let (seen, total) = (case.seen.lock().unwrap(), bytes.len() as u64);
    assert!(seen.contains(&DownloadProgress { done: 100_000, total }), "{seen:?}");
    assert_eq!(seen.last(), Some(&DownloadProgress { done: total, total }));
}

#[test]
fn a_connection_that_breaks_is_made_again_while_bytes_come() {
    let case = Case::small();
    case.hub.state().faults.extend([Fault::Cut(1_000), Fault::Cut(70_000), Fault::Cut(3)]);
    case.is_whole(&case.get().unwrap());
    assert_eq!(case.starts(), [0, 1_000, 71_000, 71_003]);
}

#[test]
fn a_server_without_ranges_sends_the_whole_file() {
    let case = Case::small();
    case.hub.state().faults.extend([Fault::Cut(1_000), Fault::IgnoreRange]);
    case.is_whole(&case.get().unwrap());
    let total = 300_000 + 2;
    assert_eq!(case.seen.lock().unwrap().last(), Some(&DownloadProgress { done: total, total }));
}

#[test]
fn wrong_answers_never_become_a_file() {
    let case = Case::small();
    let total = case.bytes(WEIGHTS).len();
    let faults = [
        (Fault::OtherBytes, "SHA-256"),
        (Fault::Header("content-length", "299999".into()), "299999"),
        (Fault::Status(503), "503"),
        (Fault::Status(403), "redirects to answers 403"),
        (Fault::Drop, WEIGHTS),
    ];
    for (fault, expected) in faults {
        case.hub.state().faults.push_back(fault);
        transfer_error(case.get(), expected);
        assert!(!case.blob(WEIGHTS).exists() && case.offline().is_err(), "{expected}");
    }
    // The answer to a request that goes on.
    for range in [format!("bytes 0-{}/{total}", total - 1), format!("bytes 9-{}/{}", total + 7, total + 8), "x".into()] {
        case.hub.state().faults.extend([Fault::Cut(9), Fault::Header("content-range", range)]);
        transfer_error(case.get(), "the server sends");
        assert!(fs::read(case.part(WEIGHTS)).unwrap() == case.bytes(WEIGHTS)[..9]);
        fs::remove_file(case.part(WEIGHTS)).unwrap();
    }
    // A part of something else is found out, and does not stand in the way.
    fs::write(case.part(WEIGHTS), b"something else").unwrap();
    transfer_error(case.get(), "SHA-256");
    fs::write(case.part(WEIGHTS), vec![0; total + 1]).unwrap();
    case.is_whole(&case.get().unwrap());
}

#[test]
fn cancelling_keeps_what_came() {
    let case = Case::small();
    let options = HubOptions { on_progress: Some(Box::new(|progress| progress.done < 100)), ..case.options() };
    let result = download(&REPOSITORY.parse().unwrap(), options);
    assert!(matches!(result, Err(Error::Cancelled("the download"))), "{result:?}");
    let kept = fs::metadata(case.part(WEIGHTS)).unwrap().len() as usize;
    assert!(kept > 0);
    case.hub.forget();
    case.is_whole(&case.get().unwrap());
    assert!(case.starts().iter().all(|start| *start == kept));
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let case = Case::small();
    case.hub.state().gate = Some(("hf_good", 403));
    let token = Some(" hf_good\n".to_string());
    let folder = download(&REPOSITORY.parse().unwrap(), HubOptions { token, ..case.options() }).unwrap();
    case.is_whole(&folder);
    let state = case.hub.state();
    assert!(state.asked.len() >= 6 && !state.fetched.is_empty());
    assert!(state.asked.iter().all(|request| request.headers["authorization"] == "Bearer hf_good"));
    assert!(state.fetched.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn gated_models_say_where_to_accept_and_that_a_token_is_needed() {
    let case = Case::small();
    for (status, token) in [(401, None), (403, None), (401, Some("hf_other")), (403, Some("hf_other"))] {
        case.hub.state().gate = Some(("hf_good", status));
        let options = HubOptions { token: token.map(str::to_string), ..case.options() };
        let error = download(&REPOSITORY.parse().unwrap(), options).unwrap_err();
        assert!(matches!(&error, Error::Hub(HubError::Access { status: found, .. }) if *found == status), "{error}");
        let (text, page) = (error.to_string(), format!("{}/{REPOSITORY}", case.hub.endpoint()));
        for expected in [&page, "licence", "HF_TOKEN", &status.to_string()] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(text.contains(if token.is_some() { "with the access token given" } else { "without an access token" }), "{text}");
        assert!(!text.contains("hf_other"), "{text}");
    }
    assert!(case.tree().is_empty());
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let case = Case::small();
    let missing = |name: &str, expected: &[&str]| {
        let error = case.get_named(name).unwrap_err();
        assert!(matches!(error, Error::Hub(HubError::Missing { .. })), "{error}");
        for expected in expected {
            assert!(error.to_string().contains(expected), "{expected} in {error}");
        }
        assert!(case.tree().is_empty());
    };
    missing("some-one/else", &["some-one/else", "check the name"]);
    missing(&format!("{REPOSITORY}/no.gguf"), &["no.gguf"]);
    case.hub.state().refuse = Some((429, None));
    transfer_error(case.get(), "too many requests");
    for refusal in [(401, Some("RepoNotFound")), (404, Some("RepoNotFound")), (404, None)] {
        case.hub.state().refuse = Some(refusal);
        missing(REPOSITORY, &[REPOSITORY, "private", "check the name"]);
    }
    case.hub.state().refuse = None;
    case.hub.state().files = BTreeMap::from([("config.json".to_string(), Vec::new())]);
    missing(REPOSITORY, &["neither model.safetensors nor model.safetensors.index.json"]);
    case.hub.state().files.insert("q/model-q4_0.gguf".into(), Vec::new());
    missing(REPOSITORY, &[&format!("name the one to take, as in {REPOSITORY}/q/model-q4_0.gguf")]);
    case.hub.state().files = BTreeMap::from([(WEIGHTS.to_string(), Vec::new())]);
    missing(REPOSITORY, &["config.json"]);
}

#[test]
fn shards_come_with_their_index() {
    let folder = Path::new(ROOT).join("tests/data/checkpoints/gemma1-mqa-bf16-sharded");
    let shards: Vec<String> = (1..=5).map(|i| format!("model-{i:05}-of-00005.safetensors")).collect();
    let names: Vec<&str> = shards.iter().map(String::as_str).chain(["config.json", "model.safetensors.index.json"]).collect();
    let case = Case::new(Hub::of_folder(&folder, &names));
    let path = case.get().unwrap();
    case.is_whole(&path);
    assert_eq!(load_from_path(&path).unwrap().len(), load_from_path(&folder).unwrap().len());
    let bytes: u64 = case.hub.state().files.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(case.seen.lock().unwrap().last(), Some(&DownloadProgress { done: bytes, total: bytes }));
    assert_eq!(case.offline().unwrap(), path);
    fs::remove_file(path.join(&shards[3])).unwrap();
    assert!(case.offline().unwrap_err().to_string().contains(&shards[3]));
    case.hub.state().files.remove(&shards[3]);
    let error = case.get().unwrap_err();
    assert!(matches!(&error, Error::Hub(HubError::Missing { problem, .. }) if problem.contains(&shards[3])), "{error}");
}

#[test]
fn a_model_that_embeds_texts_comes_with_its_modules() {
    let folder = Path::new(ROOT).join("tests/data/checkpoints/embeddinggemma");
    let files = [
        "config.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Dense/config.json",
        "3_Dense/model.safetensors",
    ];
    let case = Case::new(Hub::of_folder(&folder, &files));
    let config = GemmaConfig::near_weights(case.get().unwrap()).unwrap();
    assert_eq!(config, GemmaConfig::near_weights(&folder).unwrap());
    assert_eq!(config.embedding_dense, [96, 48]);
    assert!(GemmaEmbedder::from_path(case.offline().unwrap(), Device::Cpu).is_ok());
}

#[test]
fn a_gguf_file_is_taken_by_name() {
    let file = "tests/data/gguf/gemma3-s-iq4_nl/model.gguf";
    let bytes = fs::read(Path::new(ROOT).join(file)).unwrap();
    let files = ["q 4/tiny.gguf", "q 4/other.gguf", "p-00001-of-00002.gguf", "p-00002-of-00002.gguf"];
    let case = Case::new(Hub::new(files.map(|name| (name.to_string(), bytes.clone()))));
    let path = case.get_named(&format!("{REPOSITORY}/q 4/tiny.gguf")).unwrap();
    assert!(path.ends_with("q 4/tiny.gguf") && fs::read(&path).unwrap() == bytes);
    assert!(!path.with_file_name("other.gguf").exists());
    assert_eq!(GemmaConfig::near_weights(&path).unwrap(), GemmaConfig::from_gguf(Path::new(ROOT).join(file)).unwrap());

    let first = format!("{REPOSITORY}/p-00001-of-00002.gguf");
    let path = case.get_named(&first).unwrap();
    assert!(path.ends_with(files[2]) && path.with_file_name(files[3]).is_file());
    let offline = || download(&first.parse().unwrap(), HubOptions { offline: true, ..case.options() });
    assert_eq!(offline().unwrap(), path);
    fs::remove_file(path.with_file_name(files[3])).unwrap();
    assert!(offline().unwrap_err().to_string().contains(files[3]));
}

#[test]
fn hostile_servers_make_no_file_outside_of_the_cache() {
    for shard in ["../../../../../evil", "/tmp/evil.safetensors", "a/b", "a\\b", "..", "C:x"] {
        let case = Case::small();
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
        let mut files = BTreeMap::from([("model.safetensors.index.json".to_string(), index.into_bytes())]);
        files.extend([("config.json".to_string(), b"{}".to_vec()), (shard.to_string(), b"evil".to_vec())]);
        case.hub.state().files = files;
        let error = case.get().unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains("expected a"), "{error}");
        assert!(case.hub.state().asked.iter().all(|request| !request.path.contains("evil")));
        assert!(case.tree().iter().all(|path| path.starts_with(case.cache())), "{:?}", case.tree());
    }
    for commit in ["../../../evil", "main", "/evil", ""] {
        let case = Case::small();
        case.hub.state().commit = commit.into();
        transfer_error(case.get(), "commit");
        assert!(case.tree().is_empty());
    }
    for name in ["../../../evil", "/evil", "..", "", ".", "a/b", "\"a\\b\""] {
        let case = Case::small();
        case.hub.state().etag = Some(name.into());
        transfer_error(case.get(), "ETag");
        assert!(case.tree().is_empty());
    }
    let case = Case::small();
    for target in ["/loop", "file:///etc/passwd", "nowhere"] {
        case.hub.state().redirect = Some(target.into());
        transfer_error(case.get(), "config.json");
    }
    assert!(case.tree().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    let case = Case::small();
    let part = case.part(WEIGHTS);
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    transfer_error(case.get(), "no space left");
    assert!(!case.blob(WEIGHTS).exists());
    fs::remove_file(part).unwrap();
    case.is_whole(&case.get().unwrap());
}

#[test]
fn a_server_that_does_not_encrypt_is_an_error_where_encryption_is_asked_for() {
    let case = Case::small();
    let endpoint = case.hub.endpoint().replace("http:", "https:");
    let token = Some("hf_token".to_string());
    let result = download(&REPOSITORY.parse().unwrap(), HubOptions { endpoint, token, ..case.options() });
    transfer_error(result, "the list of files");
    assert!(case.hub.state().asked.iter().all(|request| request.headers.is_empty()));
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let case = Case::small();
    let refused = |change: &dyn Fn(&mut HubOptions), option: &str| {
        let mut options = case.options();
        change(&mut options);
        let error = download(&REPOSITORY.parse().unwrap(), options).unwrap_err();
        assert!(matches!(&error, Error::Hub(HubError::Option { option: found, .. }) if *found == option), "{error}");
        assert!(!error.to_string().contains("hf_"), "{error}");
    };
    for endpoint in ["", "huggingface.co", "ftp://huggingface.co", "https://", "https://a/?b"] {
        refused(&|options| options.endpoint = endpoint.into(), "endpoint");
    }
    for token in ["hf_a b", "hf_a\r\nx: y", "hf_ä"] {
        refused(&|options| options.token = Some(token.into()), "token");
    }
    refused(&|options| options.proxy = Some("no proxy at all".into()), "proxy");
    assert!(case.hub.state().asked.is_empty() && case.tree().is_empty());
}
