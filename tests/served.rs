//! Files that an application serves itself, against the same files in a folder.

mod common;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use common::oracle::data;
use gemmaflow::{
    Error, GemmaConfig,
    checkpoint::{load_from_path, load_towers_from_path},
    conversation::{AnswerOptions, Model},
    embed::{EmbeddingTask, GemmaEmbedder},
    files::{Files, ModelPath, ReadAt},
    generate::{GeneratorOptions, SampleOpts},
    lora::Lora,
    runtime::Device,
    weights::WeightLoader,
};

/// What was asked of the files of a folder.
#[derive(Default)]
struct Asked {
    bytes: AtomicU64,
    /// Most bytes that were asked for at once.
    largest: AtomicU64,
    /// True to fail.
    broken: AtomicBool,
}

/// A file of a folder, none of it in memory.
struct Served {
    file: PathBuf,
    len: u64,
    asked: Arc<Asked>,
}

impl ReadAt for Served {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.asked.broken.load(Relaxed) {
            return Err(io::Error::other("the line was cut"));
        }
        self.asked.bytes.fetch_add(out.len() as u64, Relaxed);
        self.asked.largest.fetch_max(out.len() as u64, Relaxed);
        let mut file = std::fs::File::open(&self.file)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        io::Read::read_exact(&mut file, out)
    }
}

fn add(files: Files, folder: &Path, below: &Path, asked: &Arc<Asked>) -> Files {
    std::fs::read_dir(folder.join(below)).unwrap().fold(files, |files, entry| {
        let path = below.join(entry.unwrap().file_name());
        let file = folder.join(&path);
        let metadata = std::fs::metadata(&file).unwrap();
        if metadata.is_dir() {
            return add(files, folder, &path, asked);
        }
        files.with(path, Served { file, len: metadata.len(), asked: asked.clone() })
    })
}

fn served(folder: &Path) -> (Files, Arc<Asked>) {
    let asked = Arc::default();
    (add(Files::new(), folder, Path::new(""), &asked), asked)
}

/// Every weight with its type, shape and bytes.
fn contents(mut loader: Box<dyn WeightLoader>) -> Vec<(String, String, Vec<u8>)> {
    let keys = loader.remaining_keys();
    let weight = |key: String| {
        let tensor = loader.take(&key).unwrap();
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_bytes(0, &mut bytes).unwrap();
        (key, format!("{tensor:?}"), bytes)
    };
    keys.into_iter().map(weight).collect()
}

#[test]
fn a_checkpoint_is_the_same_from_a_folder_and_from_files_that_are_served() {
    let folders = ["checkpoints/gemma1-mqa-bf16-sharded", "checkpoints/gemma3n", "checkpoints/embeddinggemma"];
    let multimodal = ["multimodal/gemma3-vision-bf16", "multimodal/gemma4-unified"];
    for name in folders.iter().chain(&multimodal) {
        let folder = data(name);
        let at = served(&folder).0.at("");
        assert_eq!(GemmaConfig::near_weights(&at).unwrap(), GemmaConfig::near_weights(&folder).unwrap(), "{name}");
        assert!(contents(load_from_path(&at).unwrap()) == contents(load_from_path(&folder).unwrap()), "{name}");
        if multimodal.contains(name) {
            assert!(contents(load_towers_from_path(&at).unwrap()) == contents(load_towers_from_path(&folder).unwrap()), "{name}");
        }
    }
    for (name, file) in [("gguf/gemma3-s-iq4_nl", "model.gguf"), ("gguf/gemma1-k-q4_k_m", "model.gguf")] {
        let folder = data(name);
        let at = served(&folder).0.at(file);
        let path = folder.join(file);
        assert_eq!(GemmaConfig::near_weights(&at).unwrap(), GemmaConfig::near_weights(&path).unwrap(), "{name}");
        assert!(contents(load_from_path(&at).unwrap()) == contents(load_from_path(&path).unwrap()), "{name}");
    }
    let folder = data("multimodal/gemma4-vision");
    let (at, path) = (served(&folder).0.at("mmproj.gguf"), folder.join("mmproj.gguf"));
    assert!(contents(load_towers_from_path(&at).unwrap()) == contents(load_towers_from_path(&path).unwrap()));
}

#[test]
fn adapters_are_served_too() {
    let config = GemmaConfig::near_weights(data("checkpoints/gemma2")).unwrap();
    let folder = data("adapters/gemma2-patterns");
    let targets = |path: ModelPath| -> Vec<String> { Lora::open(path, &config).unwrap().targets().map(str::to_string).collect() };
    assert_eq!(targets(served(&folder).0.at("")), targets(folder.into()));
}

#[test]
fn an_embedder_is_served_with_its_modules() {
    let folder = data("checkpoints/embeddinggemma");
    let vectors = |path: ModelPath| {
        let embedder = GemmaEmbedder::from_path(path, Device::Cpu).unwrap();
        assert!(embedder.prompts().prompt(&EmbeddingTask::Plain).unwrap().is_empty());
        embedder.embed(&[&[2, 17, 40, 9][..], &[2, 5]]).unwrap()
    };
    assert_eq!(vectors(served(&folder).0.at("")), vectors(folder.into()));
}

fn answer(model: &Model) -> String {
    let options = AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(24), ..AnswerOptions::default() };
    let mut conversation = model.conversation().unwrap().with_options(options);
    conversation.send("Who is there?").unwrap();
    conversation.finish(|_| std::ops::ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_model_reads_pieces_of_what_it_is_served() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let options = GeneratorOptions::default;
    let expected = answer(&Model::open(&folder, Device::Gpu, options()).unwrap());
    let (files, asked) = served(&folder);
    let at = files.at("");
    let model = Model::open(&at, Device::Gpu, options()).unwrap();
    assert_eq!(answer(&model), expected);
    let small = std::fs::metadata(folder.join("tokenizer.json")).unwrap().len();
    let largest = asked.largest.load(Relaxed);
    assert!(largest <= small.max(1 << 20), "{largest} bytes at once");

    // Weights are read anew, and an error of the source is the reader's, with the file's name.
    asked.broken.store(true, Relaxed);
    let error = model.recover(Device::Gpu).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("model.safetensors")), "{error}");
    assert!(error.to_string().contains("the line was cut"), "{error}");
    asked.broken.store(false, Relaxed);
    assert_eq!(answer(&model), expected, "the model is as it was");
    model.recover(Device::Gpu).unwrap();
    assert_eq!(answer(&model), expected);

    let absent = Model::open(Files::new().at("model.gguf"), Device::Cpu, options()).unwrap_err().to_string();
    assert!(absent.contains("model.gguf: not among the 0 files given"), "{absent}");
}
