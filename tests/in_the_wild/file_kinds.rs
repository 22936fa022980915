//! What a file is shows in its first bytes, whatever it is called.

use std::path::{Path, PathBuf};

use gemmaflow::{
    checkpoint::{GgufLoader, SafetensorsLoader, load_from_path},
    conversation::Model,
    gemma::GemmaConfig,
    generate::{GemmaGenerator, GeneratorOptions},
    runtime::Device,
    text::Tokenizer,
    weights::is_gguf,
};

use crate::common::{
    files::{Checkpoint, read_gguf},
    gguf::{GgufOracle, Writer},
    oracle::{Oracle, gate, worst},
};

/// As Ollama, ramalama and Docker keep them, as they are served in parts of one, and renamed.
const NAMES: [&str; 6] = ["sha256-6f1e2d", "model.Q4_K_M.gguf.part1of1", "model.bin", "model.safetensors", "model", "MODEL.GGUF"];

fn oracle() -> GgufOracle {
    GgufOracle::open("gemma2-s-q4_0-pure")
}

fn check(path: &Path, oracle: &GgufOracle) {
    let config = GemmaConfig::near_weights(path).unwrap();
    let gate = gate(config.arch);
    let mut generator = GemmaGenerator::from_path(config, path, Device::Cpu).unwrap();
    let logits = generator.recompute_all_logits(oracle.tokens("p7.input_ids")).unwrap();
    let error = worst(&logits, &oracle.f32("exact.p7.logits"));
    assert!(error < gate, "{}: {error}", path.display());
}

#[test]
fn a_gguf_file_is_one_under_any_name() {
    let oracle = oracle();
    for name in NAMES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::copy(&oracle.path, &path).unwrap();
        assert!(is_gguf(&path), "{name}");
        check(&path, &oracle);
        assert_eq!(Tokenizer::near_weights(&path).is_ok(), Tokenizer::from_gguf(&oracle.path).is_ok(), "{name}");
        if Tokenizer::from_gguf(&oracle.path).is_ok() {
            let model = Model::open(&path, Device::Cpu, GeneratorOptions::near_weights(&path).unwrap());
            assert!(model.is_ok(), "{name}: {:?}", model.err());
        }
    }
}

#[test]
fn safetensors_are_that_under_any_name() {
    let oracle = Oracle::open("gemma3-text");
    let written = Checkpoint::read(&oracle.folder).write();
    for name in ["weights.gguf", "sha256-77", "pytorch_model.bin"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(written.path().join("config.json"), folder.path().join("config.json")).unwrap();
        let path = folder.path().join(name);
        std::fs::copy(written.path().join("model.safetensors"), &path).unwrap();
        assert!(!is_gguf(&path), "{name}");
        let config = GemmaConfig::near_weights(&path).unwrap();
        let mut generator = GemmaGenerator::from_path(config, &path, Device::Cpu).unwrap();
        let logits = generator.recompute_all_logits(oracle.tokens("p7.input_ids")).unwrap();
        assert!(worst(&logits, &oracle.f32("p7.logits")) < oracle.gate(), "{name}");
    }
    let sharded = Oracle::open("gemma1-mqa-bf16-sharded");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&sharded.folder).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_str().unwrap().replace("model.safetensors.index.json", "index");
        std::fs::copy(&from, folder.path().join(name)).unwrap();
    }
    let found = load_from_path(folder.path().join("index")).unwrap().remaining_keys();
    assert_eq!(found, sharded.loader().remaining_keys(), "an index without .json");
}

/// The oracle's tensors in parts, the first with the metadata; `tensors_in_first` as llama-gguf-split writes, or as its
/// `--no-tensor-first-split` does.
fn parts(oracle: &GgufOracle, folder: &Path, names: [&str; 3], tensors_in_first: bool) -> [PathBuf; 3] {
    let whole = read_gguf(&oracle.path);
    let (count, piece) = (whole.tensors.len(), whole.tensors.len().div_ceil(if tensors_in_first { 3 } else { 2 }));
    let mut rest = whole.tensors.clone().into_iter();
    [0u16, 1, 2].map(|index| {
        let mut part = if index == 0 { whole.clone() } else { Writer { pairs: Vec::new(), ..whole.clone() } };
        part.tensors = if index == 0 && !tensors_in_first { Vec::new() } else { rest.by_ref().take(piece).collect() };
        let path = folder.join(names[usize::from(index)]);
        let part = part.pair("split.no", 2, index.to_le_bytes().to_vec()).pair("split.count", 2, 3u16.to_le_bytes().to_vec());
        part.pair("split.tensors.count", 5, (count as i32).to_le_bytes().to_vec()).write(&path);
        path
    })
}

#[test]
fn parts_are_found_under_any_name() {
    let oracle = oracle();
    for names in [
        ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"],
        ["m-00001-of-00003", "m-00002-of-00003", "m-00003-of-00003"],
        ["m.gguf-00001-of-00003.GGUF", "m.gguf-00002-of-00003.GGUF", "m.gguf-00003-of-00003.GGUF"],
        ["sha256-c", "sha256-a", "sha256-b"],
    ] {
        for tensors_in_first in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let paths = parts(&oracle, folder.path(), names, tensors_in_first);
            // Another model beside them is none of theirs.
            std::fs::copy(&oracle.path, folder.path().join("sha256-other")).unwrap();
            if tensors_in_first {
                check(&paths[0], &oracle);
            }
            let mut whole = load_from_path(&oracle.path).unwrap().remaining_keys();
            whole.sort();
            assert_eq!(load_from_path(&paths[0]).unwrap().remaining_keys(), whole, "{names:?}");
            let text = load_from_path(&paths[1]).err().unwrap().to_string();
            assert!(text.contains("part 2 of 3; open "), "{text}");
            std::fs::copy(&paths[2], folder.path().join("sha256-twice")).unwrap();
            std::fs::remove_file(&paths[1]).unwrap();
            assert!(load_from_path(&paths[0]).is_err(), "{names:?}: a part is gone");
        }
    }
}

#[test]
fn other_kinds_of_files_are_refused_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let big_endian = [&b"GGUF"[..], &3u32.to_be_bytes(), &[0; 64]].concat();
    let whole = std::fs::read(oracle().path).unwrap();
    let cases: [(&str, &[u8], &str); 13] = [
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:77\nsize 5\n", "Git LFS pointer"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:77\nsize 5\n", "Git LFS pointer"),
        ("a.gguf", b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        ("pytorch_model.bin", b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl", "zip archive"),
        ("old.bin", b"tjgg\x03\x00\x00\x00\x00\x00\x00\x00", "before GGUF"),
        ("model.tflite", b"\x1c\x00\x00\x00TFL3\x00\x00\x00\x00", "LiteRT"),
        ("a.gguf.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00", "gzip"),
        ("a.gguf", &big_endian, "big-endian"),
        ("a.bin", &big_endian, "big-endian"),
        ("a.safetensors", &[0; 4096], "full of zeros"),
        ("a.gguf", b"", "bytes short"),
        ("a.gguf.part1of2", &whole[..whole.len() / 2], "piece 1 of 2"),
        ("a.gguf.part2of2", &whole[whole.len() / 2..], "piece 2 of 2"),
    ];
    for (name, bytes, says) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = load_from_path(&path).err().unwrap().to_string();
        assert!(text.contains(says) && text.contains(name), "{name}: {text}, expected {says}");
        std::fs::remove_file(&path).unwrap();
    }
    let text = SafetensorsLoader::open(oracle().path).unwrap_err().to_string();
    assert!(text.contains("a GGUF file"), "{text}");
    let text = GgufLoader::from_file(Oracle::open("gemma2").folder.join("model.safetensors")).unwrap_err().to_string();
    assert!(text.contains("GGUF"), "{text}");
}

#[test]
fn files_that_go_with_a_model_are_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |writer: Writer| {
        let path = folder.path().join("model.gguf");
        writer.write(&path);
        GemmaConfig::near_weights(&path).unwrap_err().to_string()
    };
    let text = refused(Writer::new("clip").text("general.type", "mmproj"));
    assert!(text.contains("mmproj") && text.contains("text model's own file"), "{text}");
    let mut matrix = Writer::new("none").text("general.type", "imatrix");
    matrix.pairs.retain(|(key, ..)| key != "general.architecture");
    let text = refused(matrix);
    assert!(text.contains("importance matrix"), "{text}");
}
