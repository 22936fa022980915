//! Files of a model that change while it is used: an error that says so, or undisturbed results, never the end of the
//! process. Each test does its work in a process of its own, whose end by a signal it would notice.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use gemmaflow::{
    Error, Result,
    conversation::{AnswerOptions, Model},
    embed::GemmaEmbedder,
    generate::{Drafter, GemmaGenerator, GeneratorOptions, SampleOpts, TablePlacement},
    runtime::{Device, UploadPhase},
};

use super::common::{
    gguf::GgufOracle,
    oracle::{Oracle, data, worst},
};

/// Set for the process that does the work.
const ALONE: &str = "GEMMAFLOW_TEST_ALONE";

/// Runs `work` of the test `name` in a process of its own.
fn alone(name: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let test = std::env::current_exe().expect("this program");
    let name = format!("changed_files::{name}");
    let output = Command::new(test).args([&name, "--exact", "--nocapture"]).env(ALONE, "1").output().expect("started");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Cut,
    Emptied,
    WrittenOver,
    Grown,
    Replaced,
    Removed,
}

impl Harm {
    const ALL: [Harm; 6] = [Harm::Cut, Harm::Emptied, Harm::WrittenOver, Harm::Grown, Harm::Replaced, Harm::Removed];

    /// Whether the bytes that were opened are still there: what has the file open goes on with them.
    fn is_harmless(self) -> bool {
        matches!(self, Harm::Replaced | Harm::Removed)
    }

    fn happen(self, path: &Path) {
        let open = || OpenOptions::new().write(true).open(path).unwrap();
        let len = fs::metadata(path).unwrap().len();
        match self {
            Harm::Cut => open().set_len(len / 2).unwrap(),
            Harm::Emptied => open().set_len(0).unwrap(),
            Harm::WrittenOver => open().write_all(&vec![0x3c; len as usize]).unwrap(),
            Harm::Grown => open().set_len(len + 4096).unwrap(),
            Harm::Replaced => {
                let beside = path.with_extension("new");
                fs::write(&beside, vec![0x3c; len as usize]).unwrap();
                fs::rename(beside, path).unwrap();
            }
            Harm::Removed => fs::remove_file(path).unwrap(),
        }
    }

    /// Checks what came of a use after the harm.
    fn check(self, what: &str, found: Result<Vec<f32>>, before: &[f32], path: &Path) {
        match found {
            Ok(found) => assert!(self.is_harmless() && found == before, "{what}, {self:?}: other numbers without a word"),
            Err(Error::FileChanged { path: said, .. }) => {
                assert!(!self.is_harmless() && said == path, "{what}, {self:?}: {}", said.display());
            }
            Err(error) => panic!("{what}, {self:?}: {error}"),
        }
    }
}

/// A copy of a folder's files, or of one file.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let folder = if from.is_dir() { from } else { from.parent().unwrap() };
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && (from.is_dir() || path == from) {
            fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

/// The checkpoint, what is opened of it, the files that may change, and the prompt.
fn models() -> Vec<(String, PathBuf, Vec<&'static str>, Vec<u32>)> {
    let checkpoint = |name: &str, files| {
        let oracle = Oracle::open(name);
        (name.to_string(), oracle.folder.clone(), files, oracle.tokens("p7.input_ids"))
    };
    let gguf = GgufOracle::open("gemma2-s-q4_0-pure");
    let tokens = gguf.tokens("p7.input_ids");
    let shards = fs::read_dir(data("checkpoints/gemma1-mqa-bf16-sharded")).unwrap().map(|entry| entry.unwrap().file_name());
    let shards: Vec<String> =
        shards.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("model-")).collect();
    let last: &'static str = Box::leak(shards.into_iter().max().expect("shards").into_boxed_str());
    vec![
        checkpoint("gemma3-text", vec!["model.safetensors"]),
        checkpoint("gemma1-mqa-bf16-sharded", vec![last]),
        (gguf.name.clone(), gguf.path.clone(), vec!["model.gguf"], tokens),
    ]
}

/// What is opened in a copy of `path`.
fn opened(copy: &Path, path: &Path) -> PathBuf {
    if path.is_dir() { copy.to_path_buf() } else { copy.join(path.file_name().unwrap()) }
}

#[test]
fn the_reference_reads_while_it_runs() {
    alone("the_reference_reads_while_it_runs", || {
        for (name, path, files, tokens) in models() {
            for (file, harm) in files.iter().flat_map(|file| Harm::ALL.map(|harm| (file, harm))) {
                let folder = copy(&path);
                let mut generator = load(&opened(folder.path(), &path), Device::Cpu, GeneratorOptions::default()).unwrap();
                let before = generator.all_logits(&tokens).unwrap();
                harm.happen(&folder.path().join(file));
                let found = generator.all_logits(&tokens);
                harm.check(&name, found, &before, &folder.path().join(file));
                // Its tokens are as they were.
                assert_eq!(generator.tokens(), tokens);
            }
        }
    });
}

#[test]
fn a_device_has_all_it_needs_once_it_is_loaded() {
    alone("a_device_has_all_it_needs_once_it_is_loaded", || {
        for (name, path, files, tokens) in models() {
            for harm in Harm::ALL {
                let folder = copy(&path);
                let mut generator = load(&opened(folder.path(), &path), Device::Gpu, GeneratorOptions::default()).unwrap();
                let before = generator.all_logits(&tokens).unwrap();
                harm.happen(&folder.path().join(files[0]));
                assert_eq!(generator.all_logits(&tokens).unwrap(), before, "{name}, {harm:?}");
            }
        }
    });
}

#[test]
fn an_upload_that_meets_another_file_ends() {
    alone("an_upload_that_meets_another_file_ends", || {
        for (name, path, files, tokens) in models() {
            let whole = load(&path, Device::Gpu, GeneratorOptions::default()).unwrap().all_logits(&tokens).unwrap();
            for harm in Harm::ALL {
                let folder = copy(&path);
                let file = folder.path().join(files[0]);
                let (harmed, mut done) = (file.clone(), false);
                let on_progress = move |progress: gemmaflow::runtime::UploadProgress| {
                    if progress.phase == UploadPhase::Reserving && !std::mem::replace(&mut done, true) {
                        harm.happen(&harmed);
                    }
                    true
                };
                let options = GeneratorOptions { on_progress: Some(Box::new(on_progress)), ..GeneratorOptions::default() };
                let loaded = load(&opened(folder.path(), &path), Device::Gpu, options);
                let found = loaded.and_then(|mut generator| generator.all_logits(&tokens));
                harm.check(&name, found, &whole, &file);
            }
        }
    });
}

fn load(path: &Path, device: Device, options: GeneratorOptions) -> Result<GemmaGenerator> {
    let config = gemmaflow::gemma::GemmaConfig::near_weights(path)?;
    let mut loader = gemmaflow::checkpoint::load_from_path(path)?;
    GemmaGenerator::with_options(config, loader.as_mut(), device, options)
}

#[test]
fn tables_on_the_host_are_read_with_every_token() {
    alone("tables_on_the_host_are_read_with_every_token", || {
        let oracle = Oracle::open("gemma4-e2b");
        let tokens = oracle.tokens("p7.input_ids");
        for (device, harm) in [Device::Gpu, Device::Cpu].iter().flat_map(|device| Harm::ALL.map(|harm| (device, harm))) {
            let folder = copy(&oracle.folder);
            let options = GeneratorOptions { per_layer_tables: TablePlacement::Host, ..GeneratorOptions::default() };
            let mut generator = load(folder.path(), device.clone(), options).unwrap();
            generator.prefill_get_last_logits(&tokens).unwrap();
            // As below: a run of the last token alone, whose sums have another order.
            let before = generator.prefill_get_last_logits(&tokens).unwrap();
            let file = folder.path().join("model.safetensors");
            harm.happen(&file);
            let found = generator.prefill_get_last_logits(&tokens);
            harm.check("tables on the host", found, &before, &file);
            let stepped = generator.step_cached(&SampleOpts::greedy());
            assert_eq!(stepped.is_ok(), harm.is_harmless(), "{device:?}, {harm:?}: {stepped:?}");
        }
    });
}

#[test]
fn a_recovery_reads_the_files_again() {
    alone("a_recovery_reads_the_files_again", || {
        for harm in Harm::ALL {
            let folder = copy(&demo());
            let model = Model::open(folder.path(), Device::Gpu, GeneratorOptions::default()).unwrap();
            let say = || {
                let options = AnswerOptions { sampling: SampleOpts::greedy(), max_tokens: Some(4), ..AnswerOptions::default() };
                let mut conversation = model.conversation().unwrap().with_options(options);
                conversation.write("ROMEO:").unwrap();
                conversation.answer().unwrap();
                conversation.finish(|_| std::ops::ControlFlow::Continue(())).unwrap()
            };
            let before = say();
            harm.happen(&folder.path().join("model.safetensors"));
            match model.recover(Device::Gpu) {
                Ok(()) => assert!(harm.is_harmless(), "{harm:?}"),
                Err(error) => assert!(matches!(error, Error::FileChanged { .. }) && !harm.is_harmless(), "{harm:?}: {error}"),
            }
            assert_eq!(say(), before, "{harm:?}: recovered, or as it was");
        }
    });
}

#[test]
fn an_embedder_reads_as_a_generator_does() {
    alone("an_embedder_reads_as_a_generator_does", || {
        let oracle = Oracle::open("embeddinggemma");
        let tokens = [oracle.tokens("p7.input_ids")];
        for (device, harm) in [Device::Gpu, Device::Cpu].iter().flat_map(|device| Harm::ALL.map(|harm| (device, harm))) {
            let folder = copy_deep(&oracle.folder);
            let embedder = GemmaEmbedder::from_path(folder.path(), device.clone()).unwrap();
            let before = embedder.embed(&tokens).unwrap().concat();
            let file = folder.path().join("model.safetensors");
            harm.happen(&file);
            let found = embedder.embed(&tokens).map(|vectors| vectors.concat());
            match device {
                Device::Gpu => assert_eq!(found.unwrap(), before, "{harm:?}"),
                _ => harm.check("an embedder", found, &before, &file),
            }
        }
    });
}

/// As [`copy`], with the folders in it.
fn copy_deep(from: &Path) -> tempfile::TempDir {
    let to = copy(from);
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inner = to.path().join(path.file_name().unwrap());
            fs::create_dir(&inner).unwrap();
            for file in fs::read_dir(&path).unwrap() {
                let file = file.unwrap().path();
                fs::copy(&file, inner.join(file.file_name().unwrap())).unwrap();
            }
        }
    }
    to
}

#[test]
fn a_drafter_reads_as_its_target_does() {
    alone("a_drafter_reads_as_its_target_does", || {
        let target = Oracle::open("gemma4-target");
        let prompt = Oracle::open_drafter("gemma4-assistant").tokens("p7.input_ids");
        for harm in Harm::ALL {
            let folder = copy(&data("checkpoints/gemma4-assistant"));
            let drafter = Drafter::from_path(folder.path()).unwrap();
            let generator = GemmaGenerator::from_loader(target.config.clone(), target.loader().as_mut(), Device::Cpu).unwrap();
            let mut generator = generator.with_drafter(drafter).unwrap();
            generator.prefill(&prompt).unwrap();
            generator.step_cached(&SampleOpts::greedy()).unwrap();
            let drafts = |generator: &mut GemmaGenerator| {
                generator.draft(4).map(|tokens| tokens.into_iter().map(|token| token as f32).collect::<Vec<_>>())
            };
            let before = drafts(&mut generator).unwrap();
            assert_eq!(before.len(), 4);
            let file = folder.path().join("model.safetensors");
            harm.happen(&file);
            harm.check("a drafter", drafts(&mut generator), &before, &file);
        }
    });
}

/// Numbers that came before a harm are right: the comparisons above compare with something.
#[test]
fn an_undisturbed_copy_gives_the_numbers_of_transformers() {
    let oracle = Oracle::open("gemma3-text");
    let folder = copy(&oracle.folder);
    let mut generator = load(folder.path(), Device::Cpu, GeneratorOptions::default()).unwrap();
    let found = generator.all_logits(oracle.tokens("p7.input_ids")).unwrap();
    assert!(worst(&found, &oracle.f32("p7.logits")) < oracle.gate());
}
