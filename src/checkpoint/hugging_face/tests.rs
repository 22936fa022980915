use super::*;
use crate::error::WeightError;

use std::collections::HashMap;

use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    gemma::{GemmaConfig, WeightPosition},
    quant::DType,
};

const CHECKPOINTS: [&str; 13] = [
    "gemma1-mha",
    "gemma1-mqa-bf16-sharded",
    "gemma2",
    "gemma2-bf16-native",
    "gemma3-mm-bf16",
    "gemma3-text",
    "gemma3-untied-native",
    "gemma3n",
    "gemma4-dense",
    "gemma4-e2b",
    "gemma4-target",
    "gemma4-unified",
    "vaultgemma",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name)
}

#[test]
fn golden_checkpoints_hold_exactly_the_weights_of_their_configuration() {
    for name in CHECKPOINTS {
        let config = GemmaConfig::from_file(folder(name)).unwrap();
        let mut loader = SafetensorsLoader::open(folder(name)).unwrap();
        for position in config.weights() {
            let key = position.hugging_face(config.arch).unwrap();
            assert_eq!(loader.peek(&key).unwrap().shape, config.weight_shape(position), "{name} {key}");
            assert_eq!(WeightPosition::from_hugging_face(config.arch, &key), Some(position));
            loader.take(&key).unwrap();
        }
        // Checkpoints of Gemma 3n hold the keys and values of layers that have none, too.
        let shared = |key: &String| {
            let layer =
                (config.num_kv_layers()..config.num_hidden_layers).find(|i| key.starts_with(&format!("layers.{i}.self_attn.")));
            layer.is_some() && ["k_proj", "v_proj", "k_norm"].iter().any(|part| key.contains(part))
        };
        let left: Vec<String> = loader.remaining_keys().into_iter().filter(|key| !shared(key)).collect();
        assert_eq!(left, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn both_read_modes_give_the_bytes_that_the_reference_reader_gives() {
    for name in CHECKPOINTS {
        for mode in [ReadMode::Mapped, ReadMode::Positioned] {
            let mut loader = SafetensorsLoader::open_with(folder(name), mode).unwrap();
            for path in loader.files().to_vec() {
                let raw = std::fs::read(path).unwrap();
                for (full, view) in SafeTensors::deserialize(&raw).unwrap().iter() {
                    let Some(key) = text_weight(full) else { continue };
                    let tensor = loader.take(&key).unwrap();
                    let mut bytes = vec![0; tensor.byte_len()];
                    tensor.read_bytes(0, &mut bytes).unwrap();
                    assert!(bytes == view.data() && tensor.shape() == view.shape(), "{name} {full} {mode:?}");
                }
            }
            assert!(loader.is_empty(), "{name}: {:?}", loader.remaining_keys());
        }
    }
}

#[test]
fn files_are_found_and_images_left_out() {
    let mm = SafetensorsLoader::open(folder("gemma3-mm-bf16")).unwrap();
    let raw = std::fs::read(&mm.files()[0]).unwrap();
    assert!(SafeTensors::deserialize(&raw).unwrap().len() > mm.len());
    assert!(mm.remaining_keys().iter().all(|k| !k.contains("vision") && !k.contains("language_model")));
    let sharded = folder("gemma1-mqa-bf16-sharded");
    assert_eq!(SafetensorsLoader::open(sharded.join(INDEX)).unwrap().files().len(), 5);
    assert_eq!(load_keys(&sharded), load_keys(&sharded.join(INDEX)));
}

fn load_keys(path: &Path) -> Vec<String> {
    crate::checkpoint::load_from_path(path).unwrap().remaining_keys()
}

/// A file of F32 tensors `[2, 3]` with these names, written by the reference implementation.
fn file_of(names: &[&str]) -> Vec<u8> {
    let data: Vec<u8> = (0..24).collect();
    let views = names.iter().map(|n| (*n, TensorView::new(Dtype::F32, vec![2, 3], &data).unwrap()));
    ::safetensors::serialize(views, Some(HashMap::from([("format".to_string(), "pt".to_string())]))).unwrap()
}

/// A file with this header and this many bytes after it.
fn raw_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsLoader> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafetensorsLoader::open(&path)
}

fn problem(bytes: &[u8]) -> String {
    match open_bytes(bytes) {
        Err(Error::Format { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_prefix_comes_off() {
    for (prefix, head) in [
        ("model.", "lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("", "lm_head.weight"),
    ] {
        let embed = format!("{prefix}embed_tokens.weight");
        let norm = format!("{prefix}norm.weight");
        let loader = open_bytes(&file_of(&[&embed, &norm, head, "vision_tower.x", "model.embed_audio.y"])).unwrap();
        assert_eq!(loader.remaining_keys(), ["embed_tokens.weight", "lm_head.weight", "norm.weight"]);
    }
    assert!(problem(&file_of(&["model.norm.weight", "norm.weight"])).contains("already a weight 'norm.weight'"));
}

#[test]
fn truncated_files_say_how_much_is_missing() {
    let whole = file_of(&["a.weight", "b.weight"]);
    for missing in [1, 5, 47] {
        let text = problem(&whole[..whole.len() - missing]);
        assert!(text.contains(&format!("file is {missing} bytes short")), "{text}");
    }
    assert!(problem(&whole[..3]).contains("file is 5 bytes short"));
    assert!(problem(&whole[..20]).contains("bytes short"));
    assert!(problem(&[]).contains("file is 8 bytes short"));
    let long: Vec<u8> = whole.iter().copied().chain([0; 3]).collect();
    assert!(problem(&long).contains("3 bytes after the last tensor"));
}

#[test]
fn lying_headers_are_refused_by_tensor() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, expected) in [
        (one("F32", "[2]", "[0,4]"), "tensor 't' has 4 bytes, F32 [2] needs 8"),
        (one("F32", "[2]", "[8,0]"), "tensor 't'"),
        (one("F32", "[2]", "[4,12]"), "tensor 't' leaves a gap"),
        (one("F32", "[4294967296,4294967296]", "[0,8]"), "tensor 't' has a shape"),
        (one("F32", "[18446744073709551615,2]", "[0,8]"), "tensor 't' has a shape"),
        (one("F99", "[2]", "[0,8]"), "tensor 't': unknown variant"),
        (one("F32", "[-2]", "[0,8]"), "tensor 't'"),
        (one("F32", "[2305843009213693951]", "[0,9223372036854775804]"), "tensor 't' has"),
        (
            r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#
                .into(),
            "tensor 'u' overlaps",
        ),
        (
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#
                .into(),
            "tensor 't' twice",
        ),
        ("[]".into(), "header"),
        ("{".into(), "header"),
        ("{} x".into(), "header"),
        ("[".repeat(5000), "header"),
    ] {
        let text = problem(&raw_file(&header, 8));
        assert!(text.contains(expected), "{header:.100}: {text}");
    }
    let far = one("F32", "[36028797018963968]", "[0,144115188075855872]");
    assert!(problem(&raw_file(&far, 8)).contains("bytes short"));
    let mut huge = raw_file("{}", 0);
    huge[..8].copy_from_slice(&100_000_001u64.to_le_bytes());
    assert!(problem(&huge).contains("at most 100000000"));
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(problem(&huge).contains("is this a safetensors file"));
}

#[test]
fn too_many_tensors_are_refused_early() {
    let entries: Vec<String> =
        (0..100_001).map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    assert!(problem(&raw_file(&format!("{{{}}}", entries.join(",")), 0)).contains("more than 100000 tensors"));
    assert_eq!(open_bytes(&raw_file(&format!("{{{}}}", entries[1..].join(",")), 0)).unwrap().len(), 100_000);
}

#[test]
fn types_without_a_use_are_refused_when_taken() {
    let header =
        r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"w":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}}"#;
    let mut loader = open_bytes(&raw_file(header, 12)).unwrap();
    assert!(matches!(loader.take("ids"), Err(Error::Weight(WeightError::Type { found, .. })) if found == "I64"));
    assert_eq!(loader.take("w").unwrap().dtype(), DType::F16);
}

#[test]
fn an_index_must_agree_with_its_shards_and_stay_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.safetensors"), file_of(&["model.a.weight", "model.both.weight"])).unwrap();
    std::fs::write(folder.path().join("b.safetensors"), file_of(&["model.b.weight", "model.both.weight"])).unwrap();
    let open = |map: &str| {
        std::fs::write(folder.path().join(INDEX), format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
        SafetensorsLoader::open(folder.path())
    };
    let agreed = r#"{"model.a.weight":"a.safetensors","model.b.weight":"b.safetensors","model.both.weight":"b.safetensors"}"#;
    assert_eq!(open(agreed).unwrap().remaining_keys(), ["a.weight", "b.weight", "both.weight"]);
    let absent = open(r#"{"model.c.weight":"a.safetensors"}"#).unwrap_err().to_string();
    assert!(absent.contains("model.c.weight") && absent.contains("a.safetensors"), "{absent}");
    for outside in ["../a.safetensors", "/etc/passwd", "x/../../a.safetensors", "..", ".", ""] {
        let text = open(&format!(r#"{{"model.a.weight":"{outside}"}}"#)).unwrap_err().to_string();
        assert!(text.contains("without a folder"), "{outside}: {text}");
    }
    assert!(
        matches!(open(r#"{"model.a.weight":"gone.safetensors"}"#), Err(Error::Io { path, .. }) if path.ends_with("gone.safetensors"))
    );
    assert!(matches!(open("{}"), Err(Error::Format { .. })));
    assert!(matches!(open("[1]"), Err(Error::Format { .. })));
}

#[test]
fn other_paths_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(SafetensorsLoader::open(folder.path().join("none.safetensors")), Err(Error::Io { .. })));
    assert!(matches!(SafetensorsLoader::open(folder.path()), Err(Error::Format { .. })));
    std::fs::write(folder.path().join("x.gguf"), "GGUF").unwrap();
    let error = SafetensorsLoader::open(folder.path());
    assert!(matches!(error, Err(Error::Format { problem, .. }) if problem.contains("x.gguf; name that file")));
    std::fs::write(folder.path().join("x.safetensors"), file_of(&["a"])).unwrap();
    assert_eq!(load_keys(folder.path()), ["a"]);
    std::fs::write(folder.path().join("y.safetensors"), file_of(&["a"])).unwrap();
    let text = SafetensorsLoader::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("2 .safetensors files"), "{text}");
}

/// Marsaglia's xorshift64.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

// A file that the reference reader refuses is refused here, and the other way round, except for names given twice.
#[test]
fn thousands_of_damaged_files_bring_no_panic_and_the_verdict_of_the_reference_reader() {
    let whole = file_of(&["model.embed_tokens.weight", "model.norm.weight", "a"]);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(header);
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = b"0123456789[]{},:\""[random.below(17)],
                _ => bytes.swap(at, random.below(header)),
            }
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len() + 1));
        }
        let reference = SafeTensors::deserialize(&bytes).is_ok();
        match open_bytes(&bytes) {
            Ok(mut loader) => {
                accepted += 1;
                assert!(reference, "round {round}: only we accept {:?}", String::from_utf8_lossy(&bytes));
                for key in loader.remaining_keys() {
                    if let Ok(tensor) = loader.take(&key) {
                        tensor.read_bytes(0, &mut vec![0; tensor.byte_len()]).unwrap();
                    }
                }
            }
            Err(Error::Format { problem, .. }) => {
                let twice = problem.contains("twice") || problem.contains("already a weight");
                assert!(!reference || twice, "round {round}: only we refuse ({problem}) {:?}", String::from_utf8_lossy(&bytes));
            }
            Err(other) => panic!("round {round}: {other}"),
        }
    }
    assert!((20..2000).contains(&accepted), "{accepted} of 4000 accepted: the damage is too mild or too wild to say anything");
}
