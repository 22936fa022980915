use std::{io, path::Path, sync::Arc};

use super::{Files, ModelPath, Opened, ReadAt};

fn names(entries: Vec<ModelPath>) -> Vec<String> {
    let mut names: Vec<String> = entries.iter().map(|path| path.display().to_string().replace('\\', "/")).collect();
    names.sort();
    names
}

fn three() -> ModelPath {
    let files = Files::new().with("m/config.json", b"{}".to_vec()).with("m/2_Dense/model.safetensors", vec![7; 10]);
    files.with("m/model.GGUF", b"GGUF and more".to_vec()).at("m")
}

/// The same files in the file system and as an application gives them.
fn both() -> (tempfile::TempDir, [ModelPath; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let m = folder.path().join("m");
    std::fs::create_dir_all(m.join("2_Dense")).unwrap();
    std::fs::write(m.join("config.json"), "{}").unwrap();
    std::fs::write(m.join("2_Dense/model.safetensors"), [7; 10]).unwrap();
    std::fs::write(m.join("model.GGUF"), "GGUF and more").unwrap();
    (folder, [ModelPath::from(m), three()])
}

#[test]
fn given_files_answer_as_those_of_the_system_do() {
    let (_folder, both) = both();
    for m in &both {
        assert!(m.is_dir() && !m.is_file() && m.try_exists().unwrap(), "{m:?}");
        let config = m.join("config.json");
        assert!(config.is_file() && !config.is_dir() && config.try_exists().unwrap());
        assert_eq!((config.len().unwrap(), config.read().unwrap()), (2, b"{}".to_vec()));
        assert_eq!(config.folder().as_path(), m.as_path());
        assert_eq!(config.with_file_name("model.GGUF").first_bytes(4).unwrap().unwrap(), b"GGUF");
        assert_eq!(config.first_bytes(4).unwrap().unwrap(), b"{}");
        assert!(m.join("model.GGUF").has_extension("gguf") && !config.has_extension("gguf"));
        assert_eq!(config.file_name(), Some("config.json"));
        let begin = m.display().to_string().replace('\\', "/");
        let expected = ["2_Dense", "config.json", "model.GGUF"].map(|name| format!("{begin}/{name}"));
        assert_eq!(names(m.entries().unwrap()), expected);
        assert_eq!(m.join("2_Dense").entries().unwrap().len(), 1);

        let absent = m.join("tokenizer.json");
        assert!(!absent.is_file() && !absent.try_exists().unwrap());
        for error in [absent.read().unwrap_err(), absent.len().unwrap_err(), absent.open().err().unwrap()] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        assert!(config.open().unwrap().is_some());
    }
    assert!(both[0].open().unwrap().is_none(), "a folder is no regular file");
    let error = three().join("a.json").read().unwrap_err().to_string();
    assert_eq!(error, "not among the 3 files given (m/2_Dense/model.safetensors, m/config.json, m/model.GGUF)");
}

#[test]
fn the_folder_of_all_has_no_name() {
    let root = Files::new().with("model.gguf", vec![1]).with("mmproj.gguf", vec![2]).at("");
    assert!(root.is_dir());
    assert_eq!(names(root.entries().unwrap()), ["mmproj.gguf", "model.gguf"]);
    let model = root.join("model.gguf");
    assert_eq!(model.folder().as_path(), Path::new(""));
    assert_eq!(names(model.folder().entries().unwrap()), ["mmproj.gguf", "model.gguf"]);
    assert!(!Files::new().at("").is_dir());
    assert!(Files::new().with("./config.json", vec![1]).at("./").join("config.json").is_file());
}

/// A file that cannot be read twice.
struct Once(Arc<std::sync::atomic::AtomicBool>);

impl ReadAt for Once {
    fn len(&self) -> u64 {
        8
    }

    fn read_exact_at(&self, _: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("the line was cut"));
        }
        out.fill(3);
        Ok(())
    }
}

#[test]
fn what_a_file_says_reaches_its_reader() {
    let path = Files::new().with("a", Once(Arc::default())).at("a");
    let Some(Opened::Given(file)) = path.open().unwrap() else { panic!("a given file") };
    assert!(!file.is_empty() && file.bytes().is_none());
    assert_eq!(path.read().unwrap(), [3; 8]);
    assert_eq!(path.read().unwrap_err().to_string(), "the line was cut");
    let bytes = vec![1, 2, 3];
    let mut out = [0; 2];
    ReadAt::read_exact_at(&bytes, 1, &mut out).unwrap();
    assert_eq!(out, [2, 3]);
    for offset in [2, 3, u64::MAX] {
        let error = ReadAt::read_exact_at(&bytes, offset, &mut out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
